//! One request's way through policy and backends: [`Run`], a state machine that is polled for events.
//!
//! Text leaves only through [`Run::release`] (once) and, after it, [`Run::emit`].

use std::collections::VecDeque;
use std::sync::Arc;

use contract::{
    Attempt, AttemptStatus, BackendError, Call, Check, Delta, Event, EventStream, FailureKind, FinishReason,
    Finished, Read, ReadFuture, Readiness, Refusal, Request, Role, Signals, Step, Timings, Usage,
};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout_at};

use super::admission::{Caller, Place};
use super::asking::AskFuture;
use super::clock::Clock;
use super::earlier::Thread;
use super::guarding::Guarding;
use super::outcome::{Decided, Failure, Outcome, RouteTaken};
use super::reading::GoOn;
use super::running::Running;
use super::{Arrival, FlowError, FlowEvent, Shared, record};

/// Where a request stands.
pub(super) enum Phase {
    /// It waits for a place.
    Arrived,
    /// Guards ask models about it.
    Asking(AskFuture),
    /// The policy is to be asked.
    Deciding,
    /// Small reads the prompt.
    Reading(ReadFuture),
    /// A backend is writing.
    Listening,
    /// The answer is complete; what of it is held back is being judged.
    Closing(FinishReason),
    /// It is over; its row is on the way into the ledger and the last event is still to be given.
    Ending { recording: Option<JoinHandle<()>>, last: Option<FlowEvent> },
}

/// One request in progress.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) request: Arc<Request>,
    pub(super) tenant: Option<Arc<str>>,
    arrived_unix_ms: i64,
    pub(super) clock: Clock,
    pub(super) deadline: Deadline,
    place: Option<Place>,
    pub(super) phase: Phase,
    pub(super) attempts: Vec<Attempt>,
    /// Text of each attempt that has not left.
    pub(super) held: Vec<Vec<Delta>>,
    pub(super) decisions: Vec<contract::Decision>,
    /// The request as a guard had it read.
    pub(super) ahead: Option<Read>,
    /// How small goes on with what it has read.
    pub(super) go_on: Option<GoOn>,
    /// Guards ask models about the answer.
    pub(super) judging: Option<AskFuture>,
    running: Option<Running>,
    released: Option<usize>,
    first_token: Option<Duration>,
    last_delta: Option<Instant>,
    pub(super) guarding: Guarding,
    /// What the answer goes on from, if it is a chat's.
    thread: Option<Thread>,
    out: VecDeque<FlowEvent>,
}

/// When the request must be over, and what to say if it is not.
pub(super) struct Deadline {
    at: Instant,
    error: FlowError,
}

impl Deadline {
    fn new(arrived: Instant, client_ms: Option<u64>, server_ms: u64) -> Self {
        let (after_ms, error) = match client_ms {
            Some(after_ms) if after_ms < server_ms => (after_ms, FlowError::Deadline { after_ms }),
            _ => (server_ms, FlowError::TooSlow { after_ms: server_ms }),
        };
        // A limit past the end of time is no limit: a century will do.
        let century = Duration::from_secs(100 * 365 * 86_400);
        Deadline { at: arrived + Duration::from_millis(after_ms).min(century), error }
    }

    /// Waits for it until the request must be over. What is ready afterwards comes too late, too: a
    /// backend that writes faster than the client reads would never be waited for.
    pub(super) async fn before<T>(&self, future: impl Future<Output = T>) -> Result<T, FlowError> {
        if Instant::now() >= self.at {
            return Err(self.error.clone());
        }
        timeout_at(self.at, future).await.map_err(|_| self.error.clone())
    }
}

impl Run {
    pub(super) fn new(shared: Arc<Shared>, arrival: Arrival) -> Self {
        let Arrival { mut request, tenant, at, door } = arrival;
        // As the client wrote it, for so it will come again.
        let thread = shared.recall(&mut request, tenant.as_deref());
        let guarding = Guarding::new(&shared.guards, &mut request);
        let deadline = Deadline::new(at, request.deadline_ms, shared.limits.request_timeout_ms);
        Run {
            shared,
            request: Arc::new(request),
            tenant: tenant.map(Arc::from),
            arrived_unix_ms: record::unix_ms_before(at.elapsed()),
            clock: Clock::new(at, door),
            deadline,
            place: None,
            phase: Phase::Arrived,
            attempts: Vec::new(),
            held: Vec::new(),
            decisions: Vec::new(),
            ahead: None,
            go_on: None,
            judging: None,
            running: None,
            released: None,
            first_token: None,
            last_delta: None,
            guarding,
            thread,
            out: VecDeque::new(),
        }
    }

    pub(super) fn request_id(&self) -> &str {
        &self.request.id
    }

    pub(super) async fn next(&mut self) -> Option<FlowEvent> {
        self.clock.work();
        let event = self.advance().await;
        self.clock.wait();
        event
    }

    async fn advance(&mut self) -> Option<FlowEvent> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Some(event);
            }
            if self.is_judging() {
                self.judge().await;
                continue;
            }
            match &mut self.phase {
                Phase::Arrived => match self.guarding.refusal() {
                    Some(error) => self.fail(error),
                    None => self.admit().await,
                },
                Phase::Asking(_) => self.ask().await,
                Phase::Deciding | Phase::Listening if self.guarding.has_ended() => self.cut(),
                Phase::Deciding => self.decide(),
                Phase::Reading(_) => self.read().await,
                Phase::Listening => self.listen().await,
                Phase::Closing(reason) => {
                    let reason = *reason;
                    self.end(reason);
                }
                Phase::Ending { recording, last } => {
                    if let Some(handle) = recording {
                        // The row is the ledger's before the client sees the end. The task logs its
                        // own failure.
                        let _ = handle.await;
                        *recording = None;
                    }
                    return last.take();
                }
            }
        }
    }

    async fn admit(&mut self) {
        self.clock.wait();
        let caller = Caller { tenant: self.tenant.clone(), priority: self.request.options.priority };
        let entered = self.deadline.before(self.shared.admission.enter(caller)).await;
        self.clock.work();
        match entered.flatten() {
            Ok(place) => {
                self.place = Some(place);
                self.phase = self.start_asking();
            }
            Err(error) => self.fail(error),
        }
    }

    fn decide(&mut self) {
        let steps_max = self.shared.limits.steps_max;
        if self.decisions.len() >= steps_max {
            return self.policy_fault(format!("came to no end within {steps_max} decisions (steps_max)"));
        }
        let decision = self.shared.decide(&self.request, &self.attempts);
        if decision.step != Step::Hold {
            self.decisions.push(decision.clone());
        }
        match decision.step {
            Step::Hold => self.hold(),
            Step::Read => self.start_reading(),
            Step::Call { role, check } => self.call(role, check),
            Step::Answer { attempt } => self.answer(attempt),
            Step::Refuse(refusal) => self.refuse(refusal),
        }
    }

    fn call(&mut self, role: Role, check: Check) {
        self.take_ahead(role);
        if let Some(stream) = self.go_on_from_reading(role) {
            return self.run(stream, check);
        }
        self.cancel_running();
        let backend = Arc::clone(self.shared.backend(role));
        let model = backend.info().model;
        let status = match backend.readiness() {
            Readiness::Ready => AttemptStatus::Partial,
            Readiness::Loading => return self.fail(FlowError::Loading { role, model }),
            Readiness::Failed(why) => {
                let message = format!("the {} model {model} is not available: {why}", role.as_str());
                AttemptStatus::Failed(BackendError::new(FailureKind::Unready, message))
            }
        };
        let ready = status == AttemptStatus::Partial;
        self.attempts.push(attempt(role, model, status));
        self.held.push(Vec::new());
        if ready {
            let tenant = self.tenant.clone();
            let call = Call { request: Arc::clone(&self.request), signals: check != Check::Never, tenant };
            self.run(backend.call(call), check);
        }
    }

    /// The last attempt is written by `stream`.
    fn run(&mut self, stream: EventStream, check: Check) {
        self.running = Some(Running::new(stream, check));
        self.phase = Phase::Listening;
    }

    fn hold(&mut self) {
        match self.running {
            Some(_) => self.phase = Phase::Listening,
            None => self.policy_fault("holds back an attempt that does not run".to_owned()),
        }
    }

    fn answer(&mut self, index: usize) {
        let is_running = self.running.is_some() && index + 1 == self.attempts.len();
        let status = self.attempts.get(index).map(|attempt| attempt.status.clone());
        if !is_running {
            self.cancel_running();
        }
        match status {
            Some(AttemptStatus::Partial) if is_running => {
                self.release(index);
                self.phase = Phase::Listening;
            }
            Some(AttemptStatus::Finished(reason)) => {
                self.release(index);
                self.finish(reason);
            }
            Some(AttemptStatus::Failed(error)) => self.fail(FlowError::Backend(error)),
            Some(AttemptStatus::Read | AttemptStatus::Partial | AttemptStatus::Cancelled) => {
                self.policy_fault(format!("answers with attempt {index}, which was cancelled or only read"));
            }
            None => self
                .policy_fault(format!("answers with attempt {index}, but there are {}", self.attempts.len())),
        }
    }

    /// A refusal that only follows from a failed backend is that failure.
    fn refuse(&mut self, refusal: Refusal) {
        let error = match self.attempts.last().map(|attempt| &attempt.status) {
            Some(AttemptStatus::Failed(error)) => FlowError::Backend(error.clone()),
            _ => FlowError::Refused(refusal),
        };
        self.fail(error);
    }

    async fn listen(&mut self) {
        let Some(running) = self.running.as_mut() else {
            // Unreachable: whoever sets this phase has set a running call.
            return self.policy_fault("waits on a call that does not run".to_owned());
        };
        self.clock.wait();
        let event = self.deadline.before(running.next()).await;
        self.clock.work();
        match event {
            Err(error) => self.fail(error),
            Ok(Some(Event::Started(usage))) => {
                running.note_started();
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.usage = usage;
                }
            }
            Ok(Some(Event::Delta(delta))) => self.take_delta(delta),
            Ok(Some(Event::Finished(finished))) => self.take_finished(finished),
            Ok(Some(Event::Failed(error))) => self.take_failed(error),
            Ok(None) => {
                let message = "the backend ended its answer without saying so";
                self.take_failed(BackendError::new(FailureKind::Internal, message));
            }
        }
    }

    fn take_delta(&mut self, delta: Delta) {
        let index = self.attempts.len().saturating_sub(1);
        let (Some(running), Some(attempt), Some(held)) =
            (self.running.as_mut(), self.attempts.last_mut(), self.held.last_mut())
        else {
            return;
        };
        running.note_delta(&delta);
        let bytes_max = self.shared.limits.answer_bytes_max;
        if running.bytes > bytes_max {
            let message = format!("{} wrote more than {bytes_max} bytes (answer_bytes_max)", attempt.model);
            return self.take_failed(BackendError::new(FailureKind::Upstream, message));
        }
        attempt.text.push_str(&delta.text);
        delta.tokens.iter().for_each(|token| attempt.signals.add(token));
        // Counted here so that a call that is given up has a figure; `Finished` brings the exact one.
        let untold = u64::from(delta.tokens.is_empty() && !delta.text.is_empty());
        attempt.usage.completion_tokens += delta.tokens.len() as u64 + untold;
        attempt.usage.accepted_prediction_tokens += u64::from(delta.is_drafted);

        if self.released == Some(index) {
            self.note_live(&delta);
            return self.emit(delta);
        }
        held.push(delta);
        if running.check == Check::Never && self.request.stream {
            self.release(index);
        } else if running.asks(attempt.signals.tokens) {
            self.phase = Phase::Deciding;
        }
    }

    fn take_finished(&mut self, finished: Finished) {
        let index = self.attempts.len().saturating_sub(1);
        let (Some(running), Some(attempt)) = (self.running.take(), self.attempts.last_mut()) else {
            return;
        };
        attempt.status = AttemptStatus::Finished(finished.reason);
        attempt.usage = finished.usage;
        attempt.timings = finished.timings;
        attempt.cost_usd = self.shared.backend(attempt.role).info().price.cost_usd(&attempt.usage);
        if self.released == Some(index) {
            self.finish(finished.reason);
        } else if running.check == Check::Never {
            self.release(index);
            self.finish(finished.reason);
        } else {
            self.phase = Phase::Deciding;
        }
    }

    /// Before anything left, the policy may turn elsewhere; afterwards the request has failed.
    fn take_failed(&mut self, error: BackendError) {
        self.stop_running(AttemptStatus::Failed(error.clone()));
        match self.released {
            Some(_) => self.fail(FlowError::Backend(error)),
            None => self.phase = Phase::Deciding,
        }
    }

    pub(super) fn cancel_running(&mut self) {
        self.stop_running(AttemptStatus::Cancelled);
    }

    /// Drops the running call, if any, which cancels it; its attempt keeps what is known of it.
    fn stop_running(&mut self, status: AttemptStatus) {
        if let (Some(running), Some(attempt)) = (self.running.take(), self.attempts.last_mut()) {
            attempt.status = status;
            attempt.timings = running.timings();
            attempt.cost_usd = self.shared.backend(attempt.role).info().price.cost_usd(&attempt.usage);
        }
    }

    /// From here on the text of this attempt leaves, and of no other.
    fn release(&mut self, index: usize) {
        self.released = Some(index);
        let (reason, confidence) = self.last_decision();
        let decided = Decided {
            route: RouteTaken::to(&self.attempts, index),
            model: self.attempts.get(index).map(|attempt| attempt.model.clone()).unwrap_or_default(),
            reason,
            confidence,
            overhead_ms: self.clock.overhead_ms(),
        };
        self.out.push_back(FlowEvent::Decided(decided));
        for delta in self.held.get_mut(index).map(std::mem::take).unwrap_or_default() {
            self.emit(delta);
        }
    }

    fn emit(&mut self, delta: Delta) {
        if let Some(delta) = self.guarding.pass(delta) {
            self.send(delta);
        }
    }

    pub(super) fn send(&mut self, delta: Delta) {
        if let Some(thread) = &mut self.thread {
            thread.push(&delta);
        }
        let shows = !delta.text.is_empty() || !delta.tool_calls.is_empty();
        // Only a stream has a first token; a whole answer leaves at its end.
        if shows && self.request.stream && self.first_token.is_none() {
            let first = self.clock.elapsed();
            self.first_token = Some(first);
            self.last_delta = Some(Instant::now());
            self.shared.metrics.first_token(first.as_secs_f64());
        }
        self.out.push_back(FlowEvent::Delta(delta));
    }

    /// Times the gap before a piece that leaves as it is written; held ones leave all at once.
    fn note_live(&mut self, delta: &Delta) {
        if !self.request.stream || delta.text.is_empty() {
            return;
        }
        let now = Instant::now();
        if let Some(last) = self.last_delta.replace(now) {
            self.shared.metrics.inter_token((now - last).as_secs_f64());
        }
    }

    /// The last decision's sentence, and the last confidence that was computed.
    fn last_decision(&self) -> (String, Option<f64>) {
        let reason = self.decisions.last().map(|decision| decision.reason.clone()).unwrap_or_default();
        (reason, self.decisions.iter().rev().find_map(|decision| decision.confidence))
    }

    pub(super) fn policy_fault(&mut self, fault: String) {
        let policy = self.shared.policy.name().to_owned();
        self.fail(FlowError::Policy { policy, fault });
    }

    /// Ends an answer that a guard cut.
    fn cut(&mut self) {
        self.cancel_running();
        self.finish(FinishReason::ContentFilter);
    }

    fn finish(&mut self, reason: FinishReason) {
        if let Some(rest) = self.guarding.rest() {
            self.send(rest);
        }
        self.phase = Phase::Closing(reason);
    }

    fn end(&mut self, reason: FinishReason) {
        self.drop_ahead();
        let reason = if self.guarding.has_ended() { FinishReason::ContentFilter } else { reason };
        let answer = self.released.and_then(|index| self.attempts.get(index));
        if let Some((thread, answer)) = self.thread.take().zip(answer) {
            self.shared.earlier.note(thread, answer.role);
        }
        let outcome = self.outcome(200, Some(reason));
        let recording = self.record(&outcome, None);
        self.phase = Phase::Ending { recording, last: Some(FlowEvent::Finished(Box::new(outcome))) };
    }

    pub(super) fn fail(&mut self, error: FlowError) {
        self.cancel_running();
        self.stop_asking();
        let mut outcome = self.outcome(error.status(), None);
        if matches!(error, FlowError::Refused(_) | FlowError::Guarded { .. }) || self.decisions.is_empty() {
            outcome.route = RouteTaken::Refused;
        }
        if self.decisions.is_empty() {
            outcome.reason = error.to_string();
        }
        let recording = self.record(&outcome, Some(&error));
        let failure = Failure { error, outcome };
        self.phase = Phase::Ending { recording, last: Some(FlowEvent::Failed(Box::new(failure))) };
    }

    /// Sums up. The attempt that was released, else the last one, stands for the request.
    fn outcome(&self, status: u16, finish: Option<FinishReason>) -> Outcome {
        let standing = self.released.or(self.attempts.len().checked_sub(1));
        let attempt = standing.and_then(|index| self.attempts.get(index));
        let (reason, confidence) = self.last_decision();
        let price = self.shared.large.info().price;
        Outcome {
            request_id: self.request.id.clone(),
            route: standing.map_or(RouteTaken::Refused, |index| RouteTaken::to(&self.attempts, index)),
            model: attempt.map(|attempt| attempt.model.clone()),
            reason,
            confidence,
            status,
            finish,
            usage: attempt.map(|attempt| attempt.usage).unwrap_or_default(),
            timings: attempt.map(|attempt| attempt.timings).unwrap_or_default(),
            cost_usd: self.attempts.iter().map(|attempt| attempt.cost_usd).sum::<f64>()
                + self.guarding.cost_usd,
            saved_usd: planner::cost::saved_usd(&price, &self.attempts, self.released)
                - self.guarding.cost_usd,
            overhead_ms: self.clock.overhead_ms(),
            first_token_ms: self.first_token.map(|first| first.as_secs_f64() * 1e3),
            total_ms: self.clock.elapsed().as_secs_f64() * 1e3,
            decisions: self.decisions.clone(),
            attempts: self.attempts.clone(),
            answered: self.released,
            guards: self.guarding.records(),
        }
    }

    /// Counts the request, logs it and sends its row to the ledger.
    fn record(&mut self, outcome: &Outcome, error: Option<&FlowError>) -> Option<JoinHandle<()>> {
        self.place = None;
        let withheld = self.guarding.is_unlocated.then(|| record::withheld(&self.request));
        let row = record::Row {
            request: withheld.as_ref().unwrap_or(&self.request),
            tenant: self.tenant.as_deref(),
            arrived_unix_ms: self.arrived_unix_ms,
            outcome,
            error,
        };
        record::record(&self.shared, row)
    }
}

/// An attempt that has shown nothing yet.
pub(super) fn attempt(role: Role, model: String, status: AttemptStatus) -> Attempt {
    Attempt {
        role,
        model,
        status,
        findings: None,
        text: String::new(),
        signals: Signals::default(),
        usage: Usage::default(),
        timings: Timings::default(),
        cost_usd: 0.0,
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Ending { .. }) {
            return;
        }
        self.cancel_running();
        self.stop_asking();
        let outcome = self.outcome(record::STATUS_CLIENT_GONE, None);
        // The task goes on without anybody waiting for it.
        drop(self.record(&outcome, None));
    }
}
