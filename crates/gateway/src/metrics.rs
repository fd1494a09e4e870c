//! The server's figures for Prometheus: [`Metrics`]. Each instance has its own registry, so several
//! servers can live in one process.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use contract::{Attempt, Drafting, Role, Usage};
use policy::drift::DriftState;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::flow::Outcome;

/// Tells how many bytes each part of the program holds, by part; asked at every scrape.
pub type MemoryProbe = Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>;

/// Blocks of the key-value caches in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvBlocks {
    /// In use by requests.
    pub used: u64,
    /// Kept for later requests, given up when needed.
    pub cached: u64,
    /// Empty.
    pub free: u64,
}

/// Tells how many blocks there are; asked at every scrape.
pub type KvProbe = Box<dyn Fn() -> KvBlocks + Send + Sync>;

/// Bounds of the time to first token: from a cached small answer to a long prompt on a slow machine.
const FIRST_TOKEN_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Bounds of the time between tokens.
const INTER_TOKEN_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// Bounds of the time Tandem itself takes.
const OVERHEAD_SECONDS: &[f64] = &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25];

/// The figures. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    requests: IntCounterVec,
    tokens: IntCounterVec,
    cost_usd: CounterVec,
    /// A gauge although it only sums up: an escalation costs more than always-large, so it may fall.
    saved_usd: Gauge,
    first_token_seconds: Histogram,
    inter_token_seconds: Histogram,
    overhead_seconds: Histogram,
    queue_depth: IntGauge,
    requests_running: IntGauge,
    ledger_lag_rows: IntGauge,
    memory_bytes: GaugeVec,
    memory_probe: Mutex<Option<MemoryProbe>>,
    kv_blocks: IntGaugeVec,
    kv_probe: Mutex<Option<KvProbe>>,
    prefix_hit_tokens: IntCounter,
    draft_tokens: IntCounterVec,
    guard: IntCounterVec,
    drafter_active: IntGaugeVec,
    calibration_drift: Gauge,
    calibration_drifted: IntGauge,
    /// Held while the figures are brought up to date, so that two scrapes count nothing twice.
    rendering: Mutex<()>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Makes the figures and registers them.
struct Builder {
    registry: Registry,
}

impl Builder {
    fn register<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        collector: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let collector = collector?;
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        self.register(Histogram::with_opts(options))
    }

    fn build(self) -> prometheus::Result<Inner> {
        let requests = Opts::new("tandem_requests_total", "Requests by who answered and HTTP status.");
        let tokens =
            Opts::new("tandem_tokens_total", "Tokens processed; kind cached is a part of kind prompt.");
        let cost = Opts::new("tandem_cost_usd_total", "What the attempts cost, US dollars.");
        let memory = Opts::new("tandem_memory_bytes", "Memory held, by part.");
        let kv_blocks = Opts::new("tandem_kv_blocks", "Blocks of the key-value caches, by state.");
        let drafts =
            Opts::new("tandem_draft_tokens_total", "Drafted tokens of models in this process, by outcome.");
        let guard = Opts::new("tandem_guard_total", "Findings of guards, by guard and action.");
        let drafters = Opts::new("tandem_drafter_active", "Whether a drafter drafts for a model at present.");
        Ok(Inner {
            draft_tokens: self.register(IntCounterVec::new(drafts, &["outcome"]))?,
            guard: self.register(IntCounterVec::new(guard, &["guard", "action"]))?,
            drafter_active: self.register(IntGaugeVec::new(drafters, &["model", "drafter"]))?,
            calibration_drift: self.register(Gauge::new(
                "tandem_calibration_drift",
                "Largest distance of traffic's distribution from the calibration's, 0 to 1.",
            ))?,
            calibration_drifted: self.register(IntGauge::new(
                "tandem_calibration_drifted",
                "Whether traffic has drifted so far that large answers.",
            ))?,
            rendering: Mutex::new(()),
            requests: self.register(IntCounterVec::new(requests, &["route", "model", "status"]))?,
            tokens: self.register(IntCounterVec::new(tokens, &["backend", "kind"]))?,
            cost_usd: self.register(CounterVec::new(cost, &["backend"]))?,
            saved_usd: self.register(Gauge::new(
                "tandem_saved_usd_total",
                "Saved against sending everything to the large model, US dollars; net, so it may fall.",
            ))?,
            first_token_seconds: self.histogram(
                "tandem_time_to_first_token_seconds",
                "From a request's arrival to its first released token, of streamed answers.",
                FIRST_TOKEN_SECONDS,
            )?,
            inter_token_seconds: self.histogram(
                "tandem_inter_token_seconds",
                "Between tokens of one answer that leave as they are written.",
                INTER_TOKEN_SECONDS,
            )?,
            overhead_seconds: self.histogram(
                "tandem_overhead_seconds",
                "Time a request spent in Tandem outside of queue and backends.",
                OVERHEAD_SECONDS,
            )?,
            queue_depth: self
                .register(IntGauge::new("tandem_queue_depth", "Requests waiting for a place."))?,
            requests_running: self
                .register(IntGauge::new("tandem_requests_running", "Requests that have a place."))?,
            ledger_lag_rows: self
                .register(IntGauge::new("tandem_ledger_lag_rows", "Ledger rows not yet on disk."))?,
            memory_bytes: self.register(GaugeVec::new(memory, &["part"]))?,
            memory_probe: Mutex::new(None),
            kv_blocks: self.register(IntGaugeVec::new(kv_blocks, &["state"]))?,
            kv_probe: Mutex::new(None),
            prefix_hit_tokens: self.register(IntCounter::new(
                "tandem_prefix_hit_tokens_total",
                "Prompt tokens that were in a cache already.",
            ))?,
            registry: self.registry,
        })
    }
}

impl Metrics {
    /// Figures at zero.
    ///
    /// Fails only if two figures were given one name, which the tests rule out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let inner = Builder { registry: Registry::new() }.build()?;
        Ok(Metrics { inner: Arc::new(inner) })
    }

    /// Sets whom to ask for `tandem_memory_bytes`.
    pub fn set_memory_probe(&self, probe: MemoryProbe) {
        *self.inner.memory_probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(probe);
    }

    /// Sets whom to ask for `tandem_kv_blocks`.
    pub fn set_kv_probe(&self, probe: KvProbe) {
        *self.inner.kv_probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(probe);
    }

    /// Prometheus' text format. `ledger_lag_rows`: how far the ledger is behind now; `drafting`: how what models
    /// write is drafted, by model.
    pub fn render(
        &self,
        ledger_lag_rows: u64,
        drafting: &[(String, Drafting)],
    ) -> Result<String, prometheus::Error> {
        let _alone = self.inner.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        self.drafting(drafting);
        self.inner.ledger_lag_rows.set(i64::try_from(ledger_lag_rows).unwrap_or(i64::MAX));
        let probe = self.inner.memory_probe.lock().unwrap_or_else(PoisonError::into_inner);
        for (part, bytes) in probe.as_ref().map(|probe| probe()).unwrap_or_default() {
            self.inner.memory_bytes.with_label_values(&[part.as_str()]).set(bytes as f64);
        }
        drop(probe);
        if let Some(probe) = &*self.inner.kv_probe.lock().unwrap_or_else(PoisonError::into_inner) {
            let KvBlocks { used, cached, free } = probe();
            for (state, blocks) in [("used", used), ("cached", cached), ("free", free)] {
                let gauge = self.inner.kv_blocks.with_label_values(&[state]);
                gauge.set(i64::try_from(blocks).unwrap_or(i64::MAX));
            }
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.inner.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn drafting(&self, drafting: &[(String, Drafting)]) {
        let sum = |tokens: fn(&Drafting) -> u64| drafting.iter().map(|(_, drafting)| tokens(drafting)).sum();
        let outcomes: [(&str, u64); 2] =
            [("accepted", sum(|d| d.accepted_tokens)), ("rejected", sum(|d| d.rejected_tokens))];
        for (outcome, tokens) in outcomes {
            let counter = self.inner.draft_tokens.with_label_values(&[outcome]);
            counter.inc_by(tokens.saturating_sub(counter.get()));
        }
        for (model, drafting) in drafting {
            for drafter in &drafting.drafters {
                let gauge = self.inner.drafter_active.with_label_values(&[model.as_str(), drafter.name]);
                gauge.set(i64::from(drafter.idle.is_none()));
            }
        }
    }

    pub(crate) fn queue_depth(&self) -> &IntGauge {
        &self.inner.queue_depth
    }

    pub(crate) fn requests_running(&self) -> &IntGauge {
        &self.inner.requests_running
    }

    pub(crate) fn drift(&self, state: DriftState) {
        self.inner.calibration_drift.set(state.statistic);
        self.inner.calibration_drifted.set(i64::from(state.drifted));
    }

    pub(crate) fn first_token(&self, seconds: f64) {
        self.inner.first_token_seconds.observe(seconds);
    }

    pub(crate) fn inter_token(&self, seconds: f64) {
        self.inner.inter_token_seconds.observe(seconds);
    }

    /// Counts a request that is over; its own count comes last, so that who sees it finds its tokens counted too.
    pub(crate) fn request(&self, outcome: &Outcome) {
        let inner = &self.inner;
        for attempt in &outcome.attempts {
            self.attempt(attempt);
        }
        for record in &outcome.guards {
            inner.guard.with_label_values(&[record.guard.as_str(), record.outcome()]).inc();
        }
        inner.overhead_seconds.observe(outcome.overhead_ms / 1e3);
        inner.saved_usd.add(outcome.saved_usd);
        let model = outcome.model.as_deref().unwrap_or("none");
        let status = outcome.status.to_string();
        inner.requests.with_label_values(&[outcome.route.as_str(), model, &status]).inc();
    }

    fn attempt(&self, attempt: &Attempt) {
        self.spent(attempt.role, &attempt.usage, attempt.cost_usd);
    }

    /// Counts what a backend processed.
    pub(crate) fn spent(&self, role: Role, usage: &Usage, cost_usd: f64) {
        let backend = role.as_str();
        let kinds = [
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
        ];
        for (kind, tokens) in kinds {
            self.inner.tokens.with_label_values(&[backend, kind]).inc_by(tokens);
        }
        self.inner.prefix_hit_tokens.inc_by(usage.cached_tokens);
        // A counter can't fall; a price below zero is refused where prices are read.
        self.inner.cost_usd.with_label_values(&[backend]).inc_by(cost_usd.max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use contract::DrafterState;

    use super::*;

    #[test]
    fn each_instance_counts_for_itself() {
        let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        one.queue_depth().set(3);
        one.first_token(0.2);
        assert!(one.render(7, &[]).unwrap().contains("tandem_queue_depth 3"));
        assert!(one.render(7, &[]).unwrap().contains("tandem_ledger_lag_rows 7"));
        assert!(one.render(7, &[]).unwrap().contains("tandem_time_to_first_token_seconds_count 1"));
        assert!(other.render(0, &[]).unwrap().contains("tandem_queue_depth 0"));
    }

    #[test]
    fn blocks_are_told_by_state() {
        let metrics = Metrics::new().unwrap();
        metrics.set_kv_probe(Box::new(|| KvBlocks { used: 3, cached: 2, free: 1 }));
        let text = metrics.render(0, &[]).unwrap();
        for line in ["{state=\"used\"} 3", "{state=\"cached\"} 2", "{state=\"free\"} 1"] {
            assert!(text.contains(&format!("tandem_kv_blocks{line}")), "{text}");
        }
    }

    #[test]
    fn drafted_tokens_are_summed_over_models_and_never_counted_twice() {
        let metrics = Metrics::new().unwrap();
        let drafter =
            |idle: Option<&str>| DrafterState { name: "model", idle: idle.map(str::to_owned), note: None };
        let of = |accepted_tokens, idle| Drafting {
            drafters: vec![drafter(idle)],
            accepted_tokens,
            rejected_tokens: 1,
        };
        let told = |accepted| {
            let drafting = [("a".to_owned(), of(accepted, None)), ("b".to_owned(), of(2, Some("gone")))];
            metrics.render(0, &drafting).unwrap()
        };
        for accepted in [5, 5, 9] {
            let text = told(accepted);
            for line in [
                format!("tandem_draft_tokens_total{{outcome=\"accepted\"}} {}", accepted + 2),
                "tandem_draft_tokens_total{outcome=\"rejected\"} 2".to_owned(),
                "tandem_drafter_active{drafter=\"model\",model=\"a\"} 1".to_owned(),
                "tandem_drafter_active{drafter=\"model\",model=\"b\"} 0".to_owned(),
            ] {
                assert!(text.contains(&line), "{line}: {text}");
            }
        }
    }

    #[test]
    fn memory_is_asked_for_at_every_scrape() {
        let metrics = Metrics::new().unwrap();
        metrics.set_memory_probe(Box::new(|| vec![("weights".to_owned(), 1024)]));
        assert!(metrics.render(0, &[]).unwrap().contains("tandem_memory_bytes{part=\"weights\"} 1024"));
    }
}
