//! Requests and attempts for the policies' tests.

use std::sync::Arc;

use contract::{
    Attempt, AttemptStatus, BackendError, FailureKind, Findings, FinishReason, Input, Policy, Request, Role,
    Signals, Timings, Usage,
};
use proptest::prelude::*;

use super::Entry;
use crate::calibration::Calibration;
use crate::calibration::testing::calibration;
use crate::{OnLargeFailure, PolicySettings, build, build_calibrated};

/// What an attempt turned out to be.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) status: AttemptStatus,
    pub(crate) signals: Signals,
}

pub(crate) fn request(stream: bool) -> Request {
    Request { stream, ..Request::new("chatcmpl-1", Input::Completion { prompt: "Once".to_owned() }) }
}

pub(crate) fn attempt(role: Role, outcome: &Outcome) -> Attempt {
    Attempt {
        role,
        model: format!("the-{}-one", role.as_str()),
        status: outcome.status.clone(),
        findings: None,
        text: "upon a time".to_owned(),
        signals: outcome.signals,
        usage: Usage::default(),
        timings: Timings::default(),
        cost_usd: 0.0,
    }
}

/// What may become of a reading.
pub(crate) fn readings() -> Vec<Attempt> {
    let read = |scores: &[(&str, f64)]| {
        let scores = scores.iter().map(|(name, score)| ((*name).to_owned(), *score)).collect();
        let outcome = Outcome { status: AttemptStatus::Read, signals: Signals::default() };
        let findings = Some(Findings { prompt_tokens: 9, read_tokens: 9, scores, ..Findings::default() });
        Attempt { findings, ..attempt(Role::Small, &outcome) }
    };
    let mut readings = vec![
        read(&[("h", 0.9), ("l", 0.95)]),
        read(&[("h", 0.1), ("l", 0.8)]),
        read(&[("h", 0.9)]),
        read(&[("h", f64::NAN), ("l", 0.8)]),
    ];
    let failures = all_statuses().into_iter().filter(|status| matches!(status, AttemptStatus::Failed(_)));
    readings.extend(
        failures.map(|status| attempt(Role::Small, &Outcome { status, signals: Signals::default() })),
    );
    readings
}

/// A policy in every way it can be made: without a calibration, with one, with one that does not route.
pub(crate) fn every_build(entry: &Entry, settings: &PolicySettings) -> Vec<Box<dyn Policy>> {
    let settings = PolicySettings { kind: entry.name.to_owned(), ..settings.clone() };
    let mut policies: Vec<Box<dyn Policy>> = build(&settings).into_iter().collect();
    if let Some(kind) = entry.calibrated {
        let routes = calibration(kind);
        let mut small = Calibration { routes: false, constant: Role::Small, ..routes.clone() };
        small.why = "small is as good".to_owned();
        let large = Calibration { constant: Role::Large, ..small.clone() };
        for calibration in [routes, small, large] {
            policies.push(build_calibrated(&settings, Some(Arc::new(calibration))).unwrap());
        }
    }
    assert!(!policies.is_empty(), "{} can't be made", entry.name);
    policies
}

/// `tokens` tokens with this geometric mean and lowest probability.
pub(crate) fn signals(tokens: u32, mean: f64, lowest: f64) -> Signals {
    Signals {
        tokens,
        logprob_sum: mean.ln() * f64::from(tokens),
        logprob_min: lowest.ln(),
        ..Signals::default()
    }
}

pub(crate) fn failed(kind: FailureKind) -> AttemptStatus {
    AttemptStatus::Failed(BackendError::new(kind, "it said: Once"))
}

/// Every status, with every kind of failure.
pub(crate) fn all_statuses() -> Vec<AttemptStatus> {
    use FailureKind::{BadInput, Busy, Deadline, Internal, Timeout, TooLong, Unready, Upstream};
    let kinds = [BadInput, TooLong, Busy, Unready, Upstream, Timeout, Deadline, Internal];
    let mut statuses = vec![
        AttemptStatus::Partial,
        AttemptStatus::Finished(FinishReason::Stop),
        AttemptStatus::Finished(FinishReason::Length),
        AttemptStatus::Cancelled,
    ];
    statuses.extend(kinds.map(failed));
    statuses
}

pub(crate) fn statuses() -> impl Strategy<Value = AttemptStatus> {
    proptest::sample::select(all_statuses())
}

/// `count` outcomes; log-probabilities include what only a broken upstream reports.
pub(crate) fn outcomes(count: usize) -> impl Strategy<Value = Vec<Outcome>> {
    let logprob = prop_oneof![-10.0..0.1f64, proptest::num::f64::ANY];
    let signals = (0u32..100, logprob.clone(), logprob).prop_map(|(tokens, logprob_sum, logprob_min)| {
        Signals { tokens, logprob_sum, logprob_min, ..Signals::default() }
    });
    let outcome = (statuses(), signals).prop_map(|(status, signals)| Outcome { status, signals });
    proptest::collection::vec(outcome, count)
}

pub(crate) fn settings() -> impl Strategy<Value = PolicySettings> {
    (1u32..100, 0.0..=1.0f64, 0.0..=1.0f64, any::<bool>()).prop_map(|(window_tokens, least, floor, small)| {
        PolicySettings {
            window_tokens,
            confidence_min: least,
            token_probability_min: floor,
            on_large_failure: if small { OnLargeFailure::Small } else { OnLargeFailure::Error },
            ..PolicySettings::default()
        }
    })
}
