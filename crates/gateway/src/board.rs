//! Figures for the dashboard since the start: [`Board`]. Small and bounded; the ledger has the rest.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::flow::{Outcome, RouteTaken};

/// Requests that are listed one by one.
const RECENT_MAX: usize = 50;
/// Requests over which latencies are taken.
const LATENCIES_MAX: usize = 1000;

/// Collects the figures.
#[derive(Default)]
pub(crate) struct Board {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    routes: [RouteFigures; 4],
    recent: VecDeque<Line>,
    /// Newest last, milliseconds: total, and first token.
    latencies: VecDeque<(f64, Option<f64>)>,
}

/// One route's sums.
#[derive(Clone, Copy, Default, Serialize)]
struct RouteFigures {
    requests: u64,
    failed: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    cost_usd: f64,
    saved_usd: f64,
}

/// One request.
#[derive(Clone, Serialize)]
struct Line {
    id: String,
    route: RouteTaken,
    model: Option<String>,
    status: u16,
    reason: String,
    cost_usd: f64,
    saved_usd: f64,
    total_ms: f64,
}

/// What the dashboard shows.
#[derive(Serialize)]
pub(crate) struct Figures {
    routes: Vec<NamedRoute>,
    total_ms: Percentiles,
    first_token_ms: Percentiles,
    /// Newest first.
    recent: Vec<Line>,
}

#[derive(Serialize)]
struct NamedRoute {
    route: RouteTaken,
    #[serde(flatten)]
    figures: RouteFigures,
}

/// Over the last requests; `None` without any.
#[derive(Serialize)]
struct Percentiles {
    p50: Option<f64>,
    p95: Option<f64>,
}

const ROUTES: [RouteTaken; 4] =
    [RouteTaken::Small, RouteTaken::Large, RouteTaken::Escalated, RouteTaken::Refused];

impl Board {
    /// Takes a request in that is over.
    pub(crate) fn add(&self, outcome: &Outcome) {
        let mut state = self.state();
        let position = ROUTES.iter().position(|route| *route == outcome.route);
        if let Some(figures) = position.and_then(|position| state.routes.get_mut(position)) {
            figures.requests += 1;
            figures.failed += u64::from(outcome.status >= 400);
            let tokens = outcome.attempts.iter().map(|attempt| attempt.usage);
            figures.prompt_tokens += tokens.clone().map(|usage| usage.prompt_tokens).sum::<u64>();
            figures.completion_tokens += tokens.map(|usage| usage.completion_tokens).sum::<u64>();
            figures.cost_usd += outcome.cost_usd;
            figures.saved_usd += outcome.saved_usd;
        }
        let line = Line {
            id: outcome.request_id.clone(),
            route: outcome.route,
            model: outcome.model.clone(),
            status: outcome.status,
            reason: outcome.reason.clone(),
            cost_usd: outcome.cost_usd,
            saved_usd: outcome.saved_usd,
            total_ms: outcome.total_ms,
        };
        push(&mut state.recent, line, RECENT_MAX);
        if outcome.finish.is_some() {
            push(&mut state.latencies, (outcome.total_ms, outcome.first_token_ms), LATENCIES_MAX);
        }
    }

    /// The figures as they stand.
    pub(crate) fn figures(&self) -> Figures {
        let state = self.state();
        let total = state.latencies.iter().map(|latency| latency.0).collect();
        let first = state.latencies.iter().filter_map(|latency| latency.1).collect();
        let routes = ROUTES.iter().zip(state.routes);
        Figures {
            routes: routes.map(|(route, figures)| NamedRoute { route: *route, figures }).collect(),
            recent: state.recent.iter().rev().cloned().collect(),
            total_ms: percentiles(total),
            first_token_ms: percentiles(first),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only sums: they are sound wherever a panic struck.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// Nearest-rank percentiles.
fn percentiles(mut values: Vec<f64>) -> Percentiles {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values.get(rank.saturating_sub(1)).copied()
    };
    Percentiles { p50: at(0.5), p95: at(0.95) }
}

#[cfg(test)]
mod tests {
    use contract::{FinishReason, Timings, Usage};

    use super::*;

    fn outcome(route: RouteTaken, total_ms: f64) -> Outcome {
        Outcome {
            request_id: format!("r{total_ms}"),
            route,
            model: None,
            reason: String::new(),
            confidence: None,
            status: 200,
            finish: Some(FinishReason::Stop),
            usage: Usage::default(),
            timings: Timings::default(),
            cost_usd: 0.5,
            saved_usd: -0.25,
            overhead_ms: 0.1,
            first_token_ms: Some(total_ms / 2.0),
            total_ms,
            decisions: Vec::new(),
            attempts: Vec::new(),
            answered: None,
            guards: Vec::new(),
        }
    }

    #[test]
    fn sums_are_by_route_and_lists_are_bounded() {
        let board = Board::default();
        for n in 1..=2000 {
            let route = if n % 2 == 0 { RouteTaken::Small } else { RouteTaken::Escalated };
            board.add(&outcome(route, f64::from(n)));
        }
        let figures = board.figures();
        assert_eq!(figures.routes[0].figures.requests, 1000);
        assert_eq!(figures.routes[2].figures.cost_usd, 500.0);
        assert_eq!(figures.recent.len(), RECENT_MAX);
        assert_eq!(figures.recent[0].id, "r2000");
        assert_eq!((figures.total_ms.p50, figures.total_ms.p95), (Some(1500.0), Some(1950.0)));
    }

    #[test]
    fn without_requests_there_are_no_percentiles() {
        assert_eq!(Board::default().figures().total_ms.p50, None);
    }
}
