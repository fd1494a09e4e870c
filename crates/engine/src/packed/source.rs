//! Which model file packed weights come from: [`Digest`] of its contents, and [`Stamp`], by which an
//! unchanged file is known again without reading it.

use std::fs::Metadata;
use std::path::Path;
use std::time::{Duration, SystemTime};

use kernels::mapped::Mapped;
use kernels::pool::Pool;
use sha2::{Digest as _, Sha256};

/// Bytes that one task of the pool hashes.
const PART_BYTES: usize = 4 << 20;
/// A record of a file that is not this much younger than the file proves nothing: a change within the
/// file system's clock tick leaves no trace (as in Git's index).
const RACE: Duration = Duration::from_secs(2);
const RECORD_MAGIC: [u8; 8] = *b"TNDMSRC1";
/// Stands before what keys of matrices for drafting are made of. The number is raised whenever the same model
/// gives other ones.
const DRAFTING: [u8; 8] = *b"TNDMDRF1";

/// SHA-256 over the contents' length and the SHA-256 of each 4 MiB, so that threads share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Hashes a file's contents, and gives its pages back behind what was read.
    pub(super) fn of(contents: &Mapped, pool: &Pool) -> Digest {
        let bytes = contents.bytes();
        let parts: Vec<&[u8]> = bytes.chunks(PART_BYTES).collect();
        let digests: Vec<std::sync::OnceLock<[u8; 32]>> = parts.iter().map(|_| Default::default()).collect();
        pool.run(parts.len(), &|task, _| {
            digests[task].get_or_init(|| Sha256::digest(parts[task]).into());
            let start = task * PART_BYTES;
            contents.release_range(start..start + parts[task].len());
        });
        let mut all = Sha256::new();
        all.update((bytes.len() as u64).to_le_bytes());
        digests.iter().filter_map(|digest| digest.get()).for_each(|digest| all.update(digest));
        Digest(all.finalize().into())
    }

    /// The key of what is made of these contents for drafting, with a head of so many tokens.
    pub(super) fn for_drafting(&self, vocabulary: usize) -> Digest {
        let mut all = Sha256::new();
        all.update(DRAFTING);
        all.update(self.0);
        all.update((vocabulary as u64).to_le_bytes());
        Digest(all.finalize().into())
    }

    /// In hexadecimal.
    pub(super) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What the file system says of a file: as long as this stays the same, so do the contents.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    /// The canonical path, hashed.
    path: [u8; 32],
    /// Device and inode where there are such, length, modification time.
    numbers: [u64; 5],
    modified: SystemTime,
}

impl Stamp {
    /// Of an opened file; `None` where the system does not tell enough.
    pub(super) fn of(path: &Path, metadata: &Metadata) -> Option<Stamp> {
        let modified = metadata.modified().ok()?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let (device, inode) = place(metadata);
        Some(Stamp {
            path: Sha256::digest(path.canonicalize().ok()?.as_os_str().as_encoded_bytes()).into(),
            numbers: [device, inode, metadata.len(), since.as_secs(), since.subsec_nanos().into()],
            modified,
        })
    }

    /// The name of the record about this path, without ending.
    pub(super) fn name(&self) -> String {
        Digest(self.path).hex()
    }

    /// A record that a file of this stamp has these contents.
    pub(super) fn record(&self, digest: &Digest) -> Vec<u8> {
        let mut bytes = RECORD_MAGIC.to_vec();
        bytes.extend(digest.0);
        bytes.extend(self.path);
        self.numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(<[u8; 32]>::from(Sha256::digest(&bytes)));
        bytes
    }

    /// The contents by a record written at `written`, if it is about this very stamp.
    pub(super) fn known(&self, record: &[u8], written: SystemTime) -> Option<Digest> {
        let digest = recorded(record)?;
        let is_late = self.modified.checked_add(RACE).is_some_and(|safe| safe <= written);
        (is_late && self.record(&digest) == record).then_some(digest)
    }
}

/// The contents that a record tells of, whatever file it is about.
pub(super) fn recorded(record: &[u8]) -> Option<Digest> {
    record.strip_prefix(&RECORD_MAGIC)?.first_chunk().map(|digest| Digest(*digest))
}

#[cfg(unix)]
fn place(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn place(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_follows_from_all_bytes_and_not_from_threads() {
        let mut bytes = vec![3u8; 2 * PART_BYTES + 5];
        let of = |bytes: &[u8], threads| Digest::of(&Mapped::from(bytes.to_vec()), &Pool::new(threads));
        let digest = of(&bytes, 1);
        assert_eq!(of(&bytes, 3), digest);
        assert_ne!(of(&bytes[1..], 1), digest);
        for at in [0, PART_BYTES, 2 * PART_BYTES + 4] {
            bytes[at] ^= 1;
            assert_ne!(of(&bytes, 2), digest, "{at}");
            bytes[at] ^= 1;
        }
        assert_eq!(digest.hex().len(), 64);
        let drafting = digest.for_drafting(1000);
        assert!(drafting != digest && drafting != digest.for_drafting(1001));
        assert_eq!(drafting, digest.for_drafting(1000));
    }

    #[test]
    fn a_record_holds_for_the_unchanged_file_only() {
        let path = std::env::temp_dir().join(format!("tandem-stamp-{}", std::process::id()));
        let stamp = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Stamp::of(&path, &std::fs::metadata(&path).unwrap()).unwrap()
        };
        let (first, digest) = (stamp("one"), Digest([7; 32]));
        let (record, later) = (first.record(&digest), first.modified + RACE);
        assert_eq!(first.known(&record, later), Some(digest));
        assert_eq!(first.known(&record, first.modified + RACE / 2), None, "written too soon");
        assert_eq!(stamp("three").known(&record, later + RACE), None, "another length");
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 4;
            assert_eq!(first.known(&damaged, later), None, "{at}");
            assert_eq!(first.known(&record[..at], later), None, "{at}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
