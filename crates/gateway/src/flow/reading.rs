//! `Step::Read`: small reads the prompt, its heads say what they find, and small goes on from there if the
//! policy calls it.

use std::fmt;
use std::sync::Arc;

use contract::{
    AttemptStatus, BackendError, Call, EventStream, FailureKind, Findings, Read, ReadOptions, Readiness,
    Reading, Role,
};

use super::FlowError;
use super::run::{Phase, Run, attempt};

/// How prompts are read for the policy.
#[derive(Clone)]
pub struct FlowHeads {
    /// What is read.
    pub options: ReadOptions,
    /// What the heads make of it.
    pub findings: Arc<dyn Fn(&Reading) -> Findings + Send + Sync>,
}

impl Default for FlowHeads {
    /// No heads: lengths and what small would write next are all that is found.
    fn default() -> Self {
        let findings = |reading: &Reading| Findings {
            prompt_tokens: reading.prompt_tokens,
            read_tokens: reading.read_tokens,
            next: reading.next,
            ..Findings::default()
        };
        FlowHeads { options: ReadOptions::default(), findings: Arc::new(findings) }
    }
}

impl fmt::Debug for FlowHeads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowHeads").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Goes on with an attempt that has read its prompt.
pub(super) type GoOn = Box<dyn FnOnce() -> EventStream + Send>;

impl Run {
    pub(super) fn start_reading(&mut self) {
        if self.attempts.iter().any(|attempt| attempt.role == Role::Small) {
            return self.policy_fault("asks for a reading after small was called".to_owned());
        }
        let backend = Arc::clone(&self.shared.small);
        let model = backend.info().model;
        match backend.readiness() {
            Readiness::Ready => {}
            Readiness::Loading => return self.fail(FlowError::Loading { role: Role::Small, model }),
            Readiness::Failed(why) => {
                let message = format!("the small model {model} is not available: {why}");
                let failed = AttemptStatus::Failed(BackendError::new(FailureKind::Unready, message));
                self.attempts.push(attempt(Role::Small, model, failed));
                self.held.push(Vec::new());
                return;
            }
        }
        if let Some(read) = self.ahead.take() {
            return self.take_read(Ok(read), true);
        }
        let call = Call { request: Arc::clone(&self.request), signals: true, tenant: self.tenant.clone() };
        self.phase = Phase::Reading(backend.read(call, &self.shared.heads.options));
    }

    /// Waits for the reading. Its time is Tandem's own: without a policy that asks for it there would be none.
    pub(super) async fn read(&mut self) {
        let Phase::Reading(reading) = &mut self.phase else { return };
        let read = match self.deadline.before(reading).await {
            Ok(read) => read,
            Err(error) => return self.fail(error),
        };
        self.phase = Phase::Deciding;
        self.take_read(read, true);
    }

    /// A reading is the first attempt; `is_told`: whether the policy asked for what it says.
    fn take_read(&mut self, read: Result<Read, BackendError>, is_told: bool) {
        let info = self.shared.small.info();
        let mut attempt = attempt(Role::Small, info.model, AttemptStatus::Read);
        match read {
            Ok(Read { reading, go_on }) => {
                attempt.findings = is_told.then(|| (self.shared.heads.findings)(&reading));
                attempt.usage = reading.usage;
                attempt.timings = reading.timings;
                attempt.cost_usd = info.price.cost_usd(&reading.usage);
                self.go_on = Some(go_on);
            }
            Err(error) => attempt.status = AttemptStatus::Failed(error),
        }
        self.attempts.push(attempt);
        self.held.push(Vec::new());
    }

    /// If a guard had the request read, that is the beginning of small's attempt, or was for the guard only.
    pub(super) fn take_ahead(&mut self, role: Role) {
        match self.ahead.take() {
            Some(read) if role == Role::Small && self.attempts.is_empty() => self.take_read(Ok(read), false),
            ahead => {
                self.ahead = ahead;
                self.drop_ahead();
            }
        }
    }

    /// What a guard had read is not gone on from.
    pub(super) fn drop_ahead(&mut self) {
        if let Some(read) = self.ahead.take() {
            self.guarding.cost_usd += self.shared.note_spent(&[(Role::Small, read.reading.usage)]);
        }
    }

    /// The stream of an attempt that has read already, if small is called; otherwise what it holds is given back.
    pub(super) fn go_on_from_reading(&mut self, role: Role) -> Option<EventStream> {
        let go_on = self.go_on.take().filter(|_| role == Role::Small)?;
        let attempt = self.attempts.last_mut()?;
        attempt.status = AttemptStatus::Partial;
        Some(go_on())
    }
}
