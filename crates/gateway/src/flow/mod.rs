//! How a request is answered, without HTTP: [`Flow`] runs the policy's loop over the backends,
//! releases text only once the policy accepted it, prices every attempt and records the request.
//!
//! [`Flow::start`] gives a [`FlowStream`]; dropping it cancels what runs within one step and records
//! that the client is gone. The server and `tandem chat` both use this.

mod admission;
mod asking;
mod clock;
mod earlier;
mod error;
mod guarding;
mod locating;
mod outcome;
mod reading;
mod record;
mod run;
mod running;
mod scores;

use std::sync::Arc;

use contract::{Attempt, Backend, Decision, Delta, Policy, Readiness, Request, Role, Usage};
use ledger::Ledger;
use policy::drift::DriftState;
use policy::guards::Chain;
use tokio::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

pub use error::FlowError;
pub use outcome::{Decided, Failure, Outcome, RouteTaken};
pub use reading::FlowHeads;

use crate::board::Board;
use crate::drift::{Watch, Watched};
use crate::metrics::Metrics;
use admission::Admission;
use earlier::{Earlier, Thread};
use run::Run;
use scores::Scores;

/// Limits of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// Most requests that are answered at the same time.
    pub concurrent_max: usize,
    /// Most requests that wait for a place.
    pub queue_max: usize,
    /// Longest time from arrival to the end.
    pub request_timeout_ms: u64,
    /// Most bytes of text of one attempt.
    pub answer_bytes_max: usize,
    /// Most decisions a policy may take for one request.
    pub steps_max: usize,
}

impl Default for FlowLimits {
    fn default() -> Self {
        FlowLimits {
            concurrent_max: 32,
            queue_max: 256,
            request_timeout_ms: 600_000,
            answer_bytes_max: 16 << 20,
            steps_max: 8,
        }
    }
}

/// What a [`Flow`] is made of.
pub struct FlowParts {
    /// Decides who answers.
    pub policy: Arc<dyn Policy>,
    /// Fills the role small.
    pub small: Arc<dyn Backend>,
    /// Fills the role large.
    pub large: Arc<dyn Backend>,
    /// Where requests are recorded; `None`: nowhere.
    pub ledger: Option<Ledger>,
    /// How small reads for the policy, and what is made of it.
    pub heads: FlowHeads,
    /// The limits.
    pub limits: FlowLimits,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// What guards requests and answers.
    pub guards: Chain,
}

/// A request as it comes in.
#[derive(Debug)]
pub struct Arrival {
    /// What is asked.
    pub request: Request,
    /// Who asks: a short hash of the API key, if there is one.
    pub tenant: Option<String>,
    /// When it arrived; deadlines count from here.
    pub at: Instant,
    /// Time already spent on reading and validating it; counts as overhead.
    pub door: Duration,
}

impl From<Request> for Arrival {
    fn from(request: Request) -> Self {
        Arrival { request, tenant: None, at: Instant::now(), door: Duration::ZERO }
    }
}

/// What happens to a request: `Decided`? `Delta`* then exactly one of `Finished` and `Failed`.
#[derive(Clone, Debug)]
pub enum FlowEvent {
    /// Text may leave: who answers, and why.
    Decided(Decided),
    /// A piece of the answer.
    Delta(Delta),
    /// The answer is complete.
    Finished(Box<Outcome>),
    /// It failed; what left before stays valid but is not the whole answer.
    Failed(Box<Failure>),
}

/// What all requests share.
struct Shared {
    policy: Arc<dyn Policy>,
    small: Arc<dyn Backend>,
    large: Arc<dyn Backend>,
    ledger: Option<Ledger>,
    heads: FlowHeads,
    limits: FlowLimits,
    metrics: Metrics,
    guards: Chain,
    board: Board,
    earlier: Earlier,
    scores: Scores,
    watch: Option<Watch>,
    admission: Admission,
    /// Rows on their way into the ledger.
    recordings: TaskTracker,
}

impl Shared {
    fn backend(&self, role: Role) -> &Arc<dyn Backend> {
        match role {
            Role::Small => &self.small,
            Role::Large => &self.large,
        }
    }

    /// Whom a request goes on from, if it can, and the thread that its answer will belong to.
    fn recall(&self, request: &mut Request, tenant: Option<&str>) -> Option<Thread> {
        let (continues, thread) = self.earlier.recall(request, tenant)?;
        let is_ready = |role| self.backend(role).readiness() == Readiness::Ready;
        request.continues = continues.filter(|continues| is_ready(continues.role));
        Some(thread)
    }

    /// Counts what guards had backends process; gives what it cost, US dollars.
    fn note_spent(&self, spent: &[(Role, Usage)]) -> f64 {
        let cost = |(role, usage): &(Role, Usage)| {
            let cost_usd = self.backend(*role).info().price.cost_usd(usage);
            self.metrics.spent(*role, usage, cost_usd);
            cost_usd
        };
        spent.iter().map(cost).sum()
    }

    /// What is done next: as the policy says, unless its calibration is off.
    fn decide(&self, request: &Request, attempts: &[Attempt]) -> Decision {
        let instead = self.watch.as_ref().and_then(|watch| watch.instead(request, attempts));
        instead.unwrap_or_else(|| self.policy.next(request, attempts))
    }
}

/// Answers requests. Clones share everything.
#[derive(Clone)]
pub struct Flow {
    shared: Arc<Shared>,
}

impl Flow {
    /// A flow over these parts.
    pub fn new(parts: FlowParts) -> Self {
        Self::watched(parts, None)
    }

    /// A flow whose policy obeys a calibration, which traffic is held against.
    pub fn watched(parts: FlowParts, watched: Option<Watched>) -> Self {
        let FlowParts { policy, small, large, ledger, heads, limits, metrics, guards } = parts;
        let admission =
            Admission::new(&limits, metrics.queue_depth().clone(), metrics.requests_running().clone());
        let recordings = TaskTracker::new();
        let board = Board::default();
        let watch = watched.and_then(Watch::new);
        let shared = Shared {
            policy,
            small,
            large,
            ledger,
            heads,
            limits,
            metrics,
            guards,
            board,
            earlier: Earlier::default(),
            scores: Scores::default(),
            watch,
            admission,
            recordings,
        };
        Flow { shared: Arc::new(shared) }
    }

    /// Starts answering; nothing happens before the stream is polled. Needs a tokio runtime.
    pub fn start(&self, arrival: impl Into<Arrival>) -> FlowStream {
        FlowStream { run: Run::new(Arc::clone(&self.shared), arrival.into()) }
    }

    /// The backend of a role.
    pub fn backend(&self, role: Role) -> &Arc<dyn Backend> {
        self.shared.backend(role)
    }

    /// The ledger, if requests are recorded.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.shared.ledger.as_ref()
    }

    /// What guards requests and answers.
    pub fn guards(&self) -> &Chain {
        &self.shared.guards
    }

    /// The figures.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// How far traffic is from the calibration's, if it is watched.
    pub fn drift(&self) -> Option<DriftState> {
        self.shared.watch.as_ref().map(Watch::state)
    }

    pub(crate) fn board(&self) -> &Board {
        &self.shared.board
    }

    /// Waits until every request that is over lies in the ledger, on disk.
    pub async fn settle(&self) {
        self.shared.recordings.close();
        self.shared.recordings.wait().await;
        self.shared.recordings.reopen();
        if let Some(ledger) = &self.shared.ledger
            && let Err(error) = ledger.flush().await
        {
            tracing::error!(%error, "the ledger could not be flushed");
        }
    }
}

/// The events of one request. Dropping it cancels the request.
pub struct FlowStream {
    run: Run,
}

impl FlowStream {
    /// The next event; `None` after the last. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<FlowEvent> {
        self.run.next().await
    }

    /// The request's id.
    pub fn request_id(&self) -> &str {
        self.run.request_id()
    }
}
