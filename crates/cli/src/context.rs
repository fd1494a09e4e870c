//! What every command shares: [`Context`].

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;

use clap::Args;
use engine::gguf::Gguf;
use engine::model::{LoadError, LoadOptions, Model};
use engine::packed::{PackedError, PackedOutcome};
use kernels::isa::Isa;
use kernels::pool::{Pool, THREADS_MAX};
use store::{Catalogue, Reference, Store, Token};

use crate::environment::Environment;
use crate::error::CliError;
use crate::progress::{Shown, Style};
use crate::settings;

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// Write JSON for machines on stdout, and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads that compute [default: the processor's cores; also TANDEM_THREADS]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// The process's surroundings, validated, and what is made of them once.
#[derive(Debug)]
pub struct Context {
    /// Whether the output is for machines.
    pub json: bool,
    /// Whether a person sees stderr: bars are drawn only then.
    pub stderr_is_terminal: bool,
    /// `--threads`, unless left out.
    pub threads_flag: Option<NonZeroUsize>,
    environment: Environment,
    catalogue: Catalogue,
    isa: Isa,
    threads: usize,
    pool: OnceLock<Arc<Pool>>,
}

impl Context {
    /// Checks what flags and environment say for all commands.
    ///
    /// # Errors
    /// [`CliError::Usage`] if an instruction set or thread count can't be.
    pub fn new(global: &GlobalArgs, environment: Environment) -> Result<Self, CliError> {
        let isa = match environment.get("TANDEM_ISA")? {
            Some(name) => {
                Isa::named(name).map_err(|error| CliError::usage(format!("TANDEM_ISA: {error}")))?
            }
            None => Isa::detect(),
        };
        let threads = threads(global.threads, &environment)?;
        Ok(Context {
            json: global.json,
            stderr_is_terminal: std::io::stderr().is_terminal(),
            threads_flag: global.threads,
            environment,
            catalogue: Catalogue::builtin(),
            isa,
            threads,
            pool: OnceLock::new(),
        })
    }

    /// The environment variables.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The instruction set that kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The one thread pool of this process.
    pub fn pool(&self) -> Arc<Pool> {
        Arc::clone(self.pool.get_or_init(|| Arc::new(Pool::new(self.threads))))
    }

    /// The folder of everything that Tandem keeps (`TANDEM_HOME`).
    ///
    /// # Errors
    /// [`CliError::Usage`] if the environment names none.
    pub fn home(&self) -> Result<PathBuf, CliError> {
        store::default_home(|name| self.environment.os(name)).map_err(CliError::usage)
    }

    /// The models on this machine.
    ///
    /// # Errors
    /// As [`Context::home`], and for environment values that can't be right.
    pub fn store(&self) -> Result<Store, CliError> {
        let mut options = store::Options { catalogue: self.catalogue.clone(), ..store::Options::default() };
        if let Some(endpoint) = self.environment.get("HF_ENDPOINT")? {
            options.hub_endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        options.hub_token = self.environment.get("HF_TOKEN")?.map(Token::new);
        if let Some(python) = self.environment.get("TANDEM_PYTHON")? {
            options.python = PathBuf::from(python);
        }
        Ok(Store::with_options(self.home()?, options))
    }

    /// The models known by name.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The file that `reference` names; it must be here already.
    ///
    /// # Errors
    /// [`CliError::Missing`] if it is not here, saying how to get it; [`CliError::Usage`] for what
    /// names no model file.
    pub fn resolve(&self, reference: &str) -> Result<PathBuf, CliError> {
        match self.reference(reference)? {
            // Needs no home.
            Reference::File(path) if path.is_file() => Ok(path),
            Reference::File(path) => {
                Err(CliError::missing(format!("there is no file {}; check the path", path.display())))
            }
            parsed => self.store()?.locate(&parsed)?.ok_or_else(|| {
                CliError::missing(format!("{parsed} is not here yet; `tandem pull {parsed}` fetches it"))
            }),
        }
    }

    /// Reads a model reference.
    ///
    /// # Errors
    /// [`CliError::Missing`] for an unknown name; [`CliError::Usage`] for what can't name a model here.
    pub fn reference(&self, text: &str) -> Result<Reference, CliError> {
        match Reference::parse(text, &self.catalogue)? {
            Reference::Folder(path) if path.is_dir() => Err(CliError::usage(format!(
                "{} is a folder: safetensors models are not available in this version; give a .gguf file",
                path.display()
            ))),
            Reference::Folder(path) => {
                Err(CliError::missing(format!("there is no {}; check the path", path.display())))
            }
            reference => Ok(reference),
        }
    }

    /// Opens the model file that `reference` names, without loading its weights.
    ///
    /// # Errors
    /// As [`Context::resolve`], and if the file is no well-formed GGUF.
    pub fn open_gguf(&self, reference: &str) -> Result<Gguf, CliError> {
        let path = self.resolve(reference)?;
        Gguf::open(&path).map_err(|error| in_file(&path, &error.into()))
    }

    /// Loads the model that `reference` names; it must be here already. Its packed weights are kept as
    /// the settings say.
    ///
    /// # Errors
    /// As [`Context::resolve`], if the settings can't be read, and if the file is no model that the engine
    /// runs.
    pub fn load_model(&self, reference: &str, options: LoadOptions) -> Result<Arc<Model>, CliError> {
        let path = self.resolve(reference)?;
        let options = LoadOptions { cache: settings::cache(self)?.packed(self), ..options };
        Ok(Arc::new(load(&path, options, &self.pool())?))
    }

    /// How progress is shown.
    pub fn progress_style(&self, plain: Style) -> Style {
        if self.stderr_is_terminal { Style::Bar } else { plain }
    }

    /// The model's file, fetched if it is not here. A file that is here is not hashed again.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub async fn have(&self, reference: &Reference, style: Style) -> Result<PathBuf, CliError> {
        match self.store()?.locate(reference)? {
            Some(path) => Ok(path),
            None => self.fetch(reference, style).await,
        }
    }

    /// Has the model here, fetched and verified, and shows the progress.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub async fn fetch(&self, reference: &Reference, style: Style) -> Result<PathBuf, CliError> {
        Ok(self.store()?.pull(reference, &mut Shown::new(style)).await?)
    }
}

/// A runtime for a command that waits on the network now and then.
///
/// # Errors
/// If the system gives no event queue.
pub fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("can't start the async runtime: {error}")))
}

/// Loads a model file, and logs what became of its packed weights.
///
/// # Errors
/// If the file is no model that the engine runs.
pub fn load(path: &Path, options: LoadOptions, pool: &Pool) -> Result<Model, CliError> {
    let model = Model::load(path, options, pool).map_err(|error| in_file(path, &error))?;
    let model_file = path.display();
    let warn = |damage: &Option<PackedError>| {
        if let Some(error) = damage {
            tracing::warn!(%model_file, %error, "the packed weights in the cache were unusable; packed again");
        }
    };
    let tell = |outcome: &PackedOutcome, what: &str| match outcome {
        PackedOutcome::Unused => {}
        PackedOutcome::Hit => tracing::info!(%model_file, "{what} mapped from the cache"),
        PackedOutcome::Written { damage } => {
            warn(damage);
            tracing::info!(%model_file, "{what} written to the cache");
        }
        PackedOutcome::NotKept { error, damage } => {
            warn(damage);
            tracing::warn!(%model_file, %error, "{what} are not kept; every start packs them again");
        }
    };
    tell(model.packed(), "packed weights");
    if let Some(outcome) = model.packed_for_drafting() {
        tell(outcome, "packed weights for drafting");
    }
    Ok(model)
}

/// Puts the path before what is wrong with the file.
pub fn in_file(path: &Path, error: &LoadError) -> CliError {
    CliError::failed(format!("{}: {error}", path.display()))
}

/// Flag, else `TANDEM_THREADS`, else what the machine has.
fn threads(flag: Option<NonZeroUsize>, environment: &Environment) -> Result<usize, CliError> {
    let threads = match (flag, environment.get("TANDEM_THREADS")?) {
        (Some(threads), _) => threads.get(),
        (None, Some(text)) => text
            .parse::<NonZeroUsize>()
            .map_err(|_| CliError::usage(format!("TANDEM_THREADS={text:?} is no number of threads")))?
            .get(),
        (None, None) => available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX),
    };
    if threads > THREADS_MAX {
        return Err(CliError::usage(format!("{threads} threads are too many; the limit is {THREADS_MAX}")));
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context<const N: usize>(variables: [(&str, &str); N]) -> Result<Context, CliError> {
        Context::new(&GlobalArgs { json: false, threads: None }, Environment::from(variables))
    }

    #[test]
    fn the_threads_flag_beats_the_environment() {
        let environment = Environment::from([("TANDEM_THREADS", "3")]);
        assert_eq!(threads(NonZeroUsize::new(2), &environment).unwrap(), 2);
        assert_eq!(threads(None, &environment).unwrap(), 3);
        assert!(threads(None, &Environment::default()).unwrap() >= 1);
        for wrong in ["0", "-1", "many", "1000000"] {
            let error = threads(None, &Environment::from([("TANDEM_THREADS", wrong)])).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }

    #[test]
    fn an_instruction_set_that_is_not_there_is_wrong_usage() {
        assert_eq!(context([("TANDEM_ISA", "scalar")]).unwrap().isa().name(), "scalar");
        let error = context([("TANDEM_ISA", "mmx")]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("TANDEM_ISA") && error.to_string().contains("scalar"), "{error}");
    }

    #[test]
    fn what_is_not_here_says_how_to_get_it() {
        let home = tempfile::tempdir().unwrap();
        let context = context([("TANDEM_HOME", home.path().to_str().unwrap())]).unwrap();
        for (reference, code, words) in [
            ("smollm2-135m", 3, "tandem pull smollm2-135m"),
            ("smollm2-135", 3, "did you mean \"smollm2-135m\"?"),
            ("nowhere/x.gguf", 3, "check the path"),
            ("./nowhere", 3, "check the path"),
            (home.path().to_str().unwrap(), 2, "safetensors"),
            ("hf:only", 2, "hf:OWNER/REPO/FILE"),
        ] {
            let error = context.resolve(reference).unwrap_err();
            assert_eq!(error.exit_code(), code, "{reference}: {error}");
            assert!(error.to_string().contains(words), "{reference}: {error}");
        }
    }
}
