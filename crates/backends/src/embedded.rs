//! The engine in this process: [`EmbeddedBackend`].
//!
//! One thread per model runs the engine's scheduler; calls reach it over a bounded queue, output comes
//! back over a channel per call. Dropping a call's stream closes its channel, which the scheduler sees
//! before its next step. A model that nobody has called for a while can leave memory; the next call
//! brings it back.

mod drafts;

use std::fmt;
use std::sync::mpsc as queue;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use contract::{
    Backend, BackendError, BackendInfo, BackendKind, Call, Delta, Drafting, Event, EventStream, FailureKind,
    FinishReason, Input, Message, Price, Readiness, Request, Timings, TokenLogprob, Usage,
};
use engine::decoder::{Decoder, DecoderOptions, SharedDecoder};
use engine::model::Model;
use engine::sampling::SamplingParams;
use engine::scheduler::{
    DraftCounts, Finished, Job, Load, Output, Priority, Scheduler, SchedulerLimits, Sink, StopReason,
    SubmitError, Turns,
};
use engine::template::RenderInput;
use kernels::isa::Isa;
use kernels::pool::Pool;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

pub use self::drafts::DraftOptions;

/// Calls handed to the engine's thread that it has not looked at yet.
const HANDOVER_MAX: usize = 1024;
/// How often a call looks for an engine that goes idle just then.
const HANDOVER_ATTEMPTS: usize = 3;
/// Seconds after which a client refused by a full queue may try again.
const RETRY_AFTER_S: u64 = 2;

/// What a loaded model runs with.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Threads to compute with; two models may share one pool.
    pub pool: Arc<Pool>,
    /// The turns at that pool.
    pub turns: Arc<Turns>,
    /// The instruction set.
    pub isa: Isa,
    /// Requests at once, and the cache that they share.
    pub decoder: DecoderOptions,
    /// Requests that may wait.
    pub queue_max: usize,
    /// When the model leaves memory; `None`: never.
    pub idle: Option<IdleUnload>,
    /// Who drafts what it writes; `None`: nobody.
    pub drafts: Option<DraftOptions>,
}

/// When a model leaves memory, and how it comes back.
#[derive(Clone)]
pub struct IdleUnload {
    /// Time without a request.
    pub after: Duration,
    /// Loads the model again; an error in words.
    pub load: Arc<dyn Fn() -> Result<Arc<Model>, String> + Send + Sync>,
}

impl fmt::Debug for IdleUnload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleUnload").field("after", &self.after).finish_non_exhaustive()
    }
}

/// A local model as a backend. Clones share it. Calls need a Tokio runtime around them.
#[derive(Clone)]
pub struct EmbeddedBackend {
    name: Arc<str>,
    price: Price,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Held by whoever brings the model back.
    returning: Mutex<()>,
    load: Arc<Mutex<Load>>,
    /// Who drafts, once it was started.
    drafts: Mutex<Option<DraftOptions>>,
}

#[derive(Default)]
enum State {
    #[default]
    Loading,
    Failed(String),
    Ready(Running),
    /// Out of memory until somebody calls.
    Idle {
        context_tokens: usize,
        options: Box<EmbeddedOptions>,
        idle: IdleUnload,
    },
}

#[derive(Clone)]
struct Running {
    model: Arc<Model>,
    /// For those that this model drafts for.
    decoder: Arc<SharedDecoder>,
    context_tokens: usize,
    jobs: queue::SyncSender<Job>,
}

impl fmt::Debug for EmbeddedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EmbeddedBackend {
    /// A backend whose model is still to come; until then calls fail as not ready.
    pub fn loading(name: String, price: Price) -> Self {
        EmbeddedBackend { name: name.into(), price, shared: Arc::default() }
    }

    /// Gives it its model and starts its thread.
    ///
    /// # Errors
    /// If the system has no thread for it, or the cache's type or the draft model does not suit the model.
    pub fn start(&self, model: Arc<Model>, options: &EmbeddedOptions) -> std::io::Result<()> {
        let decoder = Decoder::new(model.clone(), options.pool.clone(), options.isa, options.decoder)
            .map_err(std::io::Error::other)?;
        let limits = SchedulerLimits {
            running_max: options.decoder.sequences,
            waiting_max: options.queue_max,
            kv_tokens: options.decoder.kv_tokens,
        };
        let mut scheduler = Scheduler::with_seat(decoder, options.isa, limits, options.turns.seat());
        let drafts = options.drafts.as_ref().map(|drafts| drafts.speculation(&model, &options.turns));
        if let Some(speculation) = drafts.transpose().map_err(std::io::Error::other)?.flatten() {
            scheduler = scheduler.with_speculation(speculation);
        }
        let shared_decoder = scheduler.decoder().clone();
        let (jobs, inbox) = queue::sync_channel(HANDOVER_MAX);
        let context_tokens = model.spec().context_tokens.min(options.decoder.kv_tokens);
        let (shared, load) = (Arc::downgrade(&self.shared), self.shared.load.clone());
        let drafts_before = lock(&load).drafts;
        let thread = EngineThread { scheduler, inbox, shared, load, drafts_before, options: options.clone() };
        lock(&self.shared.drafts).clone_from(&options.drafts);
        // Its first look at the state comes after this one.
        let mut state = lock(&self.shared.state);
        thread::Builder::new().name(format!("tandem-{}", self.name)).spawn(move || thread.run())?;
        *state = State::Ready(Running { model, decoder: shared_decoder, context_tokens, jobs });
        Ok(())
    }

    /// Says that the model can't be had.
    pub fn fail(&self, reason: String) {
        *lock(&self.shared.state) = State::Failed(reason);
    }

    /// What the engine has to do and what it holds: nothing while the model is not in memory. Drafted tokens are
    /// those since the process began.
    pub fn load(&self) -> Load {
        *lock(&self.shared.load)
    }

    /// The model, while it is in memory.
    pub fn model(&self) -> Option<Arc<Model>> {
        match &*lock(&self.shared.state) {
            State::Ready(running) => Some(running.model.clone()),
            State::Loading | State::Failed(_) | State::Idle { .. } => None,
        }
    }

    /// Why its model is not in memory, if it is not.
    fn absence(&self) -> Option<String> {
        match &*lock(&self.shared.state) {
            State::Ready(_) => None,
            State::Loading => Some(format!("{} is still loading", self.name)),
            State::Failed(reason) => Some(format!("{} is not available: {reason}", self.name)),
            State::Idle { .. } => Some(format!("{} is out of memory until it is called", self.name)),
        }
    }

    /// The running engine; brings its model back if it was idle. Blocks meanwhile.
    fn running(&self) -> Result<Running, BackendError> {
        let returning = match &*lock(&self.shared.state) {
            State::Ready(running) => return Ok(running.clone()),
            State::Loading => return Err(unready(format!("{} is still loading", self.name))),
            State::Failed(reason) => {
                return Err(unready(format!("{} is not available: {reason}", self.name)));
            }
            State::Idle { .. } => &self.shared.returning,
        };
        let _alone = lock(returning);
        let (options, idle) = match &*lock(&self.shared.state) {
            State::Idle { options, idle, .. } => (options.clone(), idle.clone()),
            State::Ready(running) => return Ok(running.clone()),
            State::Loading | State::Failed(_) => {
                return Err(unready(format!("{} is not available any more", self.name)));
            }
        };
        let failed = |reason: String| unready(format!("{} can't be loaded again: {reason}", self.name));
        let model = (idle.load)().map_err(failed)?;
        self.start(model, &options).map_err(|error| failed(error.to_string()))?;
        match &*lock(&self.shared.state) {
            State::Ready(running) => Ok(running.clone()),
            _ => Err(failed("it has left at once".to_owned())),
        }
    }

    /// Makes the engine's job of a call and hands it over.
    fn submit(&self, call: &Call, events: &mpsc::UnboundedSender<Event>) -> Result<(), BackendError> {
        let Running { model, .. } = self.running()?;
        let mut job = self.job(call, model, events)?;
        for _ in 0..HANDOVER_ATTEMPTS {
            // The engine leaves only under the lock, and only if nothing was handed over.
            let refused = match &*lock(&self.shared.state) {
                State::Ready(running) => running.jobs.try_send(job),
                _ => Err(queue::TrySendError::Disconnected(job)),
            };
            job = match refused {
                Ok(()) => return Ok(()),
                Err(queue::TrySendError::Full(_)) => {
                    return Err(busy(&SubmitError::QueueFull { waiting: HANDOVER_MAX }));
                }
                Err(queue::TrySendError::Disconnected(job)) => job,
            };
            self.running()?;
        }
        Err(BackendError::new(FailureKind::Internal, format!("the engine of {} has stopped", self.name)))
    }

    fn job(
        &self,
        call: &Call,
        model: Arc<Model>,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<Job, BackendError> {
        let request = &call.request;
        let prompt = prompt_ids(&model, &self.name, &request.input)?;
        let prompt_tokens = prompt.len() as u64;
        let wanted = request.top_logprobs.map(usize::from);
        let tells_tokens = call.signals || wanted.is_some();
        let sink = Channel { model, tells_tokens, prompt_tokens, events: events.clone() };
        let after = request.deadline_ms.map(Duration::from_millis);
        Ok(Job {
            prompt,
            max_tokens: request.max_tokens.map(|n| n as usize),
            stop: request.stop.clone(),
            sampling: sampling(request),
            // The policy's signals are the likeliest token's.
            top_logprobs: wanted.unwrap_or(0).max(usize::from(call.signals)),
            client: call.tenant.clone(),
            speculative: request.options.speculative.unwrap_or(true),
            priority: match request.options.priority {
                contract::Priority::Interactive => Priority::Interactive,
                contract::Priority::Background => Priority::Background,
            },
            deadline: after.and_then(|after| Instant::now().checked_add(after)),
            sink: Box::new(sink),
        })
    }
}

impl Backend for EmbeddedBackend {
    fn info(&self) -> BackendInfo {
        let context_tokens = match &*lock(&self.shared.state) {
            State::Ready(Running { context_tokens, .. }) | State::Idle { context_tokens, .. } => {
                u32::try_from(*context_tokens).ok()
            }
            State::Loading | State::Failed(_) => None,
        };
        BackendInfo {
            model: self.name.to_string(),
            kind: BackendKind::Embedded,
            context_tokens,
            price: self.price,
        }
    }

    fn readiness(&self) -> Readiness {
        match &*lock(&self.shared.state) {
            State::Loading => Readiness::Loading,
            State::Failed(reason) => Readiness::Failed(reason.clone()),
            State::Ready(_) | State::Idle { .. } => Readiness::Ready,
        }
    }

    fn drafting(&self) -> Option<Drafting> {
        if self.readiness() != Readiness::Ready {
            return None;
        }
        let drafters = lock(&self.shared.drafts).as_ref().map_or_else(Vec::new, DraftOptions::states);
        let DraftCounts { accepted, rejected } = self.load().drafts;
        Some(Drafting { drafters, accepted_tokens: accepted, rejected_tokens: rejected })
    }

    fn call(&self, call: Call) -> EventStream {
        // Unbounded in type only: a job writes at most its context's tokens.
        let (events, stream) = mpsc::unbounded_channel();
        let backend = self.clone();
        // Rendering and tokenizing a long prompt takes too long for a thread that serves sockets.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = backend.submit(&call, &events) {
                // Whoever has left needs no answer.
                let _ = events.send(Event::Failed(error));
            }
        });
        Box::pin(UnboundedReceiverStream::new(stream))
    }
}

/// The engine's thread: takes calls in and steps while there is work. Ends with its backend, or when it has
/// been idle for long.
struct EngineThread {
    scheduler: Scheduler,
    inbox: queue::Receiver<Job>,
    /// Where it says that it leaves. Weak: when the backend is dropped, the inbox must close.
    shared: Weak<Shared>,
    load: Arc<Mutex<Load>>,
    /// Drafted tokens before the model was loaded again.
    drafts_before: DraftCounts,
    options: EmbeddedOptions,
}

impl EngineThread {
    fn run(mut self) {
        loop {
            let is_busy = self.scheduler.step();
            *lock(&self.load) = self.load_now();
            let next = match (is_busy, &self.options.idle) {
                (true, _) => self.inbox.try_recv(),
                (false, None) => self.inbox.recv().map_err(queue::RecvError::into),
                (false, Some(idle)) => match self.inbox.recv_timeout(idle.after) {
                    Err(queue::RecvTimeoutError::Timeout) => match self.leave(idle.clone()) {
                        Some(job) => Ok(job),
                        None => return,
                    },
                    Err(queue::RecvTimeoutError::Disconnected) => Err(queue::TryRecvError::Disconnected),
                    Ok(job) => Ok(job),
                },
            };
            if !self.take_in(next) {
                // Nobody can ask any more; what runs is finished for those who still listen.
                while self.scheduler.step() {}
                return;
            }
        }
    }

    /// Takes `next` in and all that has come meanwhile. False when no more can come.
    fn take_in(&mut self, mut next: Result<Job, queue::TryRecvError>) -> bool {
        loop {
            match next {
                Ok(job) => self.scheduler.submit(job),
                Err(queue::TryRecvError::Empty) => return true,
                Err(queue::TryRecvError::Disconnected) => return false,
            }
            next = self.inbox.try_recv();
        }
    }

    /// Gives the model up, unless a job has come after all.
    fn leave(&self, idle: IdleUnload) -> Option<Job> {
        let shared = self.shared.upgrade()?;
        let mut state = lock(&shared.state);
        if let Ok(job) = self.inbox.try_recv() {
            return Some(job);
        }
        if let State::Ready(Running { context_tokens, .. }) = &*state {
            *state = State::Idle {
                context_tokens: *context_tokens,
                options: Box::new(self.options.clone()),
                idle,
            };
        }
        let mut load = lock(&self.load);
        *load = Load { drafts: load.drafts, ..Load::default() };
        None
    }

    fn load_now(&self) -> Load {
        let load = self.scheduler.load();
        let drafts = DraftCounts {
            accepted: self.drafts_before.accepted + load.drafts.accepted,
            rejected: self.drafts_before.rejected + load.drafts.rejected,
        };
        Load { drafts, ..load }
    }
}

fn unready(message: String) -> BackendError {
    BackendError { retry_after_s: Some(RETRY_AFTER_S), ..BackendError::new(FailureKind::Unready, message) }
}

fn busy(error: &SubmitError) -> BackendError {
    BackendError {
        retry_after_s: Some(RETRY_AFTER_S),
        ..BackendError::new(FailureKind::Busy, error.to_string())
    }
}

/// A scheduler's sink that is a call's event stream.
struct Channel {
    model: Arc<Model>,
    /// Whether anyone asked for log-probabilities.
    tells_tokens: bool,
    prompt_tokens: u64,
    events: mpsc::UnboundedSender<Event>,
}

impl Channel {
    fn emit(&self, event: Event) {
        // A closed channel is seen by `is_closed`.
        let _ = self.events.send(event);
    }

    fn token(&self, sampled: &engine::sampling::Sampled) -> TokenLogprob {
        let piece = |id: u32| {
            let bytes = self.model.tokenizer().piece(id).to_vec();
            (String::from_utf8_lossy(&bytes).into_owned(), bytes)
        };
        let (token, bytes) = piece(sampled.id);
        let top = sampled.top.iter().map(|&(id, logprob)| {
            let (token, bytes) = piece(id);
            (token, bytes, logprob)
        });
        TokenLogprob { token, bytes, logprob: sampled.logprob, top: top.collect(), entropy: sampled.entropy }
    }
}

impl Sink for Channel {
    fn send(&mut self, output: Output) {
        self.emit(match output {
            Output::Started { cached_tokens } => Event::Started(Usage {
                prompt_tokens: self.prompt_tokens,
                cached_tokens: cached_tokens as u64,
                ..Usage::default()
            }),
            Output::Text { text, token, is_drafted } => {
                let told = token.filter(|_| self.tells_tokens);
                let tokens = told.iter().map(|t| self.token(t)).collect();
                Event::Delta(Delta { text, tokens, is_drafted, tool_calls: Vec::new() })
            }
            Output::Finished(finished) => Event::Finished(translate(&finished)),
            Output::Failed(error) => {
                Event::Failed(BackendError::new(FailureKind::Internal, error.to_string()))
            }
            Output::Expired => Event::Failed(BackendError::new(
                FailureKind::Deadline,
                "the request's deadline passed before its answer was complete",
            )),
        });
    }

    fn refuse(&mut self, error: &SubmitError) {
        self.emit(Event::Failed(match error {
            SubmitError::QueueFull { .. } => busy(error),
            SubmitError::TooLong { .. } => BackendError::new(FailureKind::TooLong, error.to_string()),
            SubmitError::EmptyPrompt | SubmitError::Token { .. } => {
                BackendError::new(FailureKind::BadInput, error.to_string())
            }
        }));
    }

    fn is_closed(&self) -> bool {
        self.events.is_closed()
    }
}

fn translate(finished: &Finished) -> contract::Finished {
    contract::Finished {
        reason: match finished.reason {
            StopReason::EndOfGeneration | StopReason::StopString => FinishReason::Stop,
            StopReason::Length => FinishReason::Length,
        },
        usage: Usage {
            prompt_tokens: finished.prompt_tokens as u64,
            cached_tokens: finished.cached_tokens as u64,
            completion_tokens: finished.completion_tokens as u64,
            accepted_prediction_tokens: finished.accepted_tokens as u64,
            rejected_prediction_tokens: finished.rejected_tokens as u64,
        },
        timings: Timings {
            queue_ms: finished.queue_ms,
            prompt_ms: finished.prompt_ms,
            decode_ms: finished.decode_ms,
        },
    }
}

/// The prompt's tokens: the chat template's text with its special tokens, or the raw text.
fn prompt_ids(model: &Model, name: &str, input: &Input) -> Result<Vec<u32>, BackendError> {
    let bad = |message: String| BackendError::new(FailureKind::BadInput, message);
    let tokenizer = model.tokenizer();
    let (messages, tools) = match input {
        Input::Completion { prompt } => return Ok(tokenizer.encode(prompt, true, false)),
        Input::Chat { messages, tools } => (messages, tools),
    };
    let Some(template) = model.template() else {
        return Err(bad(format!("{name} has no chat template (a base model): use /v1/completions")));
    };
    let messages = Value::Array(messages.iter().map(template_message).collect());
    let tools = Value::Array(tools.clone());
    let text = |id: Option<u32>| {
        id.map(|id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned()).unwrap_or_default()
    };
    let (bos_token, eos_token) = (text(tokenizer.bos()), text(tokenizer.eos()));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let rendered = template.render(&RenderInput {
        messages: &messages,
        tools: Some(&tools).filter(|t| t.as_array().is_some_and(|t| !t.is_empty())),
        add_generation_prompt: true,
        bos_token: &bos_token,
        eos_token: &eos_token,
        now_unix_s: i64::try_from(now.as_secs()).unwrap_or_default(),
    });
    let rendered = rendered.map_err(|error| bad(error.to_string()))?;
    Ok(tokenizer.encode(&rendered, false, true))
}

/// A message as templates expect it: text is never null, arguments are objects.
fn template_message(message: &Message) -> Value {
    let mut value = serde_json::to_value(message).unwrap_or_default();
    if message.content.is_none() {
        value["content"] = Value::String(String::new());
    }
    let calls = value.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let arguments = &mut call["function"]["arguments"];
        if let Some(parsed) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok()) {
            *arguments = parsed;
        }
    }
    value
}

fn sampling(request: &Request) -> SamplingParams {
    let s = &request.sampling;
    SamplingParams {
        temperature: s.temperature,
        top_k: s.top_k,
        top_p: s.top_p,
        min_p: s.min_p,
        repetition_penalty: s.repetition_penalty,
        presence_penalty: s.presence_penalty,
        frequency_penalty: s.frequency_penalty,
        logit_bias: s.logit_bias.clone(),
        seed: s.seed.unwrap_or_else(|| seed_of(&request.id)),
        // Who gives a seed wants its tokens again, whatever was drafted meanwhile.
        reproducible: s.seed.is_some(),
    }
}

/// FNV-1a over the id: requests without a seed differ, and a recorded one can be repeated.
fn seed_of(id: &str) -> u64 {
    id.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
