//! One HTTP exchange with an upstream, from the request to the last event: [`Exchange`].

use std::time::Duration;

use bytes::Bytes;
use contract::{BackendError, Call, Delta, Event, FinishReason, Finished, Input, Timings, Usage};
use reqwest::Response;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Upstream;
use super::answer::Answer;
use super::body::body;
use super::failure::{Faults, TimeLimit, content_type, is_html};
use super::sse::{EVENT_BYTES_MAX, SseDecoder, SseEvent};

/// Longest wait, after the last piece of an answer, for its usage and `[DONE]`, milliseconds.
const EPILOGUE_TIMEOUT_MS: u64 = 1_000;
/// Pause before the first repeated connection, doubled each time, milliseconds.
const RECONNECT_PAUSE_MS: u64 = 100;
/// Bytes per token where an upstream tells no usage: about right for English.
const BYTES_PER_TOKEN_ESTIMATE: u64 = 4;

/// Most of an answer that is no JSON that is looked at for an error message, bytes; more than is
/// quoted, so that no key is cut in two before it is masked.
const NONSENSE_BYTES_MAX: usize = 16 << 10;

/// The reader of the events went away: nobody is left to answer.
struct Abandoned;

/// How an exchange is cut short.
enum Stop {
    Failed(BackendError),
    Abandoned,
}

impl From<BackendError> for Stop {
    fn from(error: BackendError) -> Self {
        Stop::Failed(error)
    }
}

impl From<Abandoned> for Stop {
    fn from(_: Abandoned) -> Self {
        Stop::Abandoned
    }
}

/// One call of one upstream in progress.
pub(super) struct Exchange<'a> {
    upstream: &'a Upstream,
    call: &'a Call,
    events: &'a mpsc::Sender<Event>,
    answer: Answer,
    begun: Instant,
    /// When the first and the latest delta came.
    deltas: Option<(Instant, Instant)>,
    bytes: usize,
    /// The response, left where the caller can drain it once the answer is complete.
    response: Option<Response>,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(upstream: &'a Upstream, call: &'a Call, events: &'a mpsc::Sender<Event>) -> Self {
        let tells_logprobs = call.signals || call.request.top_logprobs.is_some();
        let top = usize::from(call.request.top_logprobs.unwrap_or(0));
        Exchange {
            upstream,
            call,
            events,
            answer: Answer::new(tells_logprobs, top),
            begun: Instant::now(),
            deltas: None,
            bytes: 0,
            response: None,
        }
    }

    /// Runs it to its last event, which is returned; `None` if nobody listens any more.
    pub(super) async fn run(&mut self) -> Option<Event> {
        match self.answer().await {
            Ok(()) => Some(Event::Finished(self.finished())),
            Err(Stop::Failed(error)) => Some(Event::Failed(error)),
            Err(Stop::Abandoned) => None,
        }
    }

    /// Reads the few bytes that follow the answer, so that the connection can be used again.
    pub(super) async fn drain(self) {
        let Some(mut response) = self.response else { return };
        let limit = Duration::from_millis(EPILOGUE_TIMEOUT_MS);
        let _ =
            tokio::time::timeout(limit, async { while let Ok(Some(_)) = response.chunk().await {} }).await;
    }

    fn faults(&self) -> Faults<'a> {
        self.upstream.faults()
    }

    async fn answer(&mut self) -> Result<(), Stop> {
        let response = self.send().await?;
        if !response.status().is_success() {
            return Err(self.faults().status(response).await.into());
        }
        if is_html(response.headers()) {
            let what = "answered with a web page instead of JSON; check the URL, and proxies in between";
            return Err(self.faults().upstream(what).into());
        }
        let is_json = content_type(response.headers()).starts_with("application/json");
        self.response = Some(response);
        self.emit(Event::Started(Usage::default())).await?;
        if self.upstream.settings.stream && !is_json {
            self.read_stream().await?;
        } else {
            self.read_whole().await?;
        }
        if self.answer.aborted {
            return Err(self.faults().upstream("gave up in the middle of the answer").into());
        }
        Ok(())
    }

    /// Sends the request and waits for the head of the response. Only a connection that could not
    /// be made is tried again.
    async fn send(&self) -> Result<Response, BackendError> {
        let settings = &self.upstream.settings;
        let url = match self.call.request.input {
            Input::Chat { .. } => &self.upstream.chat_url,
            Input::Completion { .. } => &self.upstream.completions_url,
        };
        let body = body(self.call, settings)?;
        let mut retries = 0;
        loop {
            let mut request = self.upstream.client.post(url.clone()).json(&body);
            if let Some(authorization) = &self.upstream.authorization {
                request = request.header("authorization", authorization.clone());
            }
            let wait = if settings.stream { Wait::FirstByte } else { Wait::Total };
            let error = match self.within(wait, request.send()).await? {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if !error.is_connect() || error.is_timeout() || retries >= settings.connect_retries_max {
                return Err(self.faults().transport(&error));
            }
            let pause_ms = RECONNECT_PAUSE_MS << retries.min(6);
            tracing::debug!(host = self.upstream.host, retries, pause_ms, "no connection; trying again");
            self.within(wait, tokio::time::sleep(Duration::from_millis(pause_ms))).await?;
            retries += 1;
        }
    }

    async fn read_stream(&mut self) -> Result<(), Stop> {
        let mut decoder = SseDecoder::new(EVENT_BYTES_MAX);
        let mut events = Vec::new();
        loop {
            let next = self.next_chunk().await;
            let chunk = match next {
                Ok(chunk) => chunk,
                // The answer is complete; only its epilogue is missing.
                Err(Stop::Failed(_)) if self.answer.finish.is_some() => return Ok(()),
                Err(stop) => return Err(stop),
            };
            let ended = chunk.is_none();
            let decoded = match chunk {
                Some(chunk) => decoder.push(&chunk, &mut events),
                None => std::mem::replace(&mut decoder, SseDecoder::new(0)).finish(&mut events),
            };
            decoded.map_err(|_| self.too_large("an event", EVENT_BYTES_MAX))?;
            for event in events.drain(..) {
                if self.take_event(&event).await? {
                    return Ok(());
                }
            }
            if ended {
                return self.check_end();
            }
        }
    }

    /// Takes one event; true at `[DONE]`.
    async fn take_event(&mut self, event: &SseEvent) -> Result<bool, Stop> {
        let data = event.data.trim();
        if data == "[DONE]" {
            self.answer.finish.get_or_insert(FinishReason::Stop);
            return Ok(true);
        }
        let parsed = serde_json::from_str::<Value>(data).ok().filter(Value::is_object);
        if let (Some(chunk), false) = (&parsed, event.name == "error") {
            self.take_json(chunk).await?;
            return Ok(false);
        }
        if self.answer.finish.is_some() {
            return Ok(false);
        }
        if event.name == "error" {
            let described = parsed.as_ref().and_then(|error| self.faults().in_answer(error));
            let plain = || self.faults().upstream(&format!("failed: {}", self.faults().quote(data)));
            return Err(described.unwrap_or_else(plain).into());
        }
        let what = format!("sent an event that is no JSON object: {}", self.faults().quote(data));
        Err(self.faults().upstream(&what).into())
    }

    async fn read_whole(&mut self) -> Result<(), Stop> {
        let mut body = Vec::new();
        while let Some(chunk) = self.next_chunk().await? {
            body.extend_from_slice(&chunk);
        }
        match serde_json::from_slice::<Value>(&body) {
            Ok(json) => self.take_json(&json).await?,
            Err(error) => {
                let start = body.get(..body.len().min(NONSENSE_BYTES_MAX)).unwrap_or_default();
                let start = self.faults().quote(&String::from_utf8_lossy(start));
                let what = format!("answered with something that is no JSON ({error}): {start}");
                return Err(self.faults().upstream(&what).into());
            }
        }
        if self.answer.finish.is_none() && self.deltas.is_some() {
            self.answer.finish = Some(FinishReason::Stop);
        }
        self.check_end()
    }

    async fn take_json(&mut self, json: &Value) -> Result<(), Stop> {
        match self.faults().in_answer(json) {
            Some(error) if self.answer.finish.is_none() => return Err(error.into()),
            _ => {}
        }
        if let Some(delta) = self.answer.take(json) {
            self.emit_delta(delta).await?;
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), Stop> {
        match (self.answer.finish, self.deltas) {
            (Some(_), _) => Ok(()),
            (None, Some(_)) => {
                Err(self.faults().upstream("ended the stream in the middle of the answer").into())
            }
            (None, None) => {
                let what = "answered without text and without a reason to end; check that the URL is of an OpenAI-compatible API";
                Err(self.faults().upstream(what).into())
            }
        }
    }

    /// The next bytes of the response; `None` at its end.
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, Stop> {
        let wait = match (&self.answer.finish, self.upstream.settings.stream, self.bytes) {
            (Some(_), _, _) => Wait::Epilogue,
            (None, false, _) => Wait::Total,
            (None, true, 0) => Wait::FirstByte,
            (None, true, _) => Wait::Idle,
        };
        let Some(mut response) = self.response.take() else { return Ok(None) };
        let chunk = self.within(wait, response.chunk()).await?;
        let chunk = chunk.map_err(|error| self.faults().transport(&error))?;
        self.response = Some(response);
        self.bytes += chunk.as_ref().map_or(0, Bytes::len);
        let bytes_max = self.upstream.settings.response_bytes_max;
        if self.bytes > bytes_max {
            return Err(self.too_large("an answer", bytes_max).into());
        }
        Ok(chunk)
    }

    fn too_large(&self, what: &str, bytes_max: usize) -> BackendError {
        self.faults().upstream(&format!("sent {what} of more than {bytes_max} bytes, which is not read"))
    }

    /// Waits for `work`, but not beyond `wait`'s limit nor the call's whole time.
    async fn within<T>(&self, wait: Wait, work: impl Future<Output = T>) -> Result<T, BackendError> {
        let settings = &self.upstream.settings;
        let limit = |begin: Instant, ms: u64, what, setting| {
            (begin + Duration::from_millis(ms), TimeLimit { ms, what, setting })
        };
        let now = Instant::now();
        let total = limit(self.begun, settings.total_timeout_ms, "did not finish", "total_timeout_ms");
        let own = match wait {
            Wait::FirstByte => {
                limit(self.begun, settings.first_byte_timeout_ms, "sent nothing", "first_byte_timeout_ms")
            }
            Wait::Idle => limit(now, settings.idle_timeout_ms, "paused and did not go on", "idle_timeout_ms"),
            Wait::Epilogue => {
                limit(now, EPILOGUE_TIMEOUT_MS, "did not end its answer", "the epilogue's limit")
            }
            Wait::Total => total,
        };
        let (deadline, passed) = if own.0 < total.0 { own } else { total };
        timeout_at(deadline, work).await.map_err(|_| self.faults().timeout(passed))
    }

    async fn emit_delta(&mut self, delta: Delta) -> Result<(), Abandoned> {
        let now = Instant::now();
        let (first, _) = self.deltas.unwrap_or((now, now));
        self.deltas = Some((first, now));
        self.emit(Event::Delta(delta)).await
    }

    /// Waits while the reader is behind, which in turn makes the upstream wait.
    async fn emit(&self, event: Event) -> Result<(), Abandoned> {
        self.events.send(event).await.map_err(|_| Abandoned)
    }

    fn finished(&self) -> Finished {
        let (first, last) = self.deltas.unwrap_or_else(|| (Instant::now(), Instant::now()));
        let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        Finished {
            reason: self.answer.finish.unwrap_or(FinishReason::Stop),
            usage: self.answer.usage.unwrap_or_else(|| self.usage_estimate()),
            timings: Timings {
                queue_ms: 0.0,
                prompt_ms: milliseconds(self.begun, first),
                decode_ms: milliseconds(first, last),
            },
        }
    }

    fn usage_estimate(&self) -> Usage {
        self.upstream.warn_of_missing_usage();
        Usage {
            prompt_tokens: (self.call.request.text().len() as u64).div_ceil(BYTES_PER_TOKEN_ESTIMATE),
            completion_tokens: self.answer.completion_tokens_estimate(),
            ..Usage::default()
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy)]
enum Wait {
    FirstByte,
    Idle,
    Epilogue,
    Total,
}
