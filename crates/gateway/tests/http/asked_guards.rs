//! Guards that ask the small model: what they have read, what they do when they can't, and what of an answer leaves.

use std::collections::BTreeMap;

use backends::scripted::Reply as Script;
use contract::{LayerState, LayerTokens, Readiness, Reading, TokenStates, Usage};
use policy::guards::asked::{Materials, texts::WINDOW_BYTES};
use policy::guards::{Chain, GuardSettings};
use policy::{Head, Heads, TokenHead};
use serde_json::{Value, json};

use super::server::{Server, Setup, chat, chat_stream};

/// A head that says σ(x) of the state [x] of layer 1.
fn head() -> Head {
    let head = json!({
        "format": "tandem-head", "version": 2, "name": "injection",
        "model": {"name": "tiny", "sha256": "0a".repeat(32)},
        "features": {"states": [{"layer": 1, "state": "last"}], "scalars": []},
        "means": [0.0], "scales": [1.0], "weights": [1.0], "bias": 0.0,
        "calibrator": {"platt": {"slope": 1.0, "intercept": 0.0}},
        "training": serde_json::to_value(policy::heads::Training::default()).unwrap(),
    });
    Head::load(&head.to_string()).unwrap()
}

/// A token head for the state [x] of layer 1 under each word: what is above 0 is a person's.
fn names() -> TokenHead {
    let head = json!({
        "format": "tandem-token-head", "version": 1, "name": "names",
        "model": {"name": "tiny", "sha256": "0a".repeat(32)},
        "parts": [{"layer": 1, "word": 0}], "classes": ["person"],
        "weights": [0.0, 4.0, 4.0], "bias": [2.0, 0.0, 0.1], "changes": vec![0.0; 9], "threshold": 0.0,
        "training": serde_json::to_value(policy::token_head::TokenTraining::default()).unwrap(),
    });
    TokenHead::load(&head.to_string()).unwrap()
}

/// A reading of a text, a token a byte, which shows 1 under words with a capital.
fn sees(text: &str) -> Reading {
    let mut states = vec![0.0; text.len()];
    for word in policy::token_head::words(text) {
        let is_name = text[word.clone()].starts_with(char::is_uppercase);
        states[word].fill(f32::from(is_name));
    }
    let layers = vec![LayerTokens { layer: 1, states }];
    let tokens = TokenStates { text: text.as_bytes().to_vec(), ends: (1..=text.len()).collect(), layers };
    Reading { tokens: Some(tokens.into()), ..shows(-3.0) }
}

pub fn shows(value: f32) -> Reading {
    let state = LayerState { layer: 1, last: vec![value], mean: vec![value] };
    let usage = Usage { prompt_tokens: 10, ..Usage::default() };
    Reading { prompt_tokens: 10, read_tokens: 10, states: vec![state], usage, ..Reading::default() }
}

pub fn guard(more: Value) -> Value {
    let mut guard = json!({"name": "inj", "kind": "head", "head": "injection", "action": "block"});
    guard.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    guard
}

pub fn chain(guards: Value) -> Chain {
    let settings: Vec<GuardSettings> = serde_json::from_value(guards).unwrap();
    let heads = BTreeMap::from([("injection".to_owned(), head())]);
    let token_heads = BTreeMap::from([("names".to_owned(), names())]);
    let materials = Materials { heads, token_heads, layers: 2 };
    Chain::with(&settings, &materials).unwrap()
}

/// Small reads `evil` as such; both answer.
fn setup(kind: &str, guards: Value) -> Setup {
    let setup = Setup { guards: chain(guards), ..Setup::new(kind) };
    setup
        .small(|small| {
            small.reads_when("evil", shows(3.0)).reads(shows(-3.0)).otherwise(Script::text("from small"))
        })
        .large(|large| large.otherwise(Script::text("from large")))
}

fn content(answer: &super::server::Reply) -> Value {
    answer.json()["choices"][0]["message"]["content"].clone()
}

async fn counted(server: &Server, labels: &str) -> u64 {
    let metrics = server.get("/metrics").await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix(labels));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn a_request_that_a_head_finds_bad_is_refused_with_its_score() {
    let server = setup("large", json!([guard(json!({}))])).with_ledger().start().await;
    assert_eq!(content(&server.chat(&chat("be good")).await), "from large");
    let refused = server.chat(&chat("be \u{435}vil")).await;
    assert_eq!((refused.status, &refused.error()["code"]), (400, &json!("content_filter")));
    assert_eq!(refused.error()["tandem"]["guard"], "inj");
    assert_eq!(refused.error()["tandem"]["reason"], "the guard inj found injection (1) in user");
    let id = refused.header("x-tandem-request-id").unwrap();
    let stored = server.ledger.as_ref().unwrap().request(id).await.unwrap().unwrap().row;
    assert!((stored.guards[0].score - 0.9526).abs() < 1e-3, "{:?}", stored.guards);
    assert_eq!((server.large.calls(), server.small.calls()), (1, 0));
    assert_eq!(counted(&server, "tandem_guard_total{action=\"block\",guard=\"inj\"}").await, 1);
}

#[tokio::test]
async fn what_can_not_be_judged_is_blocked_or_passes_and_never_silently() {
    for (words, delay_ms) in [("failed", None), ("20 ms", Some(5_000))] {
        for on_error in ["block", "pass"] {
            let guards = json!([guard(json!({"on_error": on_error, "timeout_ms": 20}))]);
            let setup = setup("large", guards).with_ledger();
            let server = match delay_ms {
                Some(delay_ms) => setup.small(|small| small.read_delay_ms(delay_ms)),
                // No readings: every one fails.
                None => Setup { small: backends::ScriptedBackend::new("tiny-1"), ..setup },
            };
            let server = server.start().await;
            let answer = server.chat(&chat("hello")).await;
            let id = answer.header("x-tandem-request-id").unwrap();
            if on_error == "block" {
                assert_eq!((answer.status, &answer.error()["code"]), (400, &json!("content_filter")));
                let reason = answer.error()["tandem"]["reason"].as_str().unwrap().to_owned();
                assert!(reason.contains("could not judge") && reason.contains(words), "{reason}");
                assert_eq!(server.large.calls(), 0);
            } else {
                assert_eq!(content(&answer), "from large");
                let told = answer.json()["tandem"]["guards"][0]["error"].as_str().unwrap().to_owned();
                assert!(told.contains(words), "{told}");
            }
            assert_eq!(counted(&server, "tandem_guard_total{action=\"error\",guard=\"inj\"}").await, 1);
            let stored = server.ledger.as_ref().unwrap().request(id).await.unwrap().unwrap().row;
            assert!(stored.guards[0].error.is_some() && !stored.guards[0].is_finding());
        }
    }
}

#[tokio::test]
async fn while_small_loads_a_guard_that_needs_it_asks_for_patience() {
    let server = setup("large", json!([guard(json!({}))])).start().await;
    server.small.set_readiness(Readiness::Loading);
    // The script's readings come whatever its readiness is; an embedded model's do not.
    let bare = Setup {
        small: backends::ScriptedBackend::new("tiny-1"),
        ..setup("large", json!([guard(json!({}))]))
    };
    let server_without = bare.start().await;
    server_without.small.set_readiness(Readiness::Loading);
    let answer = server_without.chat(&chat("hello")).await;
    assert_eq!((answer.status, &answer.error()["code"]), (503, &json!("model_loading")));
    assert_eq!(server.chat(&chat("hello")).await.status, 200);
}

#[tokio::test]
async fn a_request_that_is_all_there_is_to_judge_is_read_once_for_guards_and_answer() {
    let second = json!({"name": "second", "action": "flag", "threshold": 0.9});
    for (kind, reads, calls, prompt) in [("small", 1, (1, 0), 2), ("large", 1, (0, 1), 10)] {
        let server = setup(kind, json!([guard(json!({})), guard(second.clone())])).start().await;
        let answer = server.chat(&chat("hello there")).await;
        assert_eq!(content(&answer), format!("from {kind}"));
        assert_eq!(
            (server.small.reads_count(), (server.small.calls(), server.large.calls())),
            (reads, calls)
        );
        // Read for the guards, it is the beginning of the answer; or it is counted by itself.
        let tokens = "tandem_tokens_total{backend=\"small\",kind=\"prompt\"}";
        assert_eq!(counted(&server, tokens).await, prompt, "{kind}");
    }
}

#[tokio::test]
async fn every_window_of_a_long_text_counts_and_so_does_the_conversation() {
    let server = setup("small", json!([guard(json!({}))])).start().await;
    let good = |from: usize, to: usize| (from..to).map(|n| format!("good words {n:04} ")).collect::<String>();
    let padded = format!("{}evil {}", good(0, 300), good(300, 310));
    assert_eq!(server.chat(&chat(&padded)).await.status, 400);
    let read = server.small.read_log();
    // Windows of whole words, so one more.
    let least = padded.len().div_ceil(WINDOW_BYTES);
    assert!((least..=least + 1).contains(&read.len()), "{} windows of {least}", read.len());
    assert!(read.iter().all(|call| call.request.text().len() <= WINDOW_BYTES));
    let mut split = chat("");
    split["messages"] = json!([
        {"role": "user", "content": "first: ev"}, {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "il. Put both together."},
    ]);
    let answer = server.chat(&split).await;
    assert_eq!(answer.status, 200, "halves are not evil: {}", answer.text);
    assert!(
        server.small.read_log().iter().any(|call| call.request.text() == "first: ev\nil. Put both together.")
    );
}

#[tokio::test]
async fn of_a_conversation_that_comes_back_only_what_is_new_is_read() {
    let guards = json!([guard(json!({})), guard(json!({"name": "second", "action": "flag"}))]);
    let server = setup("large", guards).start().await;
    let turn = |n: usize| format!("turn {n} says {}", "something harmless ".repeat(60));
    let mut messages = Vec::new();
    for n in 0..6 {
        messages.push(json!({"role": "user", "content": turn(n)}));
        let before = server.small.reads_count();
        let mut request = chat("");
        request["messages"] = json!(messages);
        assert_eq!(server.chat(&request).await.status, 200);
        let windows = (2 * turn(n).len()).div_ceil(WINDOW_BYTES) + 2;
        let read = server.small.reads_count() - before;
        assert!((1..=windows).contains(&read), "{read} windows of turn {n}, not {windows}");
        assert_eq!(server.chat(&request).await.status, 200);
        assert_eq!(server.small.reads_count() - before, read, "nothing is new");
        messages.push(json!({"role": "assistant", "content": "I see."}));
    }
    // What is refused stays refused, and is told as before.
    for _ in 0..2 {
        let refused = server.chat(&chat("evil")).await;
        assert_eq!(refused.error()["tandem"]["reason"], "the guard inj found injection (1) in user");
    }
}

#[tokio::test]
async fn tools_are_a_channel_of_their_own_and_large_answers_what_is_escalated() {
    let guards = json!([guard(json!({"action": "escalate", "channels": ["tool"]}))]);
    let server = setup("small", guards).start().await;
    let mut body = chat("evil, but from the user");
    assert_eq!(content(&server.chat(&body).await), "from small");
    body["messages"] = json!([
        {"role": "user", "content": "look it up"},
        {"role": "assistant", "content": null,
         "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "evil page"},
    ]);
    let answer = server.chat(&body).await;
    assert_eq!(content(&answer), "from large");
    assert_eq!(answer.json()["tandem"]["guards"][0]["channel"], "tool");
}

#[tokio::test]
async fn models_see_the_redacted_request() {
    let pii = json!({"name": "pii", "kind": "pattern", "action": "redact"});
    let server = setup("small", json!([guard(json!({})), pii])).start().await;
    assert_eq!(server.chat(&chat("I am a@b.org")).await.status, 200);
    assert_eq!(server.small.read_log()[0].request.text(), "I am <EMAIL_1>");
}

#[tokio::test]
async fn of_an_answer_only_what_was_judged_leaves() {
    let guards = |more: Value| {
        let mut guard = guard(json!({"stage": "output", "window_tokens": 8}));
        guard.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([guard])
    };
    let written = "one two three four five six seven eight nine ten, then something evil and more of it.";
    let in_pieces = |guards: Value, text: &'static str, size: usize| {
        let letters: Vec<char> = text.chars().collect();
        let pieces: Vec<String> = letters.chunks(size).map(|piece| piece.iter().collect()).collect();
        let script = Script::tokens(pieces.into_iter().map(|piece| (piece, -0.1)));
        Setup { large: backends::ScriptedBackend::new("huge-1").otherwise(script), ..setup("large", guards) }
    };
    let answers = |guards: Value, text: &'static str| in_pieces(guards, text, 1);
    for size in [2, 7, 31, 40, 200] {
        let server = in_pieces(guards(json!({})), written, size).start().await;
        assert_eq!(server.chat(&chat_stream("go")).await.streamed_text(), written[..64], "pieces of {size}");
    }
    let server = answers(guards(json!({})), written).start().await;
    let streamed = server.chat(&chat_stream("go")).await;
    // Steps of 32 bytes; the second one has the word in it.
    assert_eq!(streamed.streamed_text(), written[..64].to_owned());
    assert!(streamed.text.contains("\"finish_reason\":\"content_filter\""), "{}", streamed.text);
    let whole = server.chat(&chat("go")).await;
    assert_eq!(content(&whole), written[..64]);
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(whole.json()["tandem"]["guards"][0]["channel"], "output");

    let server = answers(guards(json!({"action": "flag"})), written).start().await;
    let whole = server.chat(&chat("go")).await;
    assert_eq!(content(&whole), written);
    assert_eq!(whole.json()["tandem"]["guards"][0]["entities"], json!({"injection": 1}));

    let server = answers(guards(json!({})), "short and good").start().await;
    let streamed = server.chat(&chat_stream("go")).await;
    assert_eq!(streamed.streamed_text(), "short and good");
    assert!(streamed.text.contains("\"finish_reason\":\"stop\"") && streamed.text.contains("[DONE]"));
}

#[tokio::test]
async fn an_answer_that_can_not_be_judged_does_not_leave_unless_it_may() {
    for (on_error, text) in [("block", ""), ("pass", "from large")] {
        let guards = json!([guard(json!({"stage": "output", "on_error": on_error}))]);
        let server =
            Setup { small: backends::ScriptedBackend::new("tiny-1"), ..setup("large", guards) }.start().await;
        let answer = server.chat(&chat_stream("go")).await;
        assert_eq!(answer.streamed_text(), text, "{on_error}");
        assert_eq!(answer.text.contains("content_filter"), on_error == "block");
        assert_eq!(counted(&server, "tandem_guard_total{action=\"error\",guard=\"inj\"}").await, 1);
    }
}

#[tokio::test]
async fn moderations_ask_too() {
    let guards =
        json!([guard(json!({})), {"name": "words", "kind": "pattern", "action": "flag", "deny": ["geheim"]}]);
    let server = setup("large", guards.clone()).start().await;
    let post = async |server: &Server, body: Value| {
        super::server::Reply::read(server.post("/v1/moderations", &body).send().await.unwrap()).await.json()
    };
    let answer = post(&server, json!({"input": ["fine", "evil", "geheim"]})).await;
    let flagged: Vec<&Value> = (0..3).map(|at| &answer["results"][at]["flagged"]).collect();
    assert_eq!(flagged, [&json!(false), &json!(true), &json!(true)]);
    assert_eq!(answer["results"][1]["categories"], json!({"inj": true, "words": false}));
    assert!(answer["results"][1]["category_scores"]["inj"].as_f64().unwrap() > 0.9);
    assert_eq!(answer["results"][1]["tandem"]["action"], "block");

    let server =
        Setup { small: backends::ScriptedBackend::new("tiny-1"), ..setup("large", guards) }.start().await;
    let answer = post(&server, json!({"input": "fine"})).await;
    assert_eq!(answer["results"][0]["flagged"], true, "it would be blocked");
    assert!(answer["results"][0]["tandem"]["errors"]["inj"].is_string());
}

#[test]
fn the_head_of_these_tests_is_one() {
    let heads = Heads::new(vec![head()]).unwrap();
    assert_eq!(heads.layers(), [1]);
    assert!(heads.findings(&shows(3.0)).scores["injection"] > 0.9);
}

fn named(more: Value) -> Value {
    let mut guard = json!({"name": "names", "kind": "token-head", "head": "names", "action": "redact"});
    guard.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    guard
}

/// Small sees names; large repeats the placeholder.
fn setup_names(kind: &str, guards: Value) -> Setup {
    let setup = Setup { guards: chain(guards), ..Setup::new(kind) };
    setup
        .small(|small| {
            let small = small.reads_when("i am Ann Berg", sees("i am Ann Berg"));
            let small = small.reads_when("<PERSON_1>", shows(-3.0));
            small.reads_when("hello", sees("hello you")).otherwise(Script::text("from small"))
        })
        .large(|large| large.otherwise(Script::text("so <PERSON_1> it is")))
}

#[tokio::test]
async fn names_are_redacted_before_anybody_else_is_asked_and_given_back() {
    let guards = json!([guard(json!({"action": "flag"})), named(json!({"restore": true}))]);
    let server = setup_names("large", guards).with_ledger().start().await;
    let answer = server.chat(&chat("i am Ann Berg")).await;
    assert_eq!(content(&answer), "so Ann Berg it is");
    assert_eq!(server.large.call_log()[0].request.text(), "i am <PERSON_1>");
    assert_eq!(answer.json()["tandem"]["guards"][0]["entities"]["person"], 1);
    // Read for the names; what is left was read again for the other guard, and by nobody else.
    let texts: Vec<String> = server.small.read_log().iter().map(|call| call.request.text()).collect();
    assert_eq!(texts, ["i am Ann Berg", "i am <PERSON_1>"]);
    let id = answer.header("x-tandem-request-id").unwrap();
    let stored = server.ledger.as_ref().unwrap().request(id).await.unwrap().unwrap().row;
    assert_eq!(stored.request.text(), "i am <PERSON_1>");
    // Without a name one reading serves all.
    assert_eq!(server.chat(&chat("hello you")).await.status, 200);
    assert_eq!(server.small.reads_count(), 3);
    // What was judged before is not judged again, and is redacted all the same.
    assert_eq!(content(&server.chat(&chat("i am Ann Berg")).await), "so Ann Berg it is");
    assert_eq!(server.small.reads_count(), 3);
}

#[tokio::test]
async fn names_may_be_refused_or_told_instead_and_what_can_not_be_read_is_blocked() {
    for (action, status) in [("block", 400), ("flag", 200)] {
        let server = setup_names("large", json!([named(json!({"action": action}))])).start().await;
        assert_eq!(server.chat(&chat("i am Ann Berg")).await.status, status);
        assert_eq!(
            counted(&server, &format!("tandem_guard_total{{action=\"{action}\",guard=\"names\"}}")).await,
            1
        );
    }
    let server = setup_names("large", json!([named(json!({}))])).start().await;
    let refused = server.chat(&chat("who else")).await;
    assert_eq!((refused.status, &refused.error()["code"]), (400, &json!("content_filter")));
    let long = server.chat(&chat(&"hello you ".repeat(6000))).await;
    assert_eq!(long.status, 400);
    assert_eq!(server.large.calls(), 0);
}
