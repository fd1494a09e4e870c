//! Tests of the runner, over scripted backends.

use std::pin::Pin;
use std::sync::Mutex;

use backends::{Reply, ScriptedBackend};
use contract::{BackendInfo, LayerState, NextToken, ReadFuture, Readiness, TokenLogprob};

use super::*;
use crate::tasks;

const ROWS: &str = r#"{"id":"a","prompt":"one and one?","check":{"kind":"number","answer":2},"task":"sum","slices":{"n":"1"}}
{"id":"b","prompt":"capital of France?","check":{"kind":"contains","answer":"Paris"},"max_tokens":5}
{"id":"c","prompt":"yes?","check":{"kind":"judge","answer":"yes"}}"#;

const LABELS: &str = r#"{"prompt":"x?","subject":"law","small_correct":false,"large_correct":true}"#;

fn options(reading: Reading) -> EvaluationOptions {
    EvaluationOptions { clients: 2, max_tokens: 9, reading }
}

/// Everything that is told; the outcomes in the order of rows and roles.
async fn told(evaluation: &Evaluation<'_>, done: &HashSet<(String, Role)>) -> (Vec<Outcome>, Vec<String>) {
    let (mut outcomes, mut remarks) = (Vec::new(), Vec::new());
    let tell = |told| {
        match told {
            Told::Outcome(outcome) => outcomes.push(*outcome),
            Told::NoReading(why) => remarks.push(why),
        }
        Ok::<(), std::convert::Infallible>(())
    };
    let ended = evaluation.run(done, std::future::pending(), tell).await.unwrap();
    assert_eq!(ended, Ended::Whole);
    outcomes.sort_by_key(|outcome| (outcome.id.clone(), outcome.backend.as_str()));
    (outcomes, remarks)
}

fn small() -> ScriptedBackend {
    ScriptedBackend::new("small-model")
        .when("one and one", Reply::text("It is 2").logprob(-0.5))
        .when("capital", Reply::text("Rome"))
        .otherwise(Reply::fails(BackendError::new(FailureKind::TooLong, "too long")))
}

#[tokio::test]
async fn each_row_is_asked_of_each_backend_and_judged() {
    let large = ScriptedBackend::new("large-model")
        .when("You grade", Reply::text("yes"))
        .when("capital", Reply::text("Paris"))
        .otherwise(Reply::text("3"));
    let rows = tasks::read(ROWS.as_bytes(), None).unwrap();
    let tools = Tools { judge: Some(Arc::new(large.clone())), sandbox: None };
    let (seen_small, seen_large) = (small(), large.clone());
    let backends: Vec<(Role, Arc<dyn Backend>)> =
        vec![(Role::Small, Arc::new(seen_small.clone())), (Role::Large, Arc::new(large))];
    let evaluation = Evaluation::new(&rows, backends, tools, options(Reading::Off));
    let (outcomes, remarks) = told(&evaluation, &HashSet::new()).await;
    let right: Vec<(&str, Role, bool)> =
        outcomes.iter().map(|o| (o.id.as_str(), o.backend, o.correct)).collect();
    let (s, l) = (Role::Small, Role::Large);
    let expected =
        [("a", l, false), ("a", s, true), ("b", l, true), ("b", s, false), ("c", l, true), ("c", s, false)];
    assert_eq!(right, expected);
    assert!(remarks.is_empty());
    let a = &outcomes[1];
    assert_eq!((a.model.as_str(), a.task.as_str(), a.slices["n"].as_str()), ("small-model", "sum", "1"));
    assert_eq!((a.output.as_deref(), a.finish_reason.as_deref()), (Some("It is 2"), Some("stop")));
    assert_eq!((a.signals.tokens, a.signals.logprob_sum, a.tokens.completion_tokens), (3, -1.5, 3));
    let failed = &outcomes[5];
    assert_eq!((failed.output.as_ref(), failed.error.as_deref()), (None, Some("too long")));
    // The judge's own call is one more, and what is done is not asked again.
    assert_eq!((seen_small.calls(), seen_large.calls()), (3, 4));
    let (outcomes, _) = told(&evaluation, &HashSet::from([("a".to_owned(), s), ("b".to_owned(), l)])).await;
    assert_eq!(outcomes.len(), 4);
    let limits: Vec<Option<u32>> = seen_small.call_log().iter().map(|call| call.request.max_tokens).collect();
    assert!(limits.contains(&Some(5)) && limits.contains(&Some(9)), "{limits:?}");
    assert!(
        seen_small.call_log().iter().all(|call| call.signals && call.request.sampling.temperature == 0.0)
    );
}

#[tokio::test]
async fn labels_are_outcomes_without_a_call() {
    let rows = tasks::read(LABELS.as_bytes(), None).unwrap();
    let backend = ScriptedBackend::new("m");
    let backends: Vec<(Role, Arc<dyn Backend>)> =
        vec![(Role::Small, Arc::new(backend.clone())), (Role::Large, Arc::new(backend.clone()))];
    let evaluation = Evaluation::new(&rows, backends, Tools::default(), options(Reading::Off));
    let (outcomes, _) = told(&evaluation, &HashSet::new()).await;
    let shown: Vec<_> =
        outcomes.iter().map(|o| (o.backend, o.correct, o.output.as_ref(), &*o.model)).collect();
    assert_eq!(shown, [(Role::Large, true, None, ""), (Role::Small, false, None, "")]);
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn what_cannot_be_read_is_said_once_or_is_an_error() {
    let rows = tasks::read(ROWS.as_bytes(), None).unwrap();
    let backends = || -> Vec<(Role, Arc<dyn Backend>)> { vec![(Role::Small, Arc::new(small()))] };
    let evaluation =
        Evaluation::new(&rows, backends(), Tools::default(), options(Reading::IfPossible(vec![1])));
    let (outcomes, remarks) = told(&evaluation, &HashSet::new()).await;
    assert_eq!((outcomes.len(), remarks.len()), (3, 1));
    assert!(remarks[0].contains("can't be read") && outcomes.iter().all(|outcome| outcome.reading.is_none()));
    let evaluation = Evaluation::new(&rows, backends(), Tools::default(), options(Reading::Wanted(vec![1])));
    let tell = |_| Ok::<(), std::convert::Infallible>(());
    let error = evaluation.run(&HashSet::new(), std::future::pending(), tell).await.unwrap_err();
    assert!(matches!(error, EvaluationError::CannotRead(_)), "{error}");
}

/// Reads, and goes on as scripted.
struct Reader {
    script: ScriptedBackend,
    layers: Mutex<Vec<u32>>,
}

impl Backend for Reader {
    fn info(&self) -> BackendInfo {
        self.script.info()
    }

    fn readiness(&self) -> Readiness {
        self.script.readiness()
    }

    fn call(&self, call: Call) -> EventStream {
        self.script.call(call)
    }

    fn read(&self, call: Call, options: &ReadOptions) -> ReadFuture {
        self.layers.lock().unwrap().clone_from(&options.layers);
        let states =
            options.layers.iter().map(|&layer| LayerState { layer, last: vec![0.5], mean: vec![1.0] });
        let next = NextToken { logprob_max: -0.25, margin: 1.0, entropy: 0.5 };
        let usage = Usage { prompt_tokens: 7, ..Usage::default() };
        let reading = contract::Reading {
            prompt_tokens: 7,
            read_tokens: 7,
            states: states.collect(),
            next,
            usage,
            ..contract::Reading::default()
        };
        let script = self.script.clone();
        let go_on: Box<dyn FnOnce() -> EventStream + Send> = Box::new(move || script.call(call));
        let read: Pin<Box<dyn Future<Output = Result<Read, BackendError>> + Send>> =
            Box::pin(std::future::ready(Ok(Read { reading, go_on })));
        read
    }
}

#[tokio::test]
async fn a_reading_and_its_answer_are_one_call() {
    let text = [ROWS.lines().next().unwrap(), LABELS].map(str::to_owned);
    let mut rows = tasks::read(text[0].as_bytes(), None).unwrap();
    rows.extend(tasks::read(text[1].as_bytes(), None).unwrap());
    let reader = Arc::new(Reader { script: small(), layers: Mutex::default() });
    let backends: Vec<(Role, Arc<dyn Backend>)> = vec![(Role::Small, reader.clone())];
    let evaluation = Evaluation::new(&rows, backends, Tools::default(), options(Reading::Wanted(vec![2, 4])));
    let (outcomes, remarks) = told(&evaluation, &HashSet::new()).await;
    assert!(remarks.is_empty() && *reader.layers.lock().unwrap() == [2, 4]);
    let reading = outcomes[0].reading.as_ref().unwrap();
    assert_eq!((reading.prompt_tokens, reading.states[1].layer, reading.next.entropy), (7, 4, 0.5));
    assert_eq!((outcomes[0].correct, outcomes[0].output.as_deref()), (true, Some("It is 2")));
    // The label's row was read but not answered.
    let label = &outcomes[1];
    assert_eq!((label.correct, label.output.as_ref(), label.reading.is_some()), (false, None, true));
    assert_eq!((label.tokens.prompt_tokens, reader.script.calls()), (7, 1));
}

#[tokio::test]
async fn a_stop_leaves_what_was_done() {
    let rows = tasks::read(ROWS.as_bytes(), None).unwrap();
    let slow =
        ScriptedBackend::new("slow").when("one", Reply::text("2")).otherwise(Reply::text("").hangs_after(0));
    let backends: Vec<(Role, Arc<dyn Backend>)> = vec![(Role::Small, Arc::new(slow))];
    let evaluation = Evaluation::new(&rows, backends, Tools::default(), options(Reading::Off));
    let (raise, raised) = tokio::sync::oneshot::channel();
    let (mut raise, mut outcomes) = (Some(raise), Vec::new());
    let tell = |told| {
        outcomes.push(told);
        if let Some(raise) = raise.take() {
            raise.send(()).unwrap();
        }
        Ok::<(), std::convert::Infallible>(())
    };
    let stop = async { raised.await.unwrap() };
    assert_eq!(evaluation.run(&HashSet::new(), stop, tell).await.unwrap(), Ended::Stopped);
    assert_eq!(outcomes.len(), 1);
}

#[tokio::test]
async fn calls_that_are_refused_for_the_moment_are_made_again() {
    let busy = || {
        Reply::fails(BackendError { retry_after_s: Some(0), ..BackendError::new(FailureKind::Busy, "busy") })
    };
    let asked = |role| Asked { id: "x", messages: Vec::new(), max_tokens: None, role, signals: true };
    let patient = ScriptedBackend::new("m").then(busy()).then(busy()).otherwise(Reply::text("at last"));
    let answered = ask(&patient, asked(Role::Small)).await;
    assert_eq!((answered.text.as_str(), answered.error), ("at last", None));
    let never = ScriptedBackend::new("m").otherwise(busy());
    assert!(ask(&never, asked(Role::Large)).await.error.is_some());
    assert_eq!(never.calls(), RETRIES_MAX as usize + 1);
    let failed =
        ScriptedBackend::new("m").otherwise(Reply::fails(BackendError::new(FailureKind::Upstream, "no")));
    ask(&failed, asked(Role::Large)).await;
    assert_eq!(failed.calls(), 1);
}

#[tokio::test]
async fn signals_hold_what_tokens_tell() {
    let token = |entropy| TokenLogprob { logprob: -1.0, entropy, ..TokenLogprob::default() };
    let delta = contract::Delta {
        text: "xy".to_owned(),
        tokens: vec![token(Some(0.5)), token(None)],
        ..contract::Delta::default()
    };
    let backend = ScriptedBackend::new("m").otherwise(Reply::deltas([delta]));
    let asked = Asked { id: "x", messages: Vec::new(), max_tokens: None, role: Role::Small, signals: true };
    let signals = ask(&backend, asked).await.signals;
    assert_eq!((signals.tokens, signals.logprob_sum, signals.entropy_sum), (2, -2.0, 0.5));
}
