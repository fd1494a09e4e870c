//! The backends behind the two roles: there at once, their models fetched and loaded later.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backends::{DraftOptions, EmbeddedBackend, EmbeddedOptions, IdleUnload, OpenaiBackend};
use contract::{Backend, DrafterState, Readiness};
use engine::decoder::LayerSet;
use engine::model::{LoadOptions, Model};
use engine::packed::PackedCache;
use engine::scheduler::Turns;
use gateway::{KvBlocks, Metrics};
use kernels::isa::Isa;
use kernels::pool::Pool;
use planner::split::Choice;

use crate::budget::{self, Budget, Plan, Planned, decoder_options, resident_bytes};
use crate::context::{self, Context};
use crate::drafting::{Drafters, Drafting, LocalModel, Part};
use crate::error::CliError;
use crate::progress::Style;
use crate::settings::{DrafterKind, RoleSettings, SpeculativeSettings};

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
    models: Vec<LocalModel>,
    /// Of the models, in their order.
    backends: Vec<EmbeddedBackend>,
    drafting: Drafting,
    upstreams: Vec<OpenaiBackend>,
}

/// Asks upstreams whose model the settings do not name for the first model that they list.
///
/// # Errors
/// [`CliError::Missing`] if one does not answer or lists none.
pub async fn name_upstream_models<const N: usize>(roles: [&mut RoleSettings; N]) -> Result<(), CliError> {
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
    /// If an upstream's client can't be made, or a draft model is asked for that can't be.
    pub fn new(roles: [&RoleSettings; 2], speculative: &SpeculativeSettings) -> Result<Self, CliError> {
        let (mut models, mut backends, mut upstreams) = (Vec::new(), Vec::new(), Vec::new());
        let mut backend = |part, settings: &RoleSettings| -> Result<Arc<dyn Backend>, CliError> {
            Ok(match settings {
                RoleSettings::Local(settings) => {
                    let backend = EmbeddedBackend::loading(settings.name.clone(), settings.price);
                    models.push(LocalModel { part, settings: settings.clone() });
                    backends.push(backend.clone());
                    Arc::new(backend)
                }
                RoleSettings::Upstream(settings) => {
                    let backend = OpenaiBackend::new(settings.openai.clone()).map_err(CliError::usage)?;
                    upstreams.push(backend.clone());
                    Arc::new(backend)
                }
            })
        };
        let (small, large) = (backend(Part::Small, roles[0])?, backend(Part::Large, roles[1])?);
        let drafting = Drafting::new(speculative, &mut models)?;
        let only_draft = models[backends.len()..].iter().map(|model| &model.settings);
        let only_draft = only_draft.map(|model| EmbeddedBackend::loading(model.name.clone(), model.price));
        backends.extend(only_draft.collect::<Vec<_>>());
        Ok(Pair { small, large, models, backends, drafting, upstreams })
    }

    /// One backend in both roles.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub fn single(
        part: Part,
        settings: &RoleSettings,
        speculative: &SpeculativeSettings,
    ) -> Result<Self, CliError> {
        let mut pair = Pair::new([settings, settings], &speculative.alone())?;
        pair.models.truncate(1);
        pair.backends.truncate(1);
        pair.models.iter_mut().for_each(|model| model.part = part);
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
            let waiting = self.backends.iter().filter(|backend| backend.readiness() != Readiness::Ready);
            waiting.for_each(|backend| backend.fail(error.to_string()));
        }
        loaded
    }

    async fn load_all(&self, loading: &Loading, context: &Context) -> Result<(), CliError> {
        for upstream in &self.upstreams {
            look_at(upstream).await;
        }
        let mut paths = Vec::new();
        for model in &self.models {
            paths.push(context.have(&model.settings.reference, loading.style).await?);
        }
        let (plan, drafting) = self.settle(&loading.budget, paths.iter().map(Some))?;
        if loading.tells_plan {
            eprint!("{}", plan.table(&self.parts()));
        }
        let told = plan.told();
        loading.metrics.set_memory_probe(Box::new(move || {
            let resident = resident_bytes().map(|bytes| ("resident".to_owned(), bytes));
            told.iter().cloned().chain(resident).collect()
        }));
        for (index, (path, choice)) in paths.into_iter().zip(&plan.split.choices).enumerate() {
            self.load_one((index, path), (choice, &drafting), loading).await?;
        }
        let backends = self.backends.clone();
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
    /// If what is here does not fit, or can't draft as it should.
    pub fn plan(&self, budget: &Budget, context: &Context) -> Result<Option<Plan>, CliError> {
        let store = context.store()?;
        let references = self.models.iter().map(|model| store.locate(&model.settings.reference));
        let paths: Vec<Option<PathBuf>> = references.collect::<Result<_, _>>()?;
        let (plan, _) = self.settle(budget, paths.iter().map(Option::as_ref))?;
        Ok(paths.iter().all(Option::is_some).then_some(plan))
    }

    /// Lets hidden states of these layers be asked for, of a local model that is not loaded yet.
    pub fn keep_states(&mut self, part: Part, layers: LayerSet) {
        let models = self.models.iter_mut().filter(|model| model.part == part);
        models.for_each(|model| model.settings.reading_layers = layers);
    }

    /// What the local models are for.
    pub fn parts(&self) -> Vec<Part> {
        self.models.iter().map(|model| model.part).collect()
    }

    /// How many layers the local model of a role has, once it is loaded.
    pub fn layers(&self, part: Part) -> Option<usize> {
        let index = self.models.iter().position(|model| model.part == part)?;
        Some(self.backends.get(index)?.model()?.spec().layers.len())
    }

    /// The budget's split among models that are here, and who drafts for whom: if need be, fewer than might.
    fn settle<'a>(
        &self,
        budget: &Budget,
        paths: impl Iterator<Item = Option<&'a PathBuf>>,
    ) -> Result<(Plan, Drafting), CliError> {
        let read = paths.map(|path| path.map(|path| budget::read(path)).transpose());
        let models: Vec<Option<Model>> = read.collect::<Result<_, _>>()?;
        let mut drafting = self.drafting.clone().settle(&models, &self.models)?;
        if let Some(without) = drafting.without_coarse_weights() {
            let both = [&drafting, &without].map(|drafting| self.split((budget, drafting), &models));
            // Faster drafts are worth part of a cache, and no more.
            if !matches!(&both, [Ok(with), Ok(plain)] if with.split.is_nearly(&plain.split)) {
                drafting = without;
            }
        }
        loop {
            match self.split((budget, &drafting), &models) {
                Ok(plan) => return Ok((plan, drafting)),
                Err(error) => drafting = drafting.fewer().ok_or(error)?,
            }
        }
    }

    fn split(
        &self,
        (budget, drafting): (&Budget, &Drafting),
        models: &[Option<Model>],
    ) -> Result<Plan, CliError> {
        let planned: Vec<Planned> = (self.models.iter().zip(models).enumerate())
            .filter_map(|(index, (LocalModel { part, settings }, model))| {
                let needs = drafting.needs(index, &self.models);
                Some(Planned { part: *part, settings, model: model.as_ref()?, needs })
            })
            .collect();
        budget.plan(&planned)
    }

    /// Loads a local model's weights and starts its engine.
    async fn load_one(
        &self,
        (index, path): (usize, PathBuf),
        (choice, drafting): (&Choice, &Drafting),
        loading: &Loading,
    ) -> Result<(), CliError> {
        let LocalModel { part, settings } = &self.models[index];
        let options = LoadOptions {
            context_tokens: Some(choice.context_tokens),
            exact: false,
            cache: loading.cache.clone(),
            draft_vocabulary: drafting.coarse_vocabulary(index),
        };
        let pool = Arc::clone(&loading.pool);
        let load = move || context::load(&path, options.clone(), &pool);
        let started = std::time::Instant::now();
        let loaded = tokio::task::spawn_blocking(move || load().map(|model| (model, load)));
        let (model, load) =
            loaded.await.map_err(|error| CliError::failed(format!("loading failed: {error}")))??;
        let idle = settings.idle_unload_seconds.map(|seconds| IdleUnload {
            after: Duration::from_secs(seconds.into()),
            load: Arc::new(move || load().map(Arc::new).map_err(|error| error.to_string())),
        });
        let drafters = drafting.of(index, &self.models);
        let options = EmbeddedOptions {
            pool: Arc::clone(&loading.pool),
            turns: Arc::clone(&loading.turns),
            isa: loading.isa,
            decoder: decoder_options(choice, (drafting.needs(index, &self.models), settings.reading_layers)),
            queue_max: loading.queue_max,
            idle,
            drafts: drafters.clone().map(|drafters| DraftOptions {
                prompt_lookup: drafters.prompt_lookup,
                model: drafters.model.map(|model| self.backends[model].clone()),
                note: drafters.note,
                unused: drafters.unused,
                costs: None,
            }),
        };
        self.backends[index].start(Arc::new(model), &options).map_err(|error| {
            CliError::failed(format!("{}: the engine can't start: {error}", settings.name))
        })?;
        tracing::info!(
            part = part.as_str(),
            model = settings.name,
            seconds = started.elapsed().as_secs_f64(),
            kv_tokens = choice.kv_tokens,
            "model loaded"
        );
        self.tell_drafters(&settings.name, drafters.as_ref());
        Ok(())
    }

    /// Says in the log who drafts for a model, and who might but does not.
    fn tell_drafters(&self, model: &str, drafters: Option<&Drafters>) {
        let Some(Drafters { prompt_lookup, model: draft_model, note, unused }) = drafters else { return };
        let lookup = prompt_lookup.then_some(DrafterKind::PromptLookup.as_str());
        let draft_model = draft_model.map(|index| self.models[index].settings.name.as_str());
        let names: Vec<&str> = lookup.into_iter().chain(draft_model).collect();
        if !names.is_empty() {
            tracing::info!(model, drafters = names.join(" and "), "what it writes is drafted");
        }
        if let Some(note) = note {
            tracing::warn!(model, drafter = DrafterKind::Model.as_str(), note, "a drafter could be faster");
        }
        for DrafterState { name, idle, .. } in unused {
            tracing::warn!(model, drafter = name, why = idle.as_deref(), "a drafter is not used");
        }
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
