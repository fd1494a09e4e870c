//! Where a model's files lie, finished or not ([`Place`]), and who may write them ([`Lock`]).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::DiskError;

/// The paths of one model.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What the model is called in messages.
    pub(crate) model: String,
    /// Where the finished file goes.
    pub(crate) installed: PathBuf,
    /// The start of the names of everything that is not finished; on the same file system.
    work: PathBuf,
}

impl Place {
    /// The place of the model `model` at the relative path `key` below the folder `models`.
    pub(crate) fn new(models: &Path, key: &Path, model: String) -> Self {
        Place { model, installed: models.join(key), work: models.join(WORK_FOLDER).join(key) }
    }

    fn work(&self, suffix: &str) -> PathBuf {
        let mut name = self.work.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.work(".partial")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.work(".partial.json")
    }

    /// The folder where pip puts wheels.
    pub(crate) fn wheels(&self) -> PathBuf {
        self.work(".wheels")
    }

    fn lock(&self) -> PathBuf {
        self.work(".lock")
    }
}

/// The folder of unfinished files inside the models folder.
pub(crate) const WORK_FOLDER: &str = ".partial";

/// The right to write below a [`Place`]; given back when dropped, or when the process ends.
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Lock {
    /// Takes the lock if nobody has it.
    pub(crate) fn try_take(place: &Place) -> Result<Option<Lock>, DiskError> {
        let path = place.lock();
        create_parent(&path)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(DiskError::of("create the lock", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(DiskError::of("lock", &path)(error)),
        }
    }
}

/// Makes sure that the folder of `path` exists.
pub(crate) fn create_parent(path: &Path) -> Result<(), DiskError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(DiskError::of("create the folder", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lock_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), Path::new("m.gguf"), "m".to_owned());
        let lock = Lock::try_take(&place).unwrap();
        assert!(lock.is_some());
        assert!(Lock::try_take(&place).unwrap().is_none());
        drop(lock);
        assert!(Lock::try_take(&place).unwrap().is_some());
    }
}
