//! The backends behind the two roles: there at once, their models fetched and loaded later.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backends::OpenaiBackend;
use backends::embedded::{EmbeddedBackend, EmbeddedOptions, IdleUnload};
use contract::{Backend, Role};
use engine::model::LoadOptions;
use engine::packed::PackedCache;
use engine::scheduler::Turns;
use gateway::{KvBlocks, Metrics};
use kernels::isa::Isa;
use kernels::pool::Pool;
use planner::split::Choice;

use crate::budget::{Budget, Plan, decoder_options, resident_bytes};
use crate::context::{self, Context};
use crate::error::CliError;
use crate::progress::Style;
use crate::settings::{LocalSettings, RoleSettings};

/// A local model on its way.
struct Local {
    role: Role,
    settings: LocalSettings,
    backend: EmbeddedBackend,
}

/// What models are loaded with.
pub struct Loading {
    /// Threads, shared by both models.
    pub pool: Arc<Pool>,
    /// Their turns at these threads.
    pub turns: Arc<Turns>,
    /// The instruction set.
    pub isa: Isa,
    /// Requests that may wait at a model.
    pub queue_max: usize,
    /// What may be in memory.
    pub budget: Budget,
    /// Whether the budget's split is shown.
    pub tells_plan: bool,
    /// Where packed weights are kept, if they are.
    pub cache: Option<PackedCache>,
    /// How fetching is shown.
    pub style: Style,
    /// Where `tandem_memory_bytes` is told.
    pub metrics: Metrics,
}

/// The backends of both roles.
pub struct Pair {
    /// Fills the role small.
    pub small: Arc<dyn Backend>,
    /// Fills the role large.
    pub large: Arc<dyn Backend>,
    locals: Vec<Local>,
    upstreams: Vec<OpenaiBackend>,
}

/// Asks upstreams whose model the settings do not name for the first model that they list.
///
/// # Errors
/// [`CliError::Missing`] if one does not answer or lists none.
pub async fn name_upstream_models(roles: [&mut RoleSettings; 2]) -> Result<(), CliError> {
    for role in roles {
        let RoleSettings::Upstream(settings) = role else { continue };
        if settings.is_named {
            continue;
        }
        let why = |problem: String| {
            let url = &settings.openai.url;
            CliError::missing(format!(
                "can't ask {url} for its model: {problem}; start it first, or name the model (--large-model, \
                 or model = … beside the url)"
            ))
        };
        let backend = OpenaiBackend::new(settings.openai.clone()).map_err(CliError::usage)?;
        let probe = backend.probe().await.map_err(|error| why(error.to_string()))?;
        let first = probe.models.into_iter().next().ok_or_else(|| why("it lists none".to_owned()))?;
        settings.openai.model = first;
        settings.is_named = true;
    }
    Ok(())
}

impl Pair {
    /// The backends of both roles. Local ones are still without their model.
    ///
    /// # Errors
    /// If an upstream's client can't be made.
    pub fn new(small: &RoleSettings, large: &RoleSettings) -> Result<Self, CliError> {
        let (mut locals, mut upstreams) = (Vec::new(), Vec::new());
        let mut backend = |role, settings: &RoleSettings| -> Result<Arc<dyn Backend>, CliError> {
            Ok(match settings {
                RoleSettings::Local(settings) => {
                    let backend = EmbeddedBackend::loading(settings.name.clone(), settings.price);
                    locals.push(Local { role, settings: settings.clone(), backend: backend.clone() });
                    Arc::new(backend)
                }
                RoleSettings::Upstream(settings) => {
                    let backend = OpenaiBackend::new(settings.openai.clone()).map_err(CliError::usage)?;
                    upstreams.push(backend.clone());
                    Arc::new(backend)
                }
            })
        };
        let (small, large) = (backend(Role::Small, small)?, backend(Role::Large, large)?);
        Ok(Pair { small, large, locals, upstreams })
    }

    /// One backend in both roles.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub fn single(role: Role, settings: &RoleSettings) -> Result<Self, CliError> {
        let mut pair = Pair::new(settings, settings)?;
        pair.locals.truncate(1);
        pair.locals.iter_mut().for_each(|local| local.role = role);
        pair.upstreams.truncate(1);
        pair.large = Arc::clone(&pair.small);
        Ok(pair)
    }

    /// Fetches what is missing, checks that all of it fits, and loads it. What fails here is marked as
    /// failed and will not come later.
    ///
    /// # Errors
    /// If a model can't be had, does not fit, or can't be loaded.
    pub async fn load(&self, loading: &Loading, context: &Context) -> Result<(), CliError> {
        let loaded = self.load_all(loading, context).await;
        if let Err(error) = &loaded {
            let waiting = self.locals.iter().filter(|local| !local.is_ready());
            waiting.for_each(|local| local.backend.fail(error.to_string()));
        }
        loaded
    }

    async fn load_all(&self, loading: &Loading, context: &Context) -> Result<(), CliError> {
        for upstream in &self.upstreams {
            look_at(upstream).await;
        }
        let mut paths = Vec::new();
        for local in &self.locals {
            paths.push(context.have(&local.settings.reference, loading.style).await?);
        }
        let plan = loading.budget.plan(&self.with_paths(&paths))?;
        if loading.tells_plan {
            eprint!("{}", plan.table(&self.local_roles()));
        }
        let told = plan.told();
        loading.metrics.set_memory_probe(Box::new(move || {
            let resident = resident_bytes().map(|bytes| ("resident".to_owned(), bytes));
            told.iter().cloned().chain(resident).collect()
        }));
        for ((local, path), choice) in self.locals.iter().zip(paths).zip(&plan.split.choices) {
            local.load(path, choice, loading).await?;
        }
        let backends: Vec<EmbeddedBackend> = self.locals.iter().map(|local| local.backend.clone()).collect();
        loading.metrics.set_kv_probe(Box::new(move || {
            backends.iter().map(EmbeddedBackend::load).fold(KvBlocks::default(), |sum, load| KvBlocks {
                used: sum.used + load.blocks.used as u64,
                cached: sum.cached + load.blocks.cached as u64,
                free: sum.free + load.blocks.free as u64,
            })
        }));
        Ok(())
    }

    /// The split without fetching; `None` if a model is not here yet, so that nothing can be said.
    ///
    /// # Errors
    /// If what is here does not fit.
    pub fn plan(&self, budget: &Budget, context: &Context) -> Result<Option<Plan>, CliError> {
        let store = context.store()?;
        let mut here = Vec::new();
        for local in &self.locals {
            if let Some(path) = store.locate(&local.settings.reference)? {
                here.push((local.role, local.settings.clone(), path));
            }
        }
        let plan = budget.plan(&here)?;
        Ok((here.len() == self.locals.len()).then_some(plan))
    }

    /// The roles of local models.
    pub fn local_roles(&self) -> Vec<Role> {
        self.locals.iter().map(|local| local.role).collect()
    }

    fn with_paths(&self, paths: &[PathBuf]) -> Vec<(Role, LocalSettings, PathBuf)> {
        let locals = self.locals.iter().zip(paths);
        locals.map(|(local, path)| (local.role, local.settings.clone(), path.clone())).collect()
    }
}

/// Says in the log whether an upstream is there; a request will tell its client again.
async fn look_at(upstream: &OpenaiBackend) {
    let model = upstream.info().model;
    match upstream.probe().await {
        Ok(probe) if probe.serves_model => tracing::info!(model, "the upstream is there"),
        Ok(probe) => {
            let models = probe.models.join(", ");
            tracing::warn!(model, models, "the upstream does not list the model; requests may fail");
        }
        Err(error) => {
            tracing::warn!(model, %error, "the upstream does not answer; it is asked again per request")
        }
    }
}

impl Local {
    fn is_ready(&self) -> bool {
        self.backend.readiness() == contract::Readiness::Ready
    }

    /// Loads the weights and starts the engine.
    async fn load(&self, path: PathBuf, choice: &Choice, loading: &Loading) -> Result<(), CliError> {
        let options = LoadOptions {
            context_tokens: Some(choice.context_tokens),
            exact: false,
            cache: loading.cache.clone(),
        };
        let pool = Arc::clone(&loading.pool);
        let load = move || context::load(&path, options.clone(), &pool);
        let started = std::time::Instant::now();
        let loaded = tokio::task::spawn_blocking(move || load().map(|model| (model, load)));
        let (model, load) =
            loaded.await.map_err(|error| CliError::failed(format!("loading failed: {error}")))??;
        let idle = self.settings.idle_unload_seconds.map(|seconds| IdleUnload {
            after: Duration::from_secs(seconds.into()),
            load: Arc::new(move || load().map(Arc::new).map_err(|error| error.to_string())),
        });
        let options = EmbeddedOptions {
            pool: Arc::clone(&loading.pool),
            turns: Arc::clone(&loading.turns),
            isa: loading.isa,
            decoder: decoder_options(choice),
            queue_max: loading.queue_max,
            idle,
            drafts: None,
        };
        self.backend.start(Arc::new(model), &options).map_err(|error| {
            CliError::failed(format!("{}: the engine can't start: {error}", self.settings.name))
        })?;
        tracing::info!(
            role = self.role.as_str(),
            model = self.settings.name,
            seconds = started.elapsed().as_secs_f64(),
            kv_tokens = choice.kv_tokens,
            "model loaded"
        );
        Ok(())
    }
}
