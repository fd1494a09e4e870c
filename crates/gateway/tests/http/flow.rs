//! The flow without HTTP, driven by policies made up for the test.

use std::sync::Arc;
use std::time::Duration;

use backends::{Reply as Script, ScriptedBackend};
use contract::{
    Attempt, AttemptStatus, Check, Decision, Input, Policy, Price, Reading, Refusal, Request, Role, Step,
    Usage,
};
use gateway::flow::{FlowError, FlowEvent, RouteTaken};
use gateway::{Flow, FlowHeads, FlowLimits, FlowParts, Metrics};
use proptest::prelude::*;

/// A policy that is a function of the attempts.
struct Made<F>(F);

impl<F: Fn(&[Attempt]) -> Step + Send + Sync> Policy for Made<F> {
    fn name(&self) -> &str {
        "made"
    }

    fn next(&self, _: &Request, attempts: &[Attempt]) -> Decision {
        Decision::new((self.0)(attempts), "because")
    }
}

fn flow(
    small: &ScriptedBackend,
    large: &ScriptedBackend,
    policy: impl Fn(&[Attempt]) -> Step + Send + Sync + 'static,
) -> Flow {
    guarded_flow((small, large), policy, policy::guards::Chain::default())
}

fn guarded_flow(
    (small, large): (&ScriptedBackend, &ScriptedBackend),
    policy: impl Fn(&[Attempt]) -> Step + Send + Sync + 'static,
    guards: policy::guards::Chain,
) -> Flow {
    Flow::new(FlowParts {
        policy: Arc::new(Made(policy)),
        small: Arc::new(small.clone()),
        large: Arc::new(large.clone()),
        ledger: None,
        heads: FlowHeads::default(),
        limits: FlowLimits::default(),
        metrics: Metrics::new().unwrap(),
        guards,
    })
}

fn request(stream: bool) -> Request {
    Request { stream, ..Request::new("cmpl-1", Input::Completion { prompt: "go".into() }) }
}

async fn run(flow: &Flow, stream: bool) -> Vec<FlowEvent> {
    let mut events = Vec::new();
    let mut running = flow.start(request(stream));
    while let Some(event) = running.next().await {
        events.push(event);
    }
    events
}

fn text(events: &[FlowEvent]) -> String {
    let texts = events.iter().filter_map(|event| match event {
        FlowEvent::Delta(delta) => Some(delta.text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn failure(events: &[FlowEvent]) -> &FlowError {
    match events.last() {
        Some(FlowEvent::Failed(failure)) => &failure.error,
        other => panic!("{other:?}"),
    }
}

fn call(role: Role, check: Check) -> Step {
    Step::Call { role, check }
}

#[tokio::test]
async fn what_is_ready_after_the_deadline_comes_too_late() {
    let backend = ScriptedBackend::new("m").otherwise(Script::text(&"word ".repeat(50)));
    let flow = flow(&backend, &backend, |_| call(Role::Small, Check::Never));
    let mut running = flow.start(Request { deadline_ms: Some(100), ..request(true) });
    let mut events = Vec::new();
    while let Some(event) = running.next().await {
        events.push(event);
        // A client that reads slowly: the backend is always ahead of it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(failure(&events), &FlowError::Deadline { after_ms: 100 });
    assert!((2..20).contains(&events.len()), "{} events", events.len());
}

fn reading() -> Reading {
    let usage = Usage { prompt_tokens: 7, cached_tokens: 2, ..Usage::default() };
    Reading { prompt_tokens: 7, read_tokens: 7, usage, ..Reading::default() }
}

#[tokio::test]
async fn what_was_read_is_gone_on_from_or_paid_for_and_left() {
    let price = Price { input_usd_per_mtok: 1e6, ..Price::default() };
    let small = ScriptedBackend::new("s").otherwise(Script::text("from small")).reads(reading()).price(price);
    let large = ScriptedBackend::new("l").otherwise(Script::text("from large"));
    for role in [Role::Small, Role::Large] {
        let policy = move |attempts: &[Attempt]| match attempts {
            [] => Step::Read,
            [attempt] => {
                let findings = attempt.findings.as_ref().unwrap();
                assert_eq!((&attempt.status, findings.prompt_tokens), (&AttemptStatus::Read, 7));
                call(role, Check::Never)
            }
            _ => panic!("nobody asks again"),
        };
        let (reads, calls) = (small.reads_count(), small.calls());
        let events = run(&flow(&small, &large, policy), true).await;
        assert_eq!(text(&events), format!("from {}", role.as_str()));
        let Some(FlowEvent::Finished(outcome)) = events.last() else { panic!("{events:?}") };
        assert_eq!(small.reads_count(), reads + 1);
        let statuses: Vec<&AttemptStatus> = outcome.attempts.iter().map(|attempt| &attempt.status).collect();
        let stop = AttemptStatus::Finished(contract::FinishReason::Stop);
        if role == Role::Small {
            assert_eq!((statuses, outcome.route), (vec![&stop], RouteTaken::Small));
            assert_eq!(small.calls(), calls + 1);
        } else {
            assert_eq!((statuses, outcome.route), (vec![&AttemptStatus::Read, &stop], RouteTaken::Large));
            assert_eq!((outcome.cost_usd, small.calls()), (7.0, calls), "the reading is paid for");
        }
    }
}

#[tokio::test]
async fn what_a_guard_had_read_is_the_policys_reading_and_paid_for_once() {
    let price = Price { input_usd_per_mtok: 1e6, ..Price::default() };
    let read = super::asked_guards::shows(-3.0);
    let small = ScriptedBackend::new("s").otherwise(Script::text("from small")).reads(read).price(price);
    let large = ScriptedBackend::new("l").otherwise(Script::text("from large"));
    let guards =
        super::asked_guards::chain(serde_json::json!([super::asked_guards::guard(serde_json::json!({}))]));
    let message = contract::Message::text(contract::MessageRole::User, "go");
    let input = Input::Chat { messages: vec![message], tools: Vec::new() };
    for (asks, role, cost_usd) in [
        (true, Role::Small, 1.0),
        (false, Role::Small, 1.0),
        (true, Role::Large, 10.0),
        (false, Role::Large, 10.0),
    ] {
        let policy = move |attempts: &[Attempt]| match attempts {
            [] if asks => Step::Read,
            _ => call(role, Check::Never),
        };
        let reads = small.reads_count();
        let flow = guarded_flow((&small, &large), policy, guards.clone());
        let mut running = flow.start(Request { input: input.clone(), ..request(true) });
        let mut events = Vec::new();
        while let Some(event) = running.next().await {
            events.push(event);
        }
        assert_eq!(text(&events), format!("from {}", role.as_str()));
        let Some(FlowEvent::Finished(outcome)) = events.last() else { panic!("{events:?}") };
        assert_eq!(small.reads_count(), reads + 1);
        // The finished call tells the script's one prompt token; what was only read, its ten.
        assert_eq!(outcome.cost_usd, cost_usd, "{asks} {role:?}");
        let findings = outcome.attempts[0].findings.is_some();
        assert_eq!(findings, asks, "a policy that did not ask sees nothing");
        assert_eq!(outcome.attempts.len(), 1 + usize::from(asks && role == Role::Large));
    }
}

#[tokio::test]
async fn a_reading_that_fails_is_an_attempt_that_failed() {
    let small = ScriptedBackend::new("s").otherwise(Script::text("from small"));
    let large = ScriptedBackend::new("l").otherwise(Script::text("from large"));
    for ready in [true, false] {
        if !ready {
            small.set_readiness(contract::Readiness::Failed("no file".to_owned()));
        }
        let policy = |attempts: &[Attempt]| match attempts {
            [] => Step::Read,
            [attempt] => {
                assert!(matches!(attempt.status, AttemptStatus::Failed(_)), "{attempt:?}");
                call(Role::Large, Check::Never)
            }
            _ => panic!("nobody asks again"),
        };
        assert_eq!(text(&run(&flow(&small, &large, policy), false).await), "from large");
    }
}

#[tokio::test]
async fn a_policy_that_breaks_its_contract_is_an_internal_error_that_names_it() {
    let backend = ScriptedBackend::new("m").otherwise(Script::text("a b c"));
    let endless = |_: &[Attempt]| call(Role::Small, Check::WhenFinished);
    let reads = |attempts: &[Attempt]| match attempts.len() {
        0 => call(Role::Small, Check::WhenFinished),
        _ => Step::Read,
    };
    let nobody = |_: &[Attempt]| Step::Answer { attempt: 3 };
    let cancelled = |attempts: &[Attempt]| match attempts.len() {
        0 => call(Role::Small, Check::AfterTokens(1)),
        1 => call(Role::Large, Check::WhenFinished),
        _ => Step::Answer { attempt: 0 },
    };
    let cases = [
        (flow(&backend, &backend, endless), "steps_max"),
        (flow(&backend, &backend, reads), "reading"),
        (flow(&backend, &backend, nobody), "attempt 3"),
        (flow(&backend, &backend, cancelled), "cancelled"),
    ];
    for (flow, word) in cases {
        let events = run(&flow, true).await;
        let error = failure(&events);
        assert_eq!(error.status(), 500);
        assert!(error.to_string().contains(word) && error.to_string().contains("made"), "{error}");
        assert_eq!(text(&events), "");
    }
}

#[tokio::test]
async fn a_refusal_is_400_with_its_code_and_stops_what_runs() {
    let backend = ScriptedBackend::new("m").otherwise(Script::text("a b c"));
    let refuse = |attempts: &[Attempt]| match attempts.len() {
        0 => call(Role::Small, Check::AfterTokens(2)),
        _ => Step::Refuse(Refusal { code: "not_today".into(), message: "not today".into() }),
    };
    let events = run(&flow(&backend, &backend, refuse), true).await;
    let Some(FlowEvent::Failed(failure)) = events.last() else { panic!("{events:?}") };
    assert_eq!((failure.error.status(), failure.error.code()), (400, "not_today"));
    assert_eq!(failure.outcome.route, RouteTaken::Refused);
    assert_eq!((text(&events).as_str(), backend.cancelled()), ("", 1));
}

#[tokio::test]
async fn an_earlier_finished_attempt_can_still_be_the_answer() {
    let small = ScriptedBackend::new("s").otherwise(Script::text("from small"));
    let large = ScriptedBackend::new("l").otherwise(Script::text("from large"));
    let back = |attempts: &[Attempt]| match attempts.len() {
        0 => call(Role::Small, Check::WhenFinished),
        1 => call(Role::Large, Check::AfterTokens(1)),
        _ => Step::Answer { attempt: 0 },
    };
    let events = run(&flow(&small, &large, back), true).await;
    assert_eq!(text(&events), "from small");
    let Some(FlowEvent::Finished(outcome)) = events.last() else { panic!("{events:?}") };
    assert_eq!((outcome.route, outcome.answered), (RouteTaken::Small, Some(0)));
    assert_eq!(large.cancelled(), 1);
}

#[tokio::test]
async fn a_backend_that_tells_no_tokens_is_judged_after_as_many_pieces() {
    let pieces = ["a", "b", "c", "d"].map(|text| contract::Delta { text: text.into(), ..Default::default() });
    let backend = ScriptedBackend::new("m").otherwise(Script::deltas(pieces));
    let judge = |attempts: &[Attempt]| match attempts.first() {
        None => call(Role::Small, Check::AfterTokens(3)),
        Some(attempt) => {
            assert_eq!(attempt.text, "abc");
            Step::Answer { attempt: 0 }
        }
    };
    assert_eq!(text(&run(&flow(&backend, &backend, judge), true).await), "abcd");
}

proptest! {
    /// Whatever the window and the verdict: nothing of a rejected attempt leaves, all of the accepted
    /// one does, in order and once, and `Decided` comes before any of it.
    #[test]
    fn only_accepted_text_leaves(
        small_words in 0usize..12,
        large_words in 0usize..12,
        window in 1u32..10,
        accept: bool,
        when_finished: bool,
        stream: bool,
    ) {
        let small_text: String = (0..small_words).map(|n| format!("s{n} ")).collect();
        let large_text: String = (0..large_words).map(|n| format!("l{n} ")).collect();
        let small = ScriptedBackend::new("s").otherwise(Script::text(small_text.trim_end()));
        let large = ScriptedBackend::new("l").otherwise(Script::text(large_text.trim_end()));
        let check = if when_finished { Check::WhenFinished } else { Check::AfterTokens(window) };
        let judge = move |attempts: &[Attempt]| match (attempts.len(), accept) {
            (0, _) => call(Role::Small, check),
            (_, true) => Step::Answer { attempt: 0 },
            (_, false) => call(Role::Large, Check::Never),
        };
        let flow = flow(&small, &large, judge);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let events = runtime.block_on(run(&flow, stream));
        let expected = if accept { small_text.trim_end() } else { large_text.trim_end() };
        prop_assert_eq!(text(&events), expected);
        prop_assert!(matches!(events.first(), Some(FlowEvent::Decided(_))), "{:?}", events);
        let decided = events.iter().filter(|event| matches!(event, FlowEvent::Decided(_))).count();
        prop_assert_eq!(decided, 1);
        prop_assert!(matches!(events.last(), Some(FlowEvent::Finished(_))));
    }
}

#[tokio::test]
async fn a_policy_may_hold_an_answer_back_time_after_time_and_turn_elsewhere() {
    let small = ScriptedBackend::new("s").otherwise(Script::text("a b c d e f g h i j"));
    let large = ScriptedBackend::new("l").otherwise(Script::text("from large"));
    for give_up_at in [6, 100] {
        let policy = move |attempts: &[Attempt]| match attempts {
            [] => call(Role::Small, Check::Every(2)),
            [last] if last.status != AttemptStatus::Partial => Step::Answer { attempt: 0 },
            [last] => {
                assert_eq!(last.signals.tokens % 2, 0, "{last:?}");
                if last.signals.tokens < give_up_at { Step::Hold } else { call(Role::Large, Check::Never) }
            }
            _ => panic!("nobody asks again"),
        };
        let events = run(&flow(&small, &large, policy), true).await;
        let Some(FlowEvent::Finished(outcome)) = events.last() else { panic!("{events:?}") };
        // Five times it was asked, and what decided nothing is not in the books.
        assert_eq!(outcome.decisions.len(), 2);
        if give_up_at == 6 {
            assert_eq!((text(&events).as_str(), outcome.route), ("from large", RouteTaken::Escalated));
            let given_up = &outcome.attempts[0];
            assert_eq!((&given_up.status, given_up.usage.completion_tokens), (&AttemptStatus::Cancelled, 6));
        } else {
            assert_eq!((text(&events).as_str(), outcome.route), ("a b c d e f g h i j", RouteTaken::Small));
        }
    }
    let idle = run(&flow(&small, &large, |_| Step::Hold), true).await;
    assert!(failure(&idle).to_string().contains("holds back an attempt that does not run"), "{idle:?}");
}

/// A calibration of a cascade by the mean log-probability, whose rows had it spread evenly over -1..=0.
fn calibration() -> Arc<policy::Calibration> {
    let quantiles: Vec<f64> = (0..=100).map(|step| f64::from(step) / 100.0 - 1.0).collect();
    let file = serde_json::json!({
        "format": policy::calibration::FORMAT, "version": policy::calibration::VERSION,
        "policy": "cascade", "routes": true, "why": "it pays", "constant": Role::Large,
        "small": "s", "large": "l", "confidence": 0.95, "max_quality_loss": 0.05,
        "right": {"large": {"head": null, "combination": null}, "small": {"head": null, "combination": {
            "parts": [{"evidence": "logprob_mean", "mean": 0.0, "scale": 1.0, "weight": 1.0}],
            "bias": 0.0, "calibrator": {"platt": {"slope": 1.0, "intercept": 0.0}},
        }}},
        "route_below": null,
        "thresholds": [
            {"max_quality_loss": 0.05, "score_min": -0.9, "large_share": 0.5, "cost_usd_per_1k": 1.0},
        ],
        "curve": [], "held_out": serde_json::to_value(policy::calibration::Performance::default()).unwrap(),
        "ordering": serde_json::to_value(policy::calibration::Ordering::default()).unwrap(),
        "slices": [], "references": [{"signal": "logprob_mean", "quantiles": quantiles}],
        "data": serde_json::to_value(policy::calibration::Data { fit: 1000, ..Default::default() }).unwrap(),
    });
    Arc::new(policy::Calibration::load(&file.to_string()).unwrap())
}

/// A calibrated cascade whose small model answers request after request with these log-probabilities.
fn watched(logprobs: impl Iterator<Item = f32>) -> (Flow, ScriptedBackend, Metrics) {
    let mut small = ScriptedBackend::new("s");
    for logprob in logprobs {
        small = small.then(Script::text("a b c").logprob(logprob));
    }
    let large = ScriptedBackend::new("l").otherwise(Script::text("large says"));
    let build = |kind: &str| policy::PolicySettings { kind: kind.to_owned(), ..Default::default() };
    let calibration = calibration();
    let decides = policy::build_calibrated(&build("cascade"), Some(Arc::clone(&calibration))).unwrap();
    let fallback = Arc::from(policy::build(&build("large")).unwrap());
    let metrics = Metrics::new().unwrap();
    let parts = FlowParts {
        policy: Arc::from(decides),
        small: Arc::new(small.clone()),
        large: Arc::new(large),
        ledger: None,
        heads: FlowHeads::default(),
        limits: FlowLimits::default(),
        metrics: metrics.clone(),
        guards: policy::guards::Chain::default(),
    };
    (Flow::watched(parts, Some(gateway::Watched { calibration, fallback })), small, metrics)
}

/// Spread evenly over 0..1, in a scattered order.
fn spread(amount: u16) -> impl Iterator<Item = f32> {
    (0..amount).map(|index| (f32::from(index) * 0.618_034).fract())
}

#[tokio::test]
async fn traffic_like_the_calibrations_goes_by_it() {
    let (flow, small, metrics) = watched(spread(120).map(|value| value - 1.0));
    for _ in 0..120 {
        assert_eq!(text(&run(&flow, false).await), "a b c");
    }
    assert_eq!(small.calls(), 120);
    let state = flow.drift().unwrap();
    assert!(!state.drifted && state.values == 120 && state.statistic < 0.1, "{state:?}");
    assert!(metrics.render(0, &[]).unwrap().contains("tandem_calibration_drifted 0"));
}

#[tokio::test]
async fn large_answers_once_traffic_has_drifted() {
    let (flow, small, metrics) = watched(spread(120).map(|value| 0.3 * value - 1.0));
    for _ in 0..120 {
        run(&flow, false).await;
    }
    let state = flow.drift().unwrap();
    assert!(state.drifted && state.p_value < 1e-4, "{state:?}");
    let before = small.calls();
    assert!(before < 120, "{before} answers of small were enough to see it");
    let events = run(&flow, true).await;
    assert_eq!((text(&events).as_str(), small.calls()), ("large says", before));
    let Some(FlowEvent::Decided(decided)) = events.first() else { panic!("{events:?}") };
    assert_eq!(decided.route, RouteTaken::Large);
    assert!(decided.reason.contains("traffic has drifted"), "{}", decided.reason);
    let text = metrics.render(0, &[]).unwrap();
    assert!(text.contains("tandem_calibration_drifted 1") && text.contains("tandem_calibration_drift 0."));
}

#[tokio::test]
async fn drifted_traffic_is_tried_again_after_a_pause_and_no_sooner() {
    let (flow, small, _) = watched(spread(400).map(|value| 0.3 * value - 1.0));
    let drifted = || flow.drift().unwrap().drifted;
    while !drifted() {
        run(&flow, false).await;
    }
    let before = small.calls();
    for _ in 0..policy::drift::PAUSE_REQUESTS {
        assert!(drifted());
        run(&flow, false).await;
    }
    assert_eq!((small.calls(), drifted()), (before, false));
    // It is as it was, and soon known to be: that is all the pause costs.
    let mut tried = 0;
    while !drifted() {
        run(&flow, false).await;
        tried += 1;
    }
    assert!((1..=policy::drift::WINDOW_VALUES).contains(&tried), "{tried} requests");
    assert_eq!(small.calls(), before + tried);
}
