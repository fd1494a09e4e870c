//! A model file in the making, which survives interruption: [`Partial`].
//!
//! Beside the bytes lies a small JSON state: where they come from, and the segments that were finished and
//! synced, each with its length and digest. Opening a partial file again hashes those segments and keeps the
//! leading ones that are still as they were; whatever else is in the file is cut off. So a crash, a torn write
//! or a meddled state costs at most some fetching, never a wrong file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Sha256;
use crate::digest::Hasher;
use crate::error::{Damage, DiskError, SourceError};
use crate::place::{Lock, Place, create_parent};
use crate::progress::Counter;

const STATE_VERSION: u32 = 1;
/// A state file of more bytes than this is not ours.
const STATE_BYTES_MAX: u64 = 16 << 20;
const READ_BUFFER_BYTES: usize = 1 << 20;

/// A finished piece of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Segment {
    bytes: u64,
    sha256: Sha256,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    origin: String,
    segments: Vec<Segment>,
}

impl State {
    fn new(origin: &str) -> Self {
        State { version: STATE_VERSION, origin: origin.to_owned(), segments: Vec::new() }
    }

    /// None if there is none, or none that can be understood: then nothing is proved.
    fn read(path: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(STATE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|state: &State| state.version == STATE_VERSION)
    }

    fn write(&self, path: &Path) -> Result<(), DiskError> {
        let json = serde_json::to_vec(self).map_err(io::Error::from);
        json.and_then(|json| write_atomically(path, &json)).map_err(DiskError::of("write", path))
    }
}

/// Where the bytes of an interrupted fetch come from, if there are any.
pub(crate) fn interrupted_origin(place: &Place) -> Option<String> {
    State::read(&place.state()).filter(|state| !state.segments.is_empty()).map(|state| state.origin)
}

/// A model file that is being put together. Not for async threads: its methods read, write and sync.
pub(crate) struct Partial {
    place: Place,
    state: State,
    file: File,
    /// Bytes in finished segments.
    proved: u64,
    /// Bytes after them.
    open: u64,
    open_hasher: Hasher,
    bytes_max: u64,
    counter: Counter,
    // Held as long as anything may write, even if the future that took it is gone.
    _lock: Arc<Lock>,
}

/// What [`Partial::open`] wants to know.
pub(crate) struct OpenPartial {
    pub(crate) place: Place,
    /// Names the source and its version; bytes of another origin are dropped.
    pub(crate) origin: String,
    /// The file never gets more bytes than this.
    pub(crate) bytes_max: u64,
    /// Told about the length.
    pub(crate) counter: Counter,
    pub(crate) lock: Arc<Lock>,
}

impl Partial {
    /// Opens the partial file of a place, new or with what can be proved of an earlier one.
    pub(crate) fn open(wanted: OpenPartial) -> Result<Self, DiskError> {
        let OpenPartial { place, origin, bytes_max, counter, lock } = wanted;
        let path = place.partial();
        create_parent(&path)?;
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(DiskError::of("open", &path))?;
        let state = State::read(&place.state()).filter(|state| state.origin == origin);
        let state = state.unwrap_or_else(|| State::new(&origin));
        let mut partial = Partial {
            place,
            state,
            file,
            proved: 0,
            open: 0,
            open_hasher: Hasher::default(),
            bytes_max,
            counter,
            _lock: lock,
        };
        partial.prove()?;
        Ok(partial)
    }

    /// Keeps the leading segments that are as recorded.
    fn prove(&mut self) -> Result<(), DiskError> {
        let path = self.place.partial();
        let failed = || DiskError::of("read", &path);
        let mut left = self.file.metadata().map_err(failed())?.len().min(self.bytes_max);
        self.file.seek(SeekFrom::Start(0)).map_err(failed())?;
        let mut kept = 0;
        for segment in &self.state.segments {
            if segment.bytes > left
                || Sha256::of_reader((&mut self.file).take(segment.bytes)).map_err(failed())?
                    != segment.sha256
            {
                break;
            }
            left -= segment.bytes;
            self.proved += segment.bytes;
            self.counter.set(self.proved);
            kept += 1;
        }
        self.state.segments.truncate(kept);
        self.rollback()?;
        self.state.write(&self.place.state())
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.proved + self.open
    }

    /// How many more bytes it may get.
    pub(crate) fn room(&self) -> u64 {
        self.bytes_max - self.len()
    }

    /// How many segments are finished.
    pub(crate) fn segments(&self) -> usize {
        self.state.segments.len()
    }

    /// Bytes that the next [`Partial::checkpoint`] would finish.
    pub(crate) fn unfinished(&self) -> u64 {
        self.open
    }

    /// Adds bytes at the end.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        if bytes.len() as u64 > self.room() {
            let damage = Damage::Size { found: self.len() + bytes.len() as u64, expected: self.bytes_max };
            return Err(SourceError::WrongFile { model: self.place.model.clone(), damage });
        }
        self.file.write_all(bytes).map_err(DiskError::of("write", &self.place.partial()))?;
        self.open_hasher.update(bytes);
        self.open += bytes.len() as u64;
        self.counter.raise(self.len());
        Ok(())
    }

    /// Finishes a segment: what was added since the last is on the disk and recorded when this returns.
    pub(crate) fn checkpoint(&mut self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(DiskError::of("sync", &self.place.partial()))?;
        let sha256 = std::mem::take(&mut self.open_hasher).finish();
        self.state.segments.push(Segment { bytes: self.open, sha256 });
        self.proved += self.open;
        self.open = 0;
        self.state.write(&self.place.state())
    }

    /// Drops what was added since the last segment was finished.
    pub(crate) fn rollback(&mut self) -> Result<(), DiskError> {
        let path = self.place.partial();
        self.file.set_len(self.proved).map_err(DiskError::of("truncate", &path))?;
        self.file.seek(SeekFrom::Start(self.proved)).map_err(DiskError::of("read", &path))?;
        self.open_hasher = Hasher::default();
        self.open = 0;
        self.counter.set(self.proved);
        Ok(())
    }

    /// Drops everything.
    pub(crate) fn restart(&mut self) -> Result<(), DiskError> {
        self.state.segments.clear();
        self.proved = 0;
        self.state.write(&self.place.state())?;
        self.rollback()
    }

    /// Hashes the whole file as the disk has it.
    pub(crate) fn digest(&self, counter: &Counter) -> Result<Sha256, DiskError> {
        self.file.sync_all().map_err(DiskError::of("sync", &self.place.partial()))?;
        file_digest(&self.place.partial(), counter).map(|(_, digest)| digest)
    }

    /// Gives the file its final name. The caller has checked its digest.
    pub(crate) fn install(self, sha256: Sha256) -> Result<PathBuf, DiskError> {
        let Place { installed, .. } = &self.place;
        create_parent(installed)?;
        let note = note_path(installed);
        let name = installed.file_name().unwrap_or_default().to_string_lossy();
        // The form that `sha256sum --check` reads.
        write_atomically(&note, format!("{sha256}  {name}\n").as_bytes())
            .map_err(DiskError::of("write", &note))?;
        fs::rename(self.place.partial(), installed).map_err(DiskError::of("rename to", installed))?;
        sync_parent(installed).map_err(DiskError::of("sync the folder of", installed))?;
        remove_if_there(&self.place.state())?;
        Ok(installed.clone())
    }

    /// Deletes the file and its state.
    pub(crate) fn discard(self) -> Result<(), DiskError> {
        remove_if_there(&self.place.state())?;
        remove_if_there(&self.place.partial())
    }
}

/// The file beside an installed model that records its digest.
pub(crate) fn note_path(installed: &Path) -> PathBuf {
    let mut name = installed.to_owned().into_os_string();
    name.push(".sha256");
    name.into()
}

/// The digest recorded beside an installed model, if there is one that can be read.
pub(crate) fn noted_digest(installed: &Path) -> Option<Sha256> {
    let mut text = String::new();
    File::open(note_path(installed)).ok()?.take(STATE_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Length and digest of a file.
pub(crate) fn file_digest(path: &Path, counter: &Counter) -> Result<(u64, Sha256), DiskError> {
    let mut file = File::open(path).map_err(DiskError::of("open", path))?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(DiskError::of("read", path))?;
        if read == 0 {
            return Ok((bytes, hasher.finish()));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
        counter.set(bytes);
    }
}

/// The digest of the next `bytes` bytes, or of fewer at the end of the file.
fn remove_if_there(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::of("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Old content or new, whatever happens in between.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes a rename durable. Only Unix lets a folder be opened for that.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES_MAX: u64 = 1000;

    fn place(folder: &Path) -> Place {
        Place::new(folder, Path::new("m.gguf"), "m".to_owned())
    }

    fn open_as(folder: &Path, origin: &str) -> Partial {
        let place = place(folder);
        let lock = Arc::new(Lock::try_take(&place).unwrap().expect("nobody else has it"));
        let origin = origin.to_owned();
        Partial::open(OpenPartial { place, origin, bytes_max: BYTES_MAX, counter: Counter::default(), lock })
            .unwrap()
    }

    #[test]
    fn an_interrupted_file_keeps_its_finished_segments_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut partial = open_as(folder.path(), "here");
        partial.append(b"one").unwrap();
        partial.checkpoint().unwrap();
        partial.append(b"two").unwrap();
        partial.checkpoint().unwrap();
        partial.append(b"lost").unwrap();
        assert_eq!((partial.len(), partial.unfinished(), partial.room()), (10, 4, 990));
        drop(partial);
        let mut partial = open_as(folder.path(), "here");
        assert_eq!((partial.len(), partial.segments()), (6, 2));
        partial.append(b"three").unwrap();
        let digest = partial.digest(&Counter::default()).unwrap();
        assert_eq!(digest, Sha256::of(b"onetwothree"));
        let installed = partial.install(digest).unwrap();
        assert_eq!(fs::read(&installed).unwrap(), b"onetwothree");
        assert_eq!(noted_digest(&installed), Some(digest));
        assert!(!place(folder.path()).partial().exists() && !place(folder.path()).state().exists());
    }

    #[test]
    fn another_origin_starts_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut partial = open_as(folder.path(), "here");
        partial.append(b"one").unwrap();
        partial.checkpoint().unwrap();
        drop(partial);
        assert_eq!(interrupted_origin(&place(folder.path())).as_deref(), Some("here"));
        assert_eq!(open_as(folder.path(), "there").len(), 0);
        assert_eq!(open_as(folder.path(), "here").len(), 0);
    }

    #[test]
    fn never_more_bytes_than_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let mut partial = open_as(folder.path(), "here");
        partial.append(&[0; 999]).unwrap();
        let error = partial.append(&[0; 2]).unwrap_err();
        assert!(error.to_string().contains("it has 1001 bytes, not 1000"), "{error}");
        assert_eq!(partial.len(), 999);
    }

    /// What a crash or a meddler may do between two runs.
    #[derive(Clone, Debug)]
    enum Harm {
        Flip(usize),
        Cut(u64),
        Grow(Vec<u8>),
        CutState(u64),
        FlipState(usize),
        RemoveState,
    }

    fn harm() -> impl Strategy<Value = Harm> {
        prop_oneof![
            (0..400_usize).prop_map(Harm::Flip),
            (0..400_u64).prop_map(Harm::Cut),
            prop::collection::vec(any::<u8>(), 1..900).prop_map(Harm::Grow),
            (0..400_u64).prop_map(Harm::CutState),
            (0..400_usize).prop_map(Harm::FlipState),
            Just(Harm::RemoveState),
        ]
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
        fs::write(path, bytes).unwrap();
    }

    fn cut(path: &Path, len: u64) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(len.min(file.metadata().unwrap().len())).unwrap();
    }

    fn inflict(harm: &Harm, place: &Place) {
        match harm {
            Harm::Flip(at) => flip(&place.partial(), *at),
            Harm::Cut(len) => cut(&place.partial(), *len),
            Harm::Grow(tail) => {
                OpenOptions::new().append(true).open(place.partial()).unwrap().write_all(tail).unwrap();
            }
            Harm::CutState(len) => cut(&place.state(), *len),
            Harm::FlipState(at) => flip(&place.state(), *at),
            Harm::RemoveState => fs::remove_file(place.state()).unwrap(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever happened to the files, what is kept is a prefix of the true bytes.
        #[test]
        fn what_is_kept_is_true(
            segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..5),
            harms in prop::collection::vec(harm(), 0..3),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut partial = open_as(folder.path(), "here");
            for segment in &segments {
                partial.append(segment).unwrap();
                partial.checkpoint().unwrap();
            }
            drop(partial);
            for harm in &harms {
                if place(folder.path()).state().exists() {
                    inflict(harm, &place(folder.path()));
                }
            }
            let partial = open_as(folder.path(), "here");
            let kept = fs::read(place(folder.path()).partial()).unwrap();
            prop_assert_eq!(kept.len() as u64, partial.len());
            prop_assert!(segments.concat().starts_with(&kept));
            prop_assert!(!harms.is_empty() || partial.segments() == segments.len());
        }
    }
}
