//! A backend that plays a script: [`ScriptedBackend`], for tests of whatever calls a backend.
//!
//! ```
//! use backends::{Reply, ScriptedBackend};
//! use contract::{BackendError, FailureKind};
//!
//! let busy = BackendError::new(FailureKind::Busy, "the queue is full");
//! let small = ScriptedBackend::new("small-model")
//!     .when("capital of France", Reply::text("Paris.").logprob(-0.01))
//!     .then(Reply::text("first unmatched call").delta_delay_ms(5))
//!     .then(Reply::fails(busy))
//!     .otherwise(Reply::text("every later call"));
//! let seen_by_the_test = small.clone(); // clones share script and counters
//! assert_eq!(seen_by_the_test.calls(), 0);
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::{
    Backend, BackendError, BackendInfo, BackendKind, Call, Delta, Event, EventStream, FailureKind,
    FinishReason, Finished, Price, Read, ReadFuture, ReadOptions, Readiness, Reading, Timings, TokenLogprob,
    Usage,
};
use futures_util::stream;

/// Most calls whose arguments are kept for the test to look at; later ones are only counted.
pub const CALLS_KEPT_MAX: usize = 10_000;

/// How a scripted answer ends.
#[derive(Clone, Debug)]
enum Ending {
    Finish(FinishReason),
    Fail(BackendError),
    Hang,
}

/// One scripted answer: deltas, delays and an ending.
///
/// Like a real backend it tells log-probabilities only when the request or the call asks for them.
#[derive(Clone, Debug)]
pub struct Reply {
    deltas: Vec<Delta>,
    ending: Ending,
    usage: Option<Usage>,
    first_delay: Duration,
    delta_delay: Duration,
}

impl Reply {
    /// An answer of one token per word (a word keeps the white space before it), each with
    /// log-probability -0.1, that ends with [`FinishReason::Stop`].
    pub fn text(text: &str) -> Self {
        Reply::tokens(words(text).into_iter().map(|word| (word, -0.1)))
    }

    /// An answer of these tokens, each with its log-probability, one delta each.
    pub fn tokens<T: Into<String>>(tokens: impl IntoIterator<Item = (T, f32)>) -> Self {
        let delta = |(text, logprob): (T, f32)| {
            let text = text.into();
            let bytes = text.clone().into_bytes();
            let top = vec![(text.clone(), bytes.clone(), logprob)];
            let token = TokenLogprob { token: text.clone(), bytes, logprob, top, entropy: None };
            Delta { text, tokens: vec![token], ..Delta::default() }
        };
        Reply::deltas(tokens.into_iter().map(delta))
    }

    /// An answer of these deltas as they are: several tokens in one, none, or tool calls.
    pub fn deltas(deltas: impl IntoIterator<Item = Delta>) -> Self {
        Reply {
            deltas: deltas.into_iter().collect(),
            ending: Ending::Finish(FinishReason::Stop),
            usage: None,
            first_delay: Duration::ZERO,
            delta_delay: Duration::ZERO,
        }
    }

    /// A failure before the first token.
    pub fn fails(error: BackendError) -> Self {
        Reply { ending: Ending::Fail(error), ..Reply::deltas([]) }
    }

    /// Cuts the answer after `deltas` deltas and fails there.
    pub fn fails_after(mut self, deltas: usize, error: BackendError) -> Self {
        self.deltas.truncate(deltas);
        Reply { ending: Ending::Fail(error), ..self }
    }

    /// Cuts the answer after `deltas` deltas and then says nothing more, until it is dropped.
    pub fn hangs_after(mut self, deltas: usize) -> Self {
        self.deltas.truncate(deltas);
        Reply { ending: Ending::Hang, ..self }
    }

    /// Gives all tokens this log-probability.
    pub fn logprob(mut self, logprob: f32) -> Self {
        for token in self.deltas.iter_mut().flat_map(|delta| &mut delta.tokens) {
            token.logprob = logprob;
            for top in &mut token.top {
                top.2 = logprob;
            }
        }
        self
    }

    /// Ends the answer with this reason.
    pub fn finish(self, reason: FinishReason) -> Self {
        Reply { ending: Ending::Finish(reason), ..self }
    }

    /// Reports this usage instead of the counted one (words of the prompt, tokens of the answer).
    pub fn usage(self, usage: Usage) -> Self {
        Reply { usage: Some(usage), ..self }
    }

    /// Waits before the first delta or the ending: queue and prompt together.
    pub fn first_delay_ms(self, delay_ms: u64) -> Self {
        Reply { first_delay: Duration::from_millis(delay_ms), ..self }
    }

    /// Waits before each later delta.
    pub fn delta_delay_ms(self, delay_ms: u64) -> Self {
        Reply { delta_delay: Duration::from_millis(delay_ms), ..self }
    }
}

/// Splits into words that keep the white space before them; trailing white space is a word.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut in_word = false;
    for character in text.chars() {
        if character.is_whitespace() && in_word {
            words.push(String::new());
        }
        in_word = !character.is_whitespace();
        if let Some(word) = words.last_mut() {
            word.push(character);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What a test may ask about; shared by all clones.
#[derive(Debug)]
struct State {
    readiness: Readiness,
    queue: VecDeque<Reply>,
    calls: Vec<Call>,
    calls_count: usize,
    reads: Vec<Call>,
    cancelled: usize,
    deltas_sent: usize,
}

/// A backend that answers from a script and remembers how it was called.
///
/// A call is answered by the first [`when`](Self::when) whose text the request contains, else by the
/// next unused [`then`](Self::then), else by [`otherwise`](Self::otherwise), else with a failure.
/// Clones share the counters, so a test keeps one and hands the other over.
#[derive(Clone, Debug)]
pub struct ScriptedBackend {
    info: BackendInfo,
    matched: Vec<(String, Reply)>,
    fallback: Option<Reply>,
    /// By what the request contains.
    readings: Vec<(String, Reading)>,
    read_delay: Duration,
    state: Arc<Mutex<State>>,
}

impl ScriptedBackend {
    /// A ready backend of this name without replies, free of charge.
    pub fn new(model: impl Into<String>) -> Self {
        let info = BackendInfo {
            model: model.into(),
            kind: BackendKind::Scripted,
            context_tokens: None,
            price: Price::default(),
        };
        let state = State {
            readiness: Readiness::Ready,
            queue: VecDeque::new(),
            calls: Vec::new(),
            calls_count: 0,
            reads: Vec::new(),
            cancelled: 0,
            deltas_sent: 0,
        };
        ScriptedBackend {
            info,
            matched: Vec::new(),
            fallback: None,
            readings: Vec::new(),
            read_delay: Duration::ZERO,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Sets the price it states.
    pub fn price(mut self, price: Price) -> Self {
        self.info.price = price;
        self
    }

    /// Sets the context length it states; requests are not checked against it.
    pub fn context_tokens(mut self, tokens: u32) -> Self {
        self.info.context_tokens = Some(tokens);
        self
    }

    /// Answers every request whose [`text`](contract::Request::text) contains `needle` with `reply`.
    pub fn when(mut self, needle: impl Into<String>, reply: Reply) -> Self {
        self.matched.push((needle.into(), reply));
        self
    }

    /// Answers the next call that no `when` matches, once.
    pub fn then(self, reply: Reply) -> Self {
        self.state().queue.push_back(reply);
        self
    }

    /// Answers all calls that nothing else answers.
    pub fn otherwise(mut self, reply: Reply) -> Self {
        self.fallback = Some(reply);
        self
    }

    /// Lets it be read with, and show this where no [`reads_when`](Self::reads_when) before it matches.
    pub fn reads(self, reading: Reading) -> Self {
        self.reads_when("", reading)
    }

    /// Shows this of every request whose text contains `needle`; the first that matches counts.
    pub fn reads_when(mut self, needle: impl Into<String>, reading: Reading) -> Self {
        self.readings.push((needle.into(), reading));
        self
    }

    /// Waits before each reading.
    pub fn read_delay_ms(mut self, delay_ms: u64) -> Self {
        self.read_delay = Duration::from_millis(delay_ms);
        self
    }

    /// How often it was read with.
    pub fn reads_count(&self) -> usize {
        self.state().reads.len()
    }

    /// What was read, oldest first.
    pub fn read_log(&self) -> Vec<Call> {
        self.state().reads.clone()
    }

    /// Sets what [`Backend::readiness`] says; while it is not `Ready`, calls fail as `Unready`.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.state().readiness = readiness;
    }

    /// How often it was called.
    pub fn calls(&self) -> usize {
        self.state().calls_count
    }

    /// The calls themselves, oldest first, at most [`CALLS_KEPT_MAX`].
    pub fn call_log(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How many streams were dropped before their last event.
    pub fn cancelled(&self) -> usize {
        self.state().cancelled
    }

    /// How many deltas were handed out over all calls.
    pub fn deltas_sent(&self) -> usize {
        self.state().deltas_sent
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Notes the call and picks its reply.
    fn take_reply(&self, call: &Call) -> Reply {
        let mut state = self.state();
        state.calls_count += 1;
        if state.calls.len() < CALLS_KEPT_MAX {
            state.calls.push(call.clone());
        }
        if state.readiness != Readiness::Ready {
            let message = format!("{} is not ready", self.info.model);
            return Reply::fails(BackendError::new(FailureKind::Unready, message));
        }
        let text = call.request.text();
        let matched = self.matched.iter().find(|(needle, _)| text.contains(needle));
        let reply = matched.map(|(_, reply)| reply.clone());
        let reply = reply.or_else(|| state.queue.pop_front()).or_else(|| self.fallback.clone());
        reply.unwrap_or_else(|| {
            let message = format!("the script of {} has no reply left for: {text}", self.info.model);
            Reply::fails(BackendError::new(FailureKind::Internal, message))
        })
    }
}

/// A poisoned lock only means that some test panicked; the counters are still sound.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for ScriptedBackend {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    fn readiness(&self) -> Readiness {
        self.state().readiness.clone()
    }

    fn read(&self, call: Call, _options: &ReadOptions) -> ReadFuture {
        self.state().reads.push(call.clone());
        let backend = self.clone();
        Box::pin(async move {
            pause(backend.read_delay).await;
            let text = call.request.text();
            let shown = backend.readings.iter().find(|(needle, _)| text.contains(needle));
            let reading = shown.map(|(_, reading)| reading.clone()).ok_or_else(|| {
                let message = format!("the script of {} has no reading", backend.info.model);
                BackendError::new(FailureKind::Internal, message)
            })?;
            Ok(Read { reading, go_on: Box::new(move || backend.call(call)) })
        })
    }

    fn call(&self, call: Call) -> EventStream {
        let reply = self.take_reply(&call);
        let tokens = reply.deltas.iter().map(|delta| delta.tokens.len().max(1) as u64).sum();
        let usage = reply.usage.unwrap_or(Usage {
            prompt_tokens: call.request.text().split_whitespace().count() as u64,
            completion_tokens: tokens,
            ..Usage::default()
        });
        let playing = Playing {
            state: Arc::clone(&self.state),
            tells_logprobs: call.signals || call.request.top_logprobs.is_some(),
            top: usize::from(call.request.top_logprobs.unwrap_or(0)),
            deltas: reply.deltas.into(),
            ending: Some(reply.ending),
            usage,
            delay: reply.first_delay,
            delta_delay: reply.delta_delay,
            started: None,
            first_delta: None,
        };
        Box::pin(stream::unfold(playing, Playing::step))
    }
}

/// One call in progress. Dropped with its ending still ahead, it counts as cancelled.
struct Playing {
    state: Arc<Mutex<State>>,
    tells_logprobs: bool,
    top: usize,
    deltas: VecDeque<Delta>,
    ending: Option<Ending>,
    usage: Usage,
    delay: Duration,
    delta_delay: Duration,
    started: Option<Instant>,
    first_delta: Option<Instant>,
}

impl Playing {
    async fn step(mut self) -> Option<(Event, Self)> {
        self.ending.as_ref()?;
        let Some(started) = self.started else {
            self.started = Some(Instant::now());
            return Some((Event::Started(Usage::default()), self));
        };
        let delay = std::mem::replace(&mut self.delay, self.delta_delay);
        if let Some(mut delta) = self.deltas.pop_front() {
            pause(delay).await;
            self.first_delta.get_or_insert_with(Instant::now);
            lock(&self.state).deltas_sent += 1;
            self.hide_unasked(&mut delta);
            return Some((Event::Delta(delta), self));
        }
        if self.first_delta.is_none() {
            pause(delay).await;
        }
        if matches!(self.ending, Some(Ending::Hang)) {
            std::future::pending::<()>().await;
        }
        match self.ending.take()? {
            Ending::Finish(reason) => {
                let first = self.first_delta.unwrap_or_else(Instant::now);
                let timings = Timings {
                    queue_ms: 0.0,
                    prompt_ms: (first - started).as_secs_f64() * 1e3,
                    decode_ms: first.elapsed().as_secs_f64() * 1e3,
                };
                let finished = Finished { reason, usage: self.usage, timings };
                Some((Event::Finished(finished), self))
            }
            Ending::Fail(error) => Some((Event::Failed(error), self)),
            Ending::Hang => None,
        }
    }

    fn hide_unasked(&self, delta: &mut Delta) {
        if !self.tells_logprobs {
            delta.tokens.clear();
        }
        for token in &mut delta.tokens {
            token.top.truncate(self.top);
        }
    }
}

/// No timer without a delay, so that scripts also run outside a tokio runtime.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        if self.ending.is_some() {
            lock(&self.state).cancelled += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::{Input, Request};
    use futures_util::StreamExt;

    use super::*;

    fn call(prompt: &str) -> Call {
        let request =
            Request { stream: true, ..Request::new("cmpl-1", Input::Completion { prompt: prompt.into() }) };
        Call { request: Arc::new(request), signals: true, tenant: None }
    }

    fn text(events: &[Event]) -> String {
        let texts = events.iter().filter_map(|event| match event {
            Event::Delta(delta) => Some(delta.text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    async fn answer(backend: &ScriptedBackend, prompt: &str) -> Vec<Event> {
        backend.call(call(prompt)).collect().await
    }

    #[tokio::test]
    async fn replies_are_chosen_by_match_then_order_then_fallback() {
        let backend = ScriptedBackend::new("m")
            .then(Reply::text("one"))
            .when("France", Reply::text("Paris"))
            .then(Reply::text("two"))
            .otherwise(Reply::text("rest"));
        let mut texts = Vec::new();
        for prompt in ["a", "in France", "b", "c", "France", "d"] {
            texts.push(text(&answer(&backend, prompt).await));
        }
        assert_eq!(texts, ["one", "Paris", "two", "rest", "Paris", "rest"]);
        assert_eq!((backend.calls(), backend.cancelled(), backend.deltas_sent()), (6, 0, 6));
        assert_eq!(backend.call_log()[1].request.text(), "in France");
    }

    #[tokio::test]
    async fn an_answer_is_started_deltas_finished_with_usage() {
        let backend = ScriptedBackend::new("m").then(Reply::text("Hello  dear world").logprob(-0.5));
        let events = answer(&backend, "say it now").await;
        assert_eq!(events[0], Event::Started(Usage::default()));
        assert_eq!(text(&events), "Hello  dear world");
        let Some(Event::Finished(finished)) = events.last() else { panic!("{events:?}") };
        assert_eq!(finished.reason, FinishReason::Stop);
        assert_eq!((finished.usage.prompt_tokens, finished.usage.completion_tokens), (3, 3));
        let Event::Delta(delta) = &events[2] else { panic!("{events:?}") };
        assert_eq!((delta.tokens[0].token.as_str(), delta.tokens[0].logprob), ("  dear", -0.5));
        assert!(delta.tokens[0].top.is_empty(), "nobody asked for alternatives");
    }

    #[tokio::test]
    async fn logprobs_are_told_only_when_asked_for() {
        let backend = ScriptedBackend::new("m").otherwise(Reply::text("Hi"));
        let mut quiet = call("x");
        quiet.signals = false;
        let events: Vec<Event> = backend.call(quiet).collect().await;
        let Event::Delta(delta) = &events[1] else { panic!("{events:?}") };
        assert!(delta.tokens.is_empty());
    }

    #[tokio::test]
    async fn failures_come_where_the_script_says() {
        let error = BackendError::new(FailureKind::Busy, "full");
        let backend = ScriptedBackend::new("m")
            .then(Reply::fails(error.clone()))
            .then(Reply::text("a b c d").fails_after(2, error.clone()));
        assert_eq!(
            answer(&backend, "x").await,
            [Event::Started(Usage::default()), Event::Failed(error.clone())]
        );
        let events = answer(&backend, "x").await;
        assert_eq!(text(&events), "a b");
        assert_eq!(events.last(), Some(&Event::Failed(error)));
        let Some(Event::Failed(error)) = answer(&backend, "x").await.pop() else { panic!("no failure") };
        assert_eq!(error.kind, FailureKind::Internal, "the script is used up");
        assert_eq!(backend.cancelled(), 0);
    }

    #[tokio::test]
    async fn an_unready_backend_fails_its_calls() {
        let backend = ScriptedBackend::new("m").otherwise(Reply::text("x"));
        backend.set_readiness(Readiness::Loading);
        assert_eq!(backend.readiness(), Readiness::Loading);
        let Some(Event::Failed(error)) = answer(&backend, "x").await.pop() else { panic!("no failure") };
        assert_eq!(error.kind, FailureKind::Unready);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_pass_and_dropping_counts_as_cancelled() {
        let reply = Reply::text("a b c").first_delay_ms(100).delta_delay_ms(10);
        let backend = ScriptedBackend::new("m").then(reply).then(Reply::text("a b").hangs_after(1));
        let start = tokio::time::Instant::now();
        answer(&backend, "x").await;
        assert_eq!(start.elapsed(), Duration::from_millis(120));

        let mut hanging = backend.call(call("x"));
        assert_eq!(hanging.next().await, Some(Event::Started(Usage::default())));
        assert!(matches!(hanging.next().await, Some(Event::Delta(_))));
        let third = tokio::time::timeout(Duration::from_secs(3600), hanging.next()).await;
        assert!(third.is_err(), "it hangs");
        drop(hanging);
        assert_eq!(backend.cancelled(), 1);
    }
}
