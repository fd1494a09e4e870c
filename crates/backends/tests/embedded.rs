//! The embedded backend on tiny models: events, signals, failures, cancellation.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use backends::{DraftOptions, EmbeddedBackend, EmbeddedOptions, IdleUnload};
use contract::{
    Backend, Call, DrafterState, Drafting, Event, FailureKind, FinishReason, Input, Message, MessageRole,
    Price, ReadOptions, Readiness, Request, Sampling, Usage,
};
use engine::decoder::{DecoderOptions, LayerSet};
use engine::model::{LoadOptions, Model};
use engine::scheduler::Load;
use engine::speculation::STEP_DRAFT_TOKENS;
use engine::speculation::costs::StepCosts;
use futures_util::StreamExt;
use kernels::isa::Isa;
use kernels::pool::Pool;

const PATIENCE: Duration = Duration::from_secs(20);

fn request(prompt: &str, max_tokens: Option<u32>) -> Request {
    Request {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens,
        stream: true,
        ..Request::new("cmpl-1", Input::Completion { prompt: prompt.into() })
    }
}

fn call(request: Request, signals: bool) -> Call {
    Call { request: Arc::new(request), signals, tenant: None }
}

fn ready(sequences: usize, queue_max: usize) -> EmbeddedBackend {
    let backend = EmbeddedBackend::loading("tiny".into(), Price::default());
    let pool = Arc::new(Pool::new(2));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny/tiny-qwen2.gguf");
    let model = Arc::new(Model::load(&path, LoadOptions::default(), &pool).unwrap());
    let decoder = DecoderOptions::new(sequences, 1024);
    let turns = Arc::default();
    let options =
        EmbeddedOptions { pool, turns, isa: Isa::detect(), decoder, queue_max, idle: None, drafts: None };
    backend.start(model, &options).unwrap();
    backend
}

async fn events(backend: &EmbeddedBackend, call: Call) -> Vec<Event> {
    tokio::time::timeout(PATIENCE, backend.call(call).collect()).await.unwrap()
}

fn text(events: &[Event]) -> String {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Delta(delta) => Some(delta.text.as_str()),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn an_answer_is_started_deltas_and_finished_with_what_was_processed() {
    let backend = ready(2, 4);
    assert_eq!(backend.readiness(), Readiness::Ready);
    let events = events(&backend, call(request("hello world", Some(12)), false)).await;
    let Event::Started(Usage { prompt_tokens, completion_tokens: 0, .. }) = events[0] else {
        panic!("{events:?}")
    };
    let Some(Event::Finished(finished)) = events.last() else { panic!("{events:?}") };
    assert_eq!(finished.reason, FinishReason::Length);
    assert_eq!((finished.usage.prompt_tokens, finished.usage.completion_tokens), (prompt_tokens, 12));
    assert!(prompt_tokens > 0 && finished.timings.decode_ms > 0.0);
    for event in &events[1..events.len() - 1] {
        let Event::Delta(delta) = event else { panic!("{event:?}") };
        assert!(delta.tokens.is_empty(), "nobody asked for log-probabilities");
    }
}

#[tokio::test]
async fn signals_and_log_probabilities_come_when_asked_for() {
    let backend = ready(1, 4);
    let with = |signals, top_logprobs| {
        let mut request = request("abc", Some(6));
        request.top_logprobs = top_logprobs;
        events(&backend, call(request, signals))
    };
    for (signals, top_logprobs, alternatives) in [(true, None, 1), (false, Some(3), 3), (true, Some(0), 1)] {
        let events = with(signals, top_logprobs).await;
        let tokens: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Delta(delta) => Some(delta.tokens.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(tokens.len(), 6);
        for token in tokens {
            assert_eq!(token.top.len(), alternatives);
            assert!(token.logprob <= 0.0 && token.top[0].2 >= token.logprob);
            assert_eq!(token.token.as_bytes(), String::from_utf8_lossy(&token.bytes).as_bytes());
        }
    }
}

#[tokio::test]
async fn the_same_request_gives_the_same_text_alone_or_among_others() {
    let backend = ready(3, 8);
    let sampled = |id: &str| {
        let mut request = request("once upon", Some(30));
        request.id = id.into();
        request.sampling.temperature = 1.0;
        call(request, false)
    };
    let alone = text(&events(&backend, sampled("a")).await);
    let calls = ["a", "b", "c", "a"].map(|id| events(&backend, sampled(id)));
    let together = futures_util::future::join_all(calls).await;
    assert_eq!(text(&together[0]), alone);
    assert_eq!(text(&together[3]), alone);
    assert_ne!(text(&together[1]), alone, "another id is another seed");
}

#[tokio::test]
async fn what_can_not_be_served_says_why() {
    let backend = ready(1, 1);
    let failure = |events: Vec<Event>| match events.as_slice() {
        [Event::Failed(error)] => error.clone(),
        other => panic!("{other:?}"),
    };
    let long = failure(events(&backend, call(request(&"word ".repeat(2000), Some(5)), false)).await);
    assert_eq!(long.kind, FailureKind::TooLong);
    assert!(long.message.contains("context holds 512"), "{long}");
    let empty = failure(events(&backend, call(request("", Some(5)), false)).await);
    assert_eq!(empty.kind, FailureKind::BadInput);
    let mut chat = request("", Some(5));
    chat.input = Input::Chat { messages: vec![Message::text(MessageRole::User, "hi")], tools: Vec::new() };
    let chat = failure(events(&backend, call(chat, false)).await);
    assert_eq!(chat.kind, FailureKind::BadInput);
    assert!(chat.message.contains("no chat template"), "{chat}");

    let loading = EmbeddedBackend::loading("later".into(), Price::default());
    assert_eq!(loading.readiness(), Readiness::Loading);
    let unready = failure(events(&loading, call(request("x", None), false)).await);
    assert_eq!(unready.kind, FailureKind::Unready);
    loading.fail("the file is damaged".into());
    let unready = failure(events(&loading, call(request("x", None), false)).await);
    assert!(unready.message.contains("the file is damaged"), "{unready}");
}

#[tokio::test]
async fn a_dropped_stream_frees_the_place_for_who_waits() {
    let backend = ready(1, 1);
    let mut first = backend.call(call(request("a b c", Some(400)), false));
    assert!(matches!(first.next().await, Some(Event::Started(_))));
    let mut second = backend.call(call(request("d", Some(3)), false));
    // The queue of one is taken by the second call.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(first);
    let events: Vec<Event> = tokio::time::timeout(PATIENCE, second.by_ref().collect()).await.unwrap();
    assert!(matches!(events.last(), Some(Event::Finished(_))), "{events:?}");
}

async fn comes_true(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it never comes true");
}

/// Starts a backend that leaves memory soon. Gives its model, while that is there.
fn start_idling(backend: &EmbeddedBackend, drafts: Option<DraftOptions>) -> Weak<Model> {
    let pool = Arc::new(Pool::new(2));
    let load: Arc<dyn Fn() -> Result<Arc<Model>, String> + Send + Sync> = {
        let pool = Arc::clone(&pool);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny/tiny-qwen2.gguf");
        Arc::new(move || {
            Model::load(&path, LoadOptions::default(), &pool).map(Arc::new).map_err(|error| error.to_string())
        })
    };
    let model = load().unwrap();
    let in_memory = Arc::downgrade(&model);
    let idle = Some(IdleUnload { after: Duration::from_millis(50), load });
    let decoder =
        DecoderOptions { guests: 2, draft_tokens: STEP_DRAFT_TOKENS, ..DecoderOptions::new(2, 1024) };
    let turns = Arc::default();
    let options = EmbeddedOptions { pool, turns, isa: Isa::detect(), decoder, queue_max: 4, idle, drafts };
    backend.start(model, &options).unwrap();
    in_memory
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_model_leaves_memory_and_comes_back_for_the_next_call() {
    let backend = EmbeddedBackend::loading("tiny".into(), Price::default());
    let in_memory = start_idling(&backend, None);
    let first = text(&events(&backend, call(request("Hello", Some(12)), false)).await);
    for _ in 0..3 {
        comes_true(|| in_memory.strong_count() == 0 && backend.load() == Load::default()).await;
        assert_eq!(backend.readiness(), Readiness::Ready);
        // Several at once bring it back once.
        let calls = (0..4).map(|_| events(&backend, call(request("Hello", Some(12)), false)));
        for events in futures_util::future::join_all(calls).await {
            assert_eq!(text(&events), first);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drafts_is_told_and_drafted_tokens_are_counted_beyond_memory() {
    let backend = |name: &str| EmbeddedBackend::loading(name.into(), Price::default());
    let (drafter, target) = (backend("drafter"), backend("target"));
    assert_eq!(target.drafting(), None, "nothing is known yet");
    let in_memory = start_idling(&drafter, None);
    assert_eq!(drafter.drafting(), Some(Drafting::default()), "nobody drafts for it");
    // Whatever it costs: whether drafts pay on this machine is no matter here.
    let costs = Some(Arc::new(StepCosts::free()));
    let model = Some(drafter.clone());
    let note = "with its own weights".to_owned();
    let told = Some(note.clone());
    let drafts = DraftOptions { prompt_lookup: true, model, costs, note: told, ..DraftOptions::default() };
    start_idling(&target, Some(drafts));
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..3 {
        let Some(Event::Finished(finished)) =
            events(&target, call(request("Hello Hello Hello", Some(200)), false)).await.pop()
        else {
            panic!("it did not finish")
        };
        accepted += finished.usage.accepted_prediction_tokens;
        rejected += finished.usage.rejected_prediction_tokens;
        comes_true(|| {
            let told = target.drafting().unwrap();
            let is_out = target.load().blocks.bytes == 0;
            is_out && (told.accepted_tokens, told.rejected_tokens) == (accepted, rejected)
        })
        .await;
    }
    assert!(accepted > 0, "a model's own drafts are never right");
    let model_state = || target.drafting().unwrap().drafters[1].clone();
    comes_true(|| in_memory.strong_count() == 0 && model_state().idle.is_some()).await;
    let why = "drafter is out of memory until it is called".to_owned();
    assert_eq!(model_state(), DrafterState { name: "model", idle: Some(why), note: Some(note) });
    let lookup = DrafterState { name: "prompt-lookup", idle: None, note: None };
    assert_eq!(target.drafting().unwrap().drafters[0], lookup);
    let (answer, ()) = tokio::join!(
        events(&drafter, call(request("Hello", Some(400)), false)),
        comes_true(|| model_state().idle.is_none())
    );
    assert!(matches!(answer.last(), Some(Event::Finished(_))));
    let other = backend("other");
    let unused =
        vec![DrafterState { name: "model", idle: Some("vocabularies differ".to_owned()), note: None }];
    start_idling(&other, Some(DraftOptions { unused: unused.clone(), ..DraftOptions::default() }));
    assert_eq!(other.drafting().unwrap().drafters, unused);
}

#[tokio::test]
async fn a_prompt_seen_before_is_counted_as_cached() {
    let backend = ready(2, 4);
    let prompt = "All work and no play makes Jack a dull boy. ".repeat(6);
    let mut cached = Vec::new();
    for tenant in [None, None, Some("a"), Some("a")] {
        let call = Call { tenant: tenant.map(Arc::from), ..call(request(&prompt, Some(4)), false) };
        let events = events(&backend, call).await;
        let Some(Event::Finished(finished)) = events.last() else { panic!("{events:?}") };
        let Some(Event::Started(usage)) = events.first() else { panic!("{events:?}") };
        assert_eq!(usage.cached_tokens, finished.usage.cached_tokens);
        cached.push(finished.usage.cached_tokens);
    }
    assert!(cached[1] >= 64 && cached[1].is_multiple_of(64), "{cached:?}");
    assert_eq!(cached, [0, cached[1], 0, cached[1]], "tenants share nothing");
    comes_true(|| backend.load().blocks.used == 0).await;
}

fn reader(sequences: usize) -> EmbeddedBackend {
    let backend = EmbeddedBackend::loading("tiny".into(), Price::default());
    let pool = Arc::new(Pool::new(2));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny/tiny-qwen2.gguf");
    let model = Arc::new(Model::load(&path, LoadOptions::default(), &pool).unwrap());
    let reading_layers = LayerSet::of([0, 1, 2]);
    let decoder = DecoderOptions { reading_layers, ..DecoderOptions::new(sequences, 1024) };
    let (turns, isa) = (Arc::default(), Isa::detect());
    let options = EmbeddedOptions { pool, turns, isa, decoder, queue_max: 4, idle: None, drafts: None };
    backend.start(model, &options).unwrap();
    backend
}

#[tokio::test]
async fn what_was_read_is_answered_without_reading_again_and_given_back_when_dropped() {
    let backend = reader(1);
    let plain = text(&events(&backend, call(request("hello world", Some(8)), false)).await);
    let options = ReadOptions { layers: vec![1, 2], ..ReadOptions::default() };
    let read = |prompt: &str| {
        let read = backend.read(call(request(prompt, Some(8)), false), &options);
        async { tokio::time::timeout(PATIENCE, read).await.unwrap() }
    };
    let first = read("hello world").await.unwrap();
    let layers: Vec<u32> = first.reading.states.iter().map(|state| state.layer).collect();
    assert_eq!(layers, [1, 2]);
    assert!(!first.reading.is_truncated() && first.reading.next.entropy > 0.0);
    assert!(first.reading.next.logprob_max < 0.0 && first.reading.next.margin >= 0.0);
    let answer: Vec<Event> = (first.go_on)().collect().await;
    assert_eq!(text(&answer), plain);
    let Some(Event::Finished(finished)) = answer.last() else { panic!("{answer:?}") };
    assert_eq!(finished.usage.prompt_tokens, first.reading.usage.prompt_tokens);
    // One place: whoever holds it and leaves lets the next one in, without anything else happening.
    for _ in 0..3 {
        drop(read("hello world").await.unwrap());
    }
    comes_true(|| backend.load().running == 0).await;
    let missing = backend
        .read(call(request("x", None), false), &ReadOptions { layers: vec![9], ..ReadOptions::default() });
    assert!(missing.await.unwrap_err().message.contains("{9}"));
    let too_long = read(&"word ".repeat(2000)).await.unwrap_err();
    assert_eq!(too_long.kind, FailureKind::TooLong);
}

#[tokio::test]
async fn of_a_long_prompt_both_ends_are_read_and_all_of_it_is_answered() {
    let backend = reader(2);
    let prompt = "a quick brown fox and a lazy dog ".repeat(8);
    let plain = events(&backend, call(request(&prompt, Some(8)), false)).await;
    let options = ReadOptions { layers: vec![0], tokens_max: Some(20), ..ReadOptions::default() };
    let read = backend.read(call(request(&prompt, Some(8)), false), &options).await.unwrap();
    assert_eq!((read.reading.read_tokens, read.reading.usage.prompt_tokens), (20, 20));
    assert!(read.reading.is_truncated() && read.reading.prompt_tokens > 60);
    let answer: Vec<Event> = (read.go_on)().collect().await;
    assert_eq!(text(&answer), text(&plain));
}
