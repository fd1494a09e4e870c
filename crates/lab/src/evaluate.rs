//! Asks backends the questions of a task and judges what they answer: [`Evaluation`].

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contract::{
    Backend, BackendError, Call, Event, EventStream, FailureKind, Input, Message, Read, ReadOptions, Request,
    Role, Sampling, Signals, Target, Usage,
};
use futures_util::StreamExt;
use futures_util::stream;

use crate::checks::{Judged, Tools};
use crate::outcomes::{Outcome, StoredReading};
use crate::rows::{Expected, Row};

/// Rows of a block: its rows are asked of one backend, then of the other, so that a stopped run has
/// (nearly) as many answers of each.
const BLOCK_ROWS: usize = 64;
/// How often a call is made again that was refused for the moment.
const RETRIES_MAX: u32 = 3;
/// Wait before a call is made again where the backend names no time, and the longest that is waited.
const RETRY_WAIT_S: (u64, u64) = (1, 30);

/// Whether prompts are read for their hidden states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// No.
    #[default]
    Off,
    /// After these layers, if the small backend can.
    IfPossible(Vec<u32>),
    /// After these layers; a backend that can't is an error.
    Wanted(Vec<u32>),
}

/// How a task is run.
#[derive(Clone, Debug)]
pub struct EvaluationOptions {
    /// Requests at once.
    pub clients: usize,
    /// Most tokens of an answer, also where its row would allow more.
    pub max_tokens: u32,
    /// What is read of prompts.
    pub reading: Reading,
}

/// Rows, and who is asked.
pub struct Evaluation<'a> {
    rows: &'a [Row],
    backends: Vec<(Role, Arc<dyn Backend>)>,
    tools: Tools,
    options: EvaluationOptions,
    /// Raised when the small backend turned out not to be read with.
    cannot_read: AtomicBool,
}

/// What is told while it runs.
#[derive(Clone, Debug)]
pub enum Told {
    /// A row is answered and judged.
    Outcome(Box<Outcome>),
    /// Nothing is read; why.
    NoReading(String),
}

/// Why an evaluation ends early.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError<E> {
    /// Readings were asked for.
    #[error("the small model's prompt can't be read: {0}")]
    CannotRead(BackendError),
    /// Whoever is told has had enough.
    #[error(transparent)]
    Told(E),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All rows are done.
    Whole,
    /// It was stopped.
    Stopped,
}

/// What is asked of a backend.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Of the row.
    pub id: &'a str,
    /// The conversation.
    pub messages: Vec<Message>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// Who is asked.
    pub role: Role,
    /// Whether tokens' log-probabilities are wanted.
    pub signals: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// The text, as far as it came.
    pub text: String,
    /// Why there is no more of it.
    pub error: Option<BackendError>,
    /// Why it ended, in OpenAI's words.
    pub finish_reason: Option<&'static str>,
    /// What its tokens say.
    pub signals: Signals,
    /// What was processed.
    pub usage: Usage,
}

impl Asked<'_> {
    fn call(&self) -> Call {
        let request = Request {
            target: Target::Fixed(self.role),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: self.max_tokens,
            stream: true,
            ..Request::new(
                format!("eval-{}", self.id),
                Input::Chat { messages: self.messages.clone(), tools: Vec::new() },
            )
        };
        Call { request: Arc::new(request), signals: self.signals, tenant: None }
    }
}

/// Asks a backend; calls that are refused for the moment are made again.
pub async fn ask(backend: &dyn Backend, asked: Asked<'_>) -> Answered {
    for _ in 0..RETRIES_MAX {
        let answered = collect(backend.call(asked.call())).await;
        let Some(wait) = answered.error.as_ref().and_then(retry_wait) else { return answered };
        tokio::time::sleep(wait).await;
    }
    collect(backend.call(asked.call())).await
}

/// How long to wait before a refused call is made again, if that makes sense.
fn retry_wait(error: &BackendError) -> Option<Duration> {
    let (wait_s, wait_s_max) = RETRY_WAIT_S;
    let is_momentary = matches!(error.kind, FailureKind::Busy | FailureKind::Unready);
    is_momentary.then(|| Duration::from_secs(error.retry_after_s.unwrap_or(wait_s).min(wait_s_max)))
}

/// All of an answer.
async fn collect(mut events: EventStream) -> Answered {
    let mut answered = Answered::default();
    while let Some(event) = events.next().await {
        match event {
            Event::Started(usage) => answered.usage = usage,
            Event::Delta(delta) => {
                answered.text.push_str(&delta.text);
                delta.tokens.iter().for_each(|token| answered.signals.add(token));
            }
            Event::Finished(finished) => {
                answered.usage = finished.usage;
                answered.finish_reason = Some(finished.reason.as_str());
                return answered;
            }
            Event::Failed(error) => {
                answered.error = Some(error);
                return answered;
            }
        }
    }
    answered.error = Some(BackendError::new(FailureKind::Internal, "the answer broke off"));
    answered
}

/// An answer, and what was read before it.
struct Given {
    /// `None` where nothing was asked.
    answered: Option<Answered>,
    reading: Option<StoredReading>,
}

impl<'a> Evaluation<'a> {
    /// Rows to be asked of each backend.
    pub fn new(
        rows: &'a [Row],
        backends: Vec<(Role, Arc<dyn Backend>)>,
        tools: Tools,
        options: EvaluationOptions,
    ) -> Self {
        Evaluation { rows, backends, tools, options, cannot_read: AtomicBool::new(false) }
    }

    /// Asks what is not `done` yet, and tells each outcome as it comes, in no order; until `stop` is there.
    ///
    /// # Errors
    /// [`EvaluationError`]; a backend's failure is an outcome and no error.
    pub async fn run<E>(
        &self,
        done: &HashSet<(String, Role)>,
        stop: impl Future<Output = ()>,
        mut tell: impl FnMut(Told) -> Result<(), E>,
    ) -> Result<Ended, EvaluationError<E>> {
        let jobs = self.rows.chunks(BLOCK_ROWS).flat_map(|block| {
            let of = move |(role, backend)| block.iter().map(move |row| (row, role, backend));
            self.backends.iter().map(|(role, backend)| (*role, backend)).flat_map(of)
        });
        let left = jobs.filter(|(row, role, _)| !done.contains(&(row.id.clone(), *role)));
        let asked = stream::iter(left).map(|(row, role, backend)| self.outcome(row, role, backend));
        let mut outcomes = std::pin::pin!(asked.buffer_unordered(self.options.clients.max(1)));
        let mut stop = std::pin::pin!(stop);
        loop {
            let told = tokio::select! {
                biased;
                () = &mut stop => return Ok(Ended::Stopped),
                told = outcomes.next() => told,
            };
            let Some(told) = told else { return Ok(Ended::Whole) };
            let (outcome, refused) = told.map_err(EvaluationError::CannotRead)?;
            if let Some(why) = refused {
                tell(Told::NoReading(why.message)).map_err(EvaluationError::Told)?;
            }
            tell(Told::Outcome(Box::new(outcome))).map_err(EvaluationError::Told)?;
        }
    }

    /// Asks one backend one question. Beside the outcome: why nothing is read, the first time that this
    /// turns out.
    async fn outcome(
        &self,
        row: &Row,
        role: Role,
        backend: &Arc<dyn Backend>,
    ) -> Result<(Outcome, Option<BackendError>), BackendError> {
        let started = Instant::now();
        let mut refused = None;
        let mut given = None;
        if role == Role::Small
            && let Some(options) = self.read_options()
        {
            match self.read(row, backend, &options).await {
                Ok(read) => given = Some(read),
                Err(error) if matches!(self.options.reading, Reading::Wanted(_)) => return Err(error),
                Err(error) => refused = (!self.cannot_read.swap(true, Ordering::Relaxed)).then_some(error),
            }
        }
        let given = match given {
            Some(given) => given,
            None if row.expected.label(role).is_some() => Given { answered: None, reading: None },
            None => {
                let answered = ask(backend.as_ref(), self.asked(row, role)).await;
                Given { answered: Some(answered), reading: None }
            }
        };
        let total_ms = started.elapsed().as_secs_f64() * 1e3;
        let judged = self.judged(row, role, given, backend).await;
        Ok((Outcome { total_ms, ..judged }, refused))
    }

    fn asked<'r>(&self, row: &'r Row, role: Role) -> Asked<'r> {
        let max_tokens =
            row.max_tokens.map_or(self.options.max_tokens, |most| most.min(self.options.max_tokens));
        let messages = row.messages.clone();
        Asked { id: &row.id, messages, max_tokens: Some(max_tokens), role, signals: true }
    }

    /// What to read; `None` if nothing.
    fn read_options(&self) -> Option<ReadOptions> {
        match &self.options.reading {
            Reading::Off => None,
            Reading::IfPossible(_) if self.cannot_read.load(Ordering::Relaxed) => None,
            Reading::IfPossible(layers) | Reading::Wanted(layers) => {
                Some(ReadOptions { layers: layers.clone(), ..ReadOptions::default() })
            }
        }
    }

    /// Reads a row's prompt, and goes on with its answer unless that is known.
    ///
    /// # Errors
    /// If the backend can't be read with. That it could not read this prompt is the answer's error.
    async fn read(
        &self,
        row: &Row,
        backend: &Arc<dyn Backend>,
        options: &ReadOptions,
    ) -> Result<Given, BackendError> {
        let mut read = backend.read(self.asked(row, Role::Small).call(), options).await;
        for _ in 0..RETRIES_MAX {
            let Some(wait) = read.as_ref().err().and_then(retry_wait) else { break };
            tokio::time::sleep(wait).await;
            read = backend.read(self.asked(row, Role::Small).call(), options).await;
        }
        match read {
            Ok(Read { reading, go_on }) => {
                let stored = StoredReading::from(&reading);
                let answered = match row.expected.label(Role::Small) {
                    Some(_) => Answered { usage: reading.usage, ..Answered::default() },
                    None => collect(go_on()).await,
                };
                Ok(Given { answered: Some(answered), reading: Some(stored) })
            }
            Err(error) if error.kind == FailureKind::Internal => Err(error),
            Err(error) => {
                let answered = Answered { error: Some(error), ..Answered::default() };
                Ok(Given { answered: Some(answered), reading: None })
            }
        }
    }

    /// Judges an answer.
    async fn judged(&self, row: &Row, role: Role, given: Given, backend: &Arc<dyn Backend>) -> Outcome {
        let Given { answered, reading } = given;
        let info = backend.info();
        let asked_nothing = answered.is_none();
        let answered = answered.unwrap_or_default();
        let mut error = answered.error.as_ref().map(ToString::to_string);
        let (correct, output) = match &row.expected {
            Expected::Labels { .. } => (row.expected.label(role).unwrap_or(false), None),
            Expected::Check(_) if error.is_some() => (false, None),
            Expected::Check(check) => {
                let judged = Judged { messages: &row.messages, answer: &answered.text };
                let verdict = check.judge(judged, &self.tools).await;
                error = verdict.as_ref().err().map(ToString::to_string);
                (verdict.unwrap_or(false), Some(answered.text))
            }
        };
        Outcome {
            id: row.id.clone(),
            backend: role,
            // A label's is not known here, unless it was read for.
            model: if asked_nothing { String::new() } else { info.model },
            task: row.task.clone(),
            slices: row.slices.clone(),
            correct,
            output,
            error,
            finish_reason: answered.finish_reason.map(str::to_owned),
            signals: answered.signals,
            reading,
            tokens: answered.usage,
            cost_usd: info.price.cost_usd(&answered.usage),
            total_ms: 0.0,
        }
    }
}

#[cfg(test)]
mod tests;
