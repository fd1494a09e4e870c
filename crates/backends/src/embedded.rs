//! The engine in this process: [`EmbeddedBackend`].
//!
//! One thread per model runs the engine's scheduler; calls reach it over a bounded queue, output comes
//! back over a channel per call. Dropping a call's stream closes its channel, which the scheduler sees
//! before its next step. A model that nobody has called for a while can leave memory; the next call
//! brings it back.

mod drafts;
mod reading;
mod request;

use std::fmt;
use std::sync::mpsc as queue;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use contract::{
    Backend, BackendError, BackendInfo, BackendKind, Call, Delta, Drafting, Event, EventStream, FailureKind,
    FinishReason, Price, ReadFuture, ReadOptions, Readiness, Timings, TokenLogprob, Usage,
};
use engine::decoder::{Decoder, DecoderOptions, LayerSet, SharedDecoder};
use engine::model::Model;
use engine::scheduler::{
    DraftCounts, Finished, Job, Load, Output, Scheduler, SchedulerLimits, Sink, StopReason, SubmitError,
    Turns,
};
use kernels::isa::Isa;
use kernels::pool::Pool;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

pub use self::drafts::DraftOptions;
use self::request::{job, prompt_ids};

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

/// What reaches the engine's thread.
enum Message {
    Job(Box<Job>),
    /// Somebody has let a job go on, or has left it.
    Wake,
}

#[derive(Clone)]
struct Running {
    model: Arc<Model>,
    /// For those that this model drafts for.
    decoder: Arc<SharedDecoder>,
    context_tokens: usize,
    jobs: queue::SyncSender<Message>,
    reading_layers: LayerSet,
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
        let reading_layers = options.decoder.reading_layers.up_to(model.spec().layers.len());
        let (jobs, inbox) = queue::sync_channel(HANDOVER_MAX);
        let context_tokens = model.spec().context_tokens.min(options.decoder.kv_tokens);
        let (shared, load) = (Arc::downgrade(&self.shared), self.shared.load.clone());
        let drafts_before = lock(&load).drafts;
        let thread = EngineThread { scheduler, inbox, shared, load, drafts_before, options: options.clone() };
        lock(&self.shared.drafts).clone_from(&options.drafts);
        // Its first look at the state comes after this one.
        let mut state = lock(&self.shared.state);
        thread::Builder::new().name(format!("tandem-{}", self.name)).spawn(move || thread.run())?;
        *state =
            State::Ready(Running { model, decoder: shared_decoder, context_tokens, jobs, reading_layers });
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
        let prompt = prompt_ids(&model, &self.name, &call.request.input)?;
        self.hand_over(job((call, prompt), model, (events, None)))
    }

    fn hand_over(&self, job: Job) -> Result<(), BackendError> {
        let mut message = Message::Job(Box::new(job));
        for _ in 0..HANDOVER_ATTEMPTS {
            // The engine leaves only under the lock, and only if nothing was handed over.
            let refused = match &*lock(&self.shared.state) {
                State::Ready(running) => running.jobs.try_send(message),
                _ => Err(queue::TrySendError::Disconnected(message)),
            };
            message = match refused {
                Ok(()) => return Ok(()),
                Err(queue::TrySendError::Full(_)) => {
                    return Err(busy(&SubmitError::QueueFull { waiting: HANDOVER_MAX }));
                }
                Err(queue::TrySendError::Disconnected(message)) => message,
            };
            self.running()?;
        }
        Err(BackendError::new(FailureKind::Internal, format!("the engine of {} has stopped", self.name)))
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

    fn read(&self, call: Call, options: &ReadOptions) -> ReadFuture {
        reading::read(self.clone(), call, options.clone())
    }
}

/// The engine's thread: takes calls in and steps while there is work. Ends with its backend, or when it has
/// been idle for long.
struct EngineThread {
    scheduler: Scheduler,
    inbox: queue::Receiver<Message>,
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
                    // A job waits for somebody's word.
                    Err(queue::RecvTimeoutError::Timeout) if self.scheduler.load().running > 0 => {
                        Err(queue::TryRecvError::Empty)
                    }
                    Err(queue::RecvTimeoutError::Timeout) => match self.leave(idle.clone()) {
                        Some(message) => Ok(message),
                        None => return,
                    },
                    Err(queue::RecvTimeoutError::Disconnected) => Err(queue::TryRecvError::Disconnected),
                    Ok(message) => Ok(message),
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
    fn take_in(&mut self, mut next: Result<Message, queue::TryRecvError>) -> bool {
        loop {
            match next {
                Ok(Message::Job(job)) => self.scheduler.submit(*job),
                Ok(Message::Wake) => {}
                Err(queue::TryRecvError::Empty) => return true,
                Err(queue::TryRecvError::Disconnected) => return false,
            }
            next = self.inbox.try_recv();
        }
    }

    /// Gives the model up, unless a job has come after all.
    fn leave(&self, idle: IdleUnload) -> Option<Message> {
        let shared = self.shared.upgrade()?;
        let mut state = lock(&shared.state);
        if let Ok(message) = self.inbox.try_recv() {
            return Some(message);
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
    cached_tokens: u64,
    /// Who is told of the reading, if anybody wants one.
    told: Option<reading::Told>,
    events: mpsc::UnboundedSender<Event>,
}

impl Channel {
    /// What is known of it before anything is written.
    fn usage(&self) -> Usage {
        Usage { prompt_tokens: self.prompt_tokens, cached_tokens: self.cached_tokens, ..Usage::default() }
    }

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
        let event = match output {
            Output::Started { cached_tokens } => {
                self.cached_tokens = cached_tokens as u64;
                Event::Started(self.usage())
            }
            Output::Read { states, tokens, next, queue_ms, prompt_ms } => {
                let timings = Timings { queue_ms, prompt_ms, decode_ms: 0.0 };
                return self.tell_reading((states, tokens), next, timings);
            }
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
        };
        self.emit(event);
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
