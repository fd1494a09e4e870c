//! The engine in this process: [`EmbeddedBackend`].
//!
//! One thread per model runs the engine's scheduler; calls reach it over a bounded queue, output comes
//! back over a channel per call. Dropping a call's stream closes its channel, which the scheduler sees
//! before its next step.

use std::sync::mpsc as queue;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use contract::{
    Backend, BackendError, BackendInfo, BackendKind, Call, Delta, Event, EventStream, FailureKind,
    FinishReason, Input, Message, Price, Readiness, Request, Timings, TokenLogprob, Usage,
};
use engine::decoder::{Decoder, DecoderOptions};
use engine::model::Model;
use engine::sampling::SamplingParams;
use engine::scheduler::{Finished, Job, Output, Scheduler, SchedulerLimits, Sink, StopReason, SubmitError};
use engine::template::RenderInput;
use kernels::isa::Isa;
use kernels::pool::Pool;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Calls handed to the engine's thread that it has not looked at yet.
const HANDOVER_MAX: usize = 1024;
/// Seconds after which a client refused by a full queue may try again.
const RETRY_AFTER_S: u64 = 2;

/// What a loaded model runs with.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Threads to compute with; two models may share one pool.
    pub pool: Arc<Pool>,
    /// The instruction set.
    pub isa: Isa,
    /// Requests written at once.
    pub sequences: usize,
    /// Positions of the key-value cache, shared by all requests.
    pub kv_tokens: usize,
    /// Requests that may wait.
    pub queue_max: usize,
}

/// A local model as a backend. Clones share it. Calls need a Tokio runtime around them.
#[derive(Clone)]
pub struct EmbeddedBackend {
    name: Arc<str>,
    price: Price,
    state: Arc<Mutex<State>>,
}

enum State {
    Loading,
    Failed(String),
    Ready { model: Arc<Model>, context_tokens: usize, jobs: queue::SyncSender<Job> },
}

impl std::fmt::Debug for EmbeddedBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

impl EmbeddedBackend {
    /// A backend whose model is still to come; until then calls fail as not ready.
    pub fn loading(name: String, price: Price) -> Self {
        EmbeddedBackend { name: name.into(), price, state: Arc::new(Mutex::new(State::Loading)) }
    }

    /// Gives it its model and starts its thread.
    ///
    /// # Errors
    /// If the system has no thread for it, or the cache's type does not suit the model.
    pub fn start(&self, model: Arc<Model>, options: &EmbeddedOptions) -> std::io::Result<()> {
        let decoder_options = DecoderOptions::new(options.sequences, options.kv_tokens);
        let decoder = Decoder::new(model.clone(), options.pool.clone(), options.isa, decoder_options)
            .map_err(std::io::Error::other)?;
        let limits = SchedulerLimits {
            running_max: options.sequences,
            waiting_max: options.queue_max,
            kv_tokens: options.kv_tokens,
        };
        let scheduler = Scheduler::new(decoder, options.isa, limits);
        let (jobs, inbox) = queue::sync_channel(HANDOVER_MAX);
        let name = format!("tandem-{}", self.name);
        thread::Builder::new().name(name).spawn(move || run(scheduler, &inbox))?;
        let context_tokens = model.spec().context_tokens.min(options.kv_tokens);
        *self.lock() = State::Ready { model, context_tokens, jobs };
        Ok(())
    }

    /// Says that the model can't be had.
    pub fn fail(&self, reason: String) {
        *self.lock() = State::Failed(reason);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the engine's job of a call and hands it over.
    fn submit(&self, call: &Call, events: &mpsc::UnboundedSender<Event>) -> Result<(), BackendError> {
        let (model, jobs) = match &*self.lock() {
            State::Loading => return Err(unready(format!("{} is still loading", self.name))),
            State::Failed(reason) => {
                return Err(unready(format!("{} is not available: {reason}", self.name)));
            }
            State::Ready { model, jobs, .. } => (model.clone(), jobs.clone()),
        };
        let request = &call.request;
        let prompt = prompt_ids(&model, &self.name, &request.input)?;
        let usage = Usage { prompt_tokens: prompt.len() as u64, ..Usage::default() };
        let wanted = request.top_logprobs.map(usize::from);
        let tells_tokens = call.signals || wanted.is_some();
        let sink = Channel { model, tells_tokens, usage, events: events.clone() };
        let job = Job {
            prompt,
            max_tokens: request.max_tokens.map(|n| n as usize),
            stop: request.stop.clone(),
            sampling: sampling(request),
            // The policy's signals are the likeliest token's.
            top_logprobs: wanted.unwrap_or(0).max(usize::from(call.signals)),
            sink: Box::new(sink),
        };
        jobs.try_send(job).map_err(|error| match error {
            queue::TrySendError::Full(_) => busy(&SubmitError::QueueFull { waiting: HANDOVER_MAX }),
            queue::TrySendError::Disconnected(_) => {
                BackendError::new(FailureKind::Internal, format!("the engine of {} has stopped", self.name))
            }
        })
    }
}

impl Backend for EmbeddedBackend {
    fn info(&self) -> BackendInfo {
        let context_tokens = match &*self.lock() {
            State::Ready { context_tokens, .. } => u32::try_from(*context_tokens).ok(),
            _ => None,
        };
        BackendInfo {
            model: self.name.to_string(),
            kind: BackendKind::Embedded,
            context_tokens,
            price: self.price,
        }
    }

    fn readiness(&self) -> Readiness {
        match &*self.lock() {
            State::Loading => Readiness::Loading,
            State::Failed(reason) => Readiness::Failed(reason.clone()),
            State::Ready { .. } => Readiness::Ready,
        }
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

/// The engine's thread: takes calls in and steps while there is work. Ends with its backend.
fn run(mut scheduler: Scheduler, inbox: &queue::Receiver<Job>) {
    loop {
        let is_busy = scheduler.step();
        let mut next = if is_busy {
            inbox.try_recv()
        } else {
            inbox.recv().map_err(|queue::RecvError| queue::TryRecvError::Disconnected)
        };
        loop {
            match next {
                Ok(job) => scheduler.submit(job),
                Err(queue::TryRecvError::Empty) => break,
                Err(queue::TryRecvError::Disconnected) => {
                    // Nobody can ask any more; what runs is finished for those who still listen.
                    while scheduler.step() {}
                    return;
                }
            }
            next = inbox.try_recv();
        }
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
    usage: Usage,
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
        TokenLogprob { token, bytes, logprob: sampled.logprob, top: top.collect() }
    }
}

impl Sink for Channel {
    fn send(&mut self, output: Output) {
        self.emit(match output {
            Output::Started => Event::Started(self.usage),
            Output::Text { text, token } => {
                let told = token.filter(|_| self.tells_tokens);
                let tokens = told.iter().map(|t| self.token(t)).collect();
                Event::Delta(Delta { text, tokens, tool_calls: Vec::new() })
            }
            Output::Finished(finished) => Event::Finished(translate(&finished)),
            Output::Failed(error) => {
                Event::Failed(BackendError::new(FailureKind::Internal, error.to_string()))
            }
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
            ..Usage::default()
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
    }
}

/// FNV-1a over the id: requests without a seed differ, and a recorded one can be repeated.
fn seed_of(id: &str) -> u64 {
    id.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
