//! The cache's folder: names, use, room, and files that others may be writing or using at this moment.
//!
//! - `KEY-panelsN.packed`: packed weights, complete since they have this name; the key is the digest of the model
//!   file, or made of it. Whoever uses one holds a shared lock on it; only what nobody uses is removed to make room.
//! - `PATH.source`: the digest of the model file at a path, rewritten on every use; so its modification
//!   time is the last use, without a clock. `KEY.source` tells the same of a key that is made of a digest.
//! - `PID-RANDOM.writing`: being written, under an exclusive lock; without one its writer is dead.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kernels::mapped::Mapped;
use kernels::panels::LAYOUT_VERSION;
use kernels::pool::Pool;

use super::PackedCache;
use super::error::{PackedError, io_error};
use super::source::{Digest, Stamp, recorded};

const PACKED: &str = "packed";
const RECORD: &str = "source";
const WRITING: &str = "writing";
/// Records kept, at most: of the paths used last.
const RECORDS_MAX: usize = 256;
/// Bytes of a record that are read; none is as long.
const RECORD_BYTES_MAX: u64 = 1 << 10;
/// Tries to make a temporary file.
const ATTEMPTS_MAX: u32 = 16;

/// The folder, as one process sees it.
#[derive(Debug)]
pub(super) struct Folder<'a> {
    cache: &'a PackedCache,
}

/// A file in the folder that ends in `.packed` or `.source`.
struct Entry {
    path: PathBuf,
    /// The name without its ending.
    stem: String,
    bytes: u64,
    modified: SystemTime,
}

impl<'a> Folder<'a> {
    pub(super) fn new(cache: &'a PackedCache) -> Self {
        Folder { cache }
    }

    /// The contents' digest, by a record if there is one that holds, else by reading all of it; and
    /// notes the use.
    pub(super) fn digest(&self, stamp: Option<&Stamp>, contents: &Mapped, pool: &Pool) -> Digest {
        let Some(stamp) = stamp else { return Digest::of(contents, pool) };
        let path = self.path(&stamp.name(), RECORD);
        let known = read_record(&path).and_then(|(record, written)| stamp.known(&record, written));
        let digest = known.unwrap_or_else(|| Digest::of(contents, pool));
        // What can't be noted is hashed again next time.
        let _ = self.note(&path, &stamp.record(&digest));
        digest
    }

    /// Notes the use of what is kept under a key of its own.
    pub(super) fn note_use(&self, stamp: Option<&Stamp>, key: &Digest) {
        if let Some(stamp) = stamp {
            // Without the note it only counts as older than it is.
            let _ = self.note(&self.path(&key.hex(), RECORD), &stamp.record(key));
        }
    }

    fn note(&self, path: &Path, record: &[u8]) -> Result<(), PackedError> {
        if !path.exists() {
            self.remove_records();
        }
        let temporary = self.temporary()?;
        io::Write::write_all(&mut &temporary.file, record).map_err(io_error("write", &temporary.path))?;
        fs::rename(&temporary.path, path).map_err(io_error("write", path))
    }

    /// Where the packed weights of these contents are or will be.
    pub(super) fn packed_path(&self, digest: &Digest) -> PathBuf {
        self.path(&stem(digest), PACKED)
    }

    fn path(&self, stem: &str, ending: &str) -> PathBuf {
        self.cache.folder.join(format!("{stem}.{ending}"))
    }

    /// Makes room for a file of `bytes` that is to be, besides `keep`: removes what was left by writers
    /// that died, then packed weights that nobody uses, the longest unused first.
    ///
    /// # Errors
    /// [`PackedError::NoRoom`].
    pub(super) fn make_room(&self, bytes: u64, keep: &Path) -> Result<(), PackedError> {
        for entry in self.entries(WRITING) {
            remove_unused(&entry.path);
        }
        let bytes_max = self.cache.bytes_max;
        if bytes > bytes_max {
            return Err(PackedError::NoRoom { bytes, bytes_max });
        }
        let mut packed = self.entries(PACKED);
        let mut held = packed.iter().fold(bytes, |sum, entry| sum.saturating_add(entry.bytes));
        if held > bytes_max {
            let uses = self.uses();
            packed.sort_by_key(|entry| uses.get(&entry.stem).copied().max(Some(entry.modified)));
        }
        for entry in &packed {
            if held <= bytes_max {
                break;
            }
            if entry.path != keep && remove_unused(&entry.path) {
                held -= entry.bytes;
            }
        }
        if held <= bytes_max { Ok(()) } else { Err(PackedError::NoRoom { bytes, bytes_max }) }
    }

    /// When packed weights were used last, by their names' stems.
    fn uses(&self) -> HashMap<String, SystemTime> {
        let mut uses = HashMap::new();
        for entry in self.entries(RECORD) {
            let record = read_record(&entry.path).and_then(|(record, _)| recorded(&record));
            if let Some(digest) = record {
                let used = uses.entry(stem(&digest)).or_insert(entry.modified);
                *used = entry.modified.max(*used);
            }
        }
        uses
    }

    /// Leaves room for one more record.
    fn remove_records(&self) {
        let mut records = self.entries(RECORD);
        records.sort_by_key(|entry| std::cmp::Reverse(entry.modified));
        for entry in records.iter().skip(RECORDS_MAX - 1) {
            let _ = fs::remove_file(&entry.path);
        }
    }

    /// The folder's files with an ending; none if it can't be read.
    fn entries(&self, ending: &str) -> Vec<Entry> {
        let Ok(files) = fs::read_dir(&self.cache.folder) else { return Vec::new() };
        let entry = |file: fs::DirEntry| {
            let path = file.path();
            let stem = path.file_stem()?.to_str()?.to_owned();
            let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
            let is_ours = path.extension().is_some_and(|found| found == ending);
            is_ours.then_some(Entry {
                bytes: metadata.len(),
                modified: metadata.modified().ok()?,
                stem,
                path,
            })
        };
        files.flatten().filter_map(entry).collect()
    }

    /// A new file under a name of its own, locked for as long as it is open.
    ///
    /// # Errors
    /// If the folder can't be made or written to.
    pub(super) fn temporary(&self) -> Result<Temporary, PackedError> {
        let folder = &self.cache.folder;
        fs::create_dir_all(folder).map_err(io_error("make the folder", folder))?;
        let mut refused = None;
        for attempt in 0..ATTEMPTS_MAX {
            let unique = RandomState::new().hash_one(attempt);
            let path = self.path(&format!("{}-{unique:016x}", std::process::id()), WRITING);
            let created = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
            let file = match created {
                Ok(file) => file,
                Err(error) => {
                    refused = Some(error);
                    continue;
                }
            };
            // Before it was locked, somebody may have taken it for a dead writer's.
            let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock)) || !path.exists();
            if !is_taken {
                return Ok(Temporary { file, path });
            }
        }
        let error = refused.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into());
        Err(io_error("write to", folder)(error))
    }
}

/// Opens packed weights to use them: they stay as long as the file is open. `None` if there are none.
///
/// # Errors
/// If the system refuses to open them.
pub(super) fn open(path: &Path) -> Result<Option<File>, PackedError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    match file.try_lock_shared() {
        // Somebody is about to remove it.
        Err(TryLockError::WouldBlock) => Ok(None),
        // A file system without locks: then none is ever removed as unused either.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}

/// Removes a file unless somebody holds a lock on it. Whether it is gone.
fn remove_unused(path: &Path) -> bool {
    let is_unused =
        File::open(path).is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(path).is_ok());
    is_unused || !path.exists()
}

fn read_record(path: &Path) -> Option<(Vec<u8>, SystemTime)> {
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.len() <= RECORD_BYTES_MAX)?;
    Some((fs::read(path).ok()?, metadata.modified().ok()?))
}

fn stem(digest: &Digest) -> String {
    format!("{}-panels{LAYOUT_VERSION}", digest.hex())
}

/// A file that is being written; removed when dropped, unless it was published.
#[derive(Debug)]
pub(super) struct Temporary {
    pub file: File,
    pub path: PathBuf,
}

impl Temporary {
    /// Has the file on the disk whole, then gives it its name: nobody ever sees half of it. The file
    /// stays open, in use.
    ///
    /// # Errors
    /// If the disk or the folder refuses.
    pub(super) fn publish(self, path: &Path) -> Result<File, PackedError> {
        self.file.sync_all().map_err(io_error("write", &self.path))?;
        let file = self.file.try_clone().map_err(io_error("write", &self.path))?;
        // From a writer's lock to a user's.
        let _ = file.try_lock_shared();
        fs::rename(&self.path, path).map_err(io_error("rename a file to", path))?;
        Ok(file)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already if it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cache(bytes_max: u64) -> (tempfile::TempDir, PackedCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = PackedCache { folder: folder.path().join("packed"), bytes_max };
        (folder, cache)
    }

    /// A file of `bytes` bytes, `age` seconds old.
    fn put(cache: &PackedCache, name: &str, (bytes, age): (usize, u64)) -> PathBuf {
        fs::create_dir_all(&cache.folder).unwrap();
        let path = cache.folder.join(name);
        fs::write(&path, vec![0; bytes]).unwrap();
        set_age(&path, age);
        path
    }

    fn set_age(path: &Path, age: u64) {
        let written = SystemTime::now() - Duration::from_secs(age);
        File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_in_use_stays() {
        let (_guard, cache) = cache(100);
        let folder = Folder::new(&cache);
        let old = put(&cache, "old.packed", (40, 300));
        let middle = put(&cache, "middle.packed", (40, 200));
        let new = put(&cache, "new.packed", (20, 100));
        let other = put(&cache, "notes.txt", (1000, 900));
        folder.make_room(0, &new).unwrap();
        assert!(old.exists() && middle.exists() && new.exists());
        folder.make_room(40, &new).unwrap();
        assert!(!old.exists() && middle.exists() && new.exists());

        let using = open(&middle).unwrap().unwrap();
        folder.make_room(60, &cache.folder).unwrap();
        assert!(middle.exists() && !new.exists());
        let error = folder.make_room(61, &cache.folder).unwrap_err();
        assert!(matches!(error, PackedError::NoRoom { bytes: 61, bytes_max: 100 }), "{error}");
        drop(using);
        folder.make_room(61, &middle).unwrap_err();
        folder.make_room(101, &cache.folder).unwrap_err();
        assert!(middle.exists(), "gone for what will never fit");
        folder.make_room(61, &cache.folder).unwrap();
        assert!(!middle.exists() && other.exists());
    }

    #[test]
    fn a_record_says_when_packed_weights_were_used_last() {
        let (_guard, cache) = cache(50);
        let folder = Folder::new(&cache);
        let digests = [Digest([1; 32]), Digest([2; 32])];
        let [first, second] = [0, 1].map(|i: usize| {
            let age = 500 - 100 * i as u64;
            put(&cache, &format!("{}.{PACKED}", stem(&digests[i])), (40, age))
        });
        let model = put(&cache, "model.gguf", (3, 900));
        let stamp = Stamp::of(&model, &fs::metadata(&model).unwrap()).unwrap();
        let record = folder.path(&stamp.name(), RECORD);
        folder.note(&record, &stamp.record(&digests[0])).unwrap();
        folder.make_room(0, &cache.folder).unwrap();
        assert!(first.exists() && !second.exists());
        // And it saves hashing: these are not the file's contents.
        let mapped = |contents: &[u8]| Mapped::from(contents.to_vec());
        let digest = |contents| folder.digest(Some(&stamp), &mapped(contents), &Pool::new(1));
        assert_eq!(digest(b"whatever"), digests[0]);
        fs::write(&record, b"damaged").unwrap();
        assert_eq!(digest(b"contents"), Digest::of(&mapped(b"contents"), &Pool::new(1)));
    }

    #[test]
    fn what_dead_writers_left_is_removed_and_what_live_ones_write_is_not() {
        let (_guard, cache) = cache(1);
        let folder = Folder::new(&cache);
        let dead = put(&cache, "1-0.writing", (10, 0));
        let live = folder.temporary().unwrap();
        let second = folder.temporary().unwrap();
        assert_ne!(live.path, second.path);
        folder.make_room(0, &dead).unwrap();
        assert!(!dead.exists() && live.path.exists());
        let path = live.path.clone();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn published_files_are_in_use_by_their_writer() {
        let (_guard, cache) = cache(1);
        let folder = Folder::new(&cache);
        let target = cache.folder.join("a.packed");
        let temporary = folder.temporary().unwrap();
        io::Write::write_all(&mut &temporary.file, b"whole").unwrap();
        let in_use = temporary.publish(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        folder.make_room(0, &cache.folder).unwrap_err();
        drop(in_use);
        folder.make_room(0, &cache.folder).unwrap();
        assert!(!target.exists());
    }

    #[test]
    fn the_number_of_records_is_limited() {
        let (_guard, cache) = cache(1);
        for index in 0..RECORDS_MAX + 2 {
            put(&cache, &format!("{index}.{RECORD}"), (1, index as u64));
        }
        let folder = Folder::new(&cache);
        folder.note(&folder.path("new", RECORD), b"record").unwrap();
        let left: Vec<String> = folder.entries(RECORD).into_iter().map(|entry| entry.stem).collect();
        assert!(left.len() == RECORDS_MAX && left.contains(&"new".to_owned()));
        let oldest = (RECORDS_MAX - 1..RECORDS_MAX + 2).map(|index| index.to_string());
        assert!(left.contains(&"0".to_owned()) && oldest.into_iter().all(|name| !left.contains(&name)));
    }
}
