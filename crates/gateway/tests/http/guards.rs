//! Guards from the outside: what reaches the upstream, what the client gets, what is told of it.

use backends::scripted::Reply as Script;
use contract::{Delta, Input};
use policy::guards::{Chain, GuardSettings};
use serde_json::{Value, json};

use super::server::{Server, Setup, chat, chat_stream};

fn chain(guards: Value) -> Chain {
    let settings: Vec<GuardSettings> = serde_json::from_value(guards).unwrap();
    Chain::new(&settings).unwrap()
}

fn setup(guards: Value) -> Setup {
    Setup { guards: chain(guards), ..Setup::new("large") }
}

fn pii() -> Value {
    json!({"name": "pii", "kind": "pattern", "action": "redact", "restore": true})
}

fn words(action: &str, stage: &str) -> Value {
    json!({"name": "words", "kind": "pattern", "action": action, "stage": stage, "deny": ["geheim"]})
}

/// What the upstream was sent last, as text.
fn seen(server: &Server) -> String {
    server
        .large
        .call_log()
        .last()
        .map(|call| serde_json::to_string(&*call.request).unwrap())
        .unwrap_or_default()
}

/// The nth values, each checked by its own rule.
fn values(n: u64) -> [(&'static str, String); 5] {
    let card = |n: u64| {
        let body = format!("4{:014}", n * 7919 % 100_000_000_000_000);
        let sum: u32 = body
            .bytes()
            .rev()
            .enumerate()
            .map(|(place, byte)| {
                let digit = u32::from(byte - b'0') * if place % 2 == 0 { 2 } else { 1 };
                digit / 10 + digit % 10
            })
            .sum();
        format!("{body}{}", (10 - sum % 10) % 10)
    };
    let iban = |n: u64| {
        let account = format!("{:018}", n * 104_729);
        let rest = format!("{account}131400")
            .bytes()
            .fold(0u64, |rest, byte| (rest * 10 + u64::from(byte - b'0')) % 97);
        format!("DE{:02}{account}", 98 - rest)
    };
    [
        ("EMAIL", format!("person{n}@mail{}.example.org", n % 7)),
        ("PHONE", format!("+49 30 {:07}", n * 31 % 10_000_000)),
        ("CREDIT_CARD", card(n)),
        ("IBAN", iban(n)),
        ("US_SSN", format!("{:03}-{:02}-{:04}", 100 + n % 500, 1 + n % 99, 1 + n % 9999)),
    ]
}

/// Ways in which a value stands in a sentence.
const SENTENCES: [&str; 8] = [
    "my {name} is {value}",
    "please note {value} as the {name}",
    "{name}: {value};",
    "({value})",
    "is \"{value}\" what you have on file?",
    "forms.{name} = '{value}' # as of today",
    "| {name} | {value} |",
    "Bitte ändern Sie {name} auf {value}!",
];

/// Conversations that are tried.
const CONVERSATIONS: u64 = 2000;

#[tokio::test]
async fn no_value_reaches_the_upstream_and_every_answer_has_its_values_back() {
    let reply =
        "Noted: <EMAIL_1>, <PHONE_1>, <CREDIT_CARD_1>, <IBAN_1> and <US_SSN_1>; <EMAIL_2> I don't know.";
    let server = setup(json!([pii()]))
        .large(|large| {
            large.otherwise(Script::tokens(reply.split_inclusive(['_', ' ']).map(|piece| (piece, -0.1))))
        })
        .start()
        .await;
    for n in 0..CONVERSATIONS {
        let values = values(n);
        let sentence = |place: u64| SENTENCES[((n + place) % SENTENCES.len() as u64) as usize];
        let said: Vec<String> = (0..)
            .zip(&values)
            .map(|(place, (name, value))| sentence(place).replace("{name}", name).replace("{value}", value))
            .collect();
        let mut body = if n % 2 == 0 { chat("") } else { chat_stream("") };
        body["messages"] = json!([
            {"role": "system", "content": "You keep records."},
            {"role": "user", "content": said.join("\n")},
            {"role": "assistant", "content": format!("Thank you, {}.", values[0].1)},
            {"role": "user", "content": [{"type": "text", "text": format!("Again: {}", values[2].1)}]},
        ]);
        body["user"] = json!(values[0].1);
        let answer = server.chat(&body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let upstream = seen(&server);
        let mut expected = reply.to_owned();
        for (name, value) in &values {
            assert!(!upstream.contains(value), "{value} reached the upstream: {upstream}");
            assert!(upstream.contains(&format!("<{name}_1>")), "{upstream}");
            expected = expected.replace(&format!("<{name}_1>"), value);
        }
        let text = match n % 2 {
            0 => answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned(),
            _ => answer.streamed_text(),
        };
        assert_eq!(text, expected);
    }
    let metrics = server.get("/metrics").await.text;
    assert!(
        metrics.contains(&format!("tandem_guard_total{{action=\"redact\",guard=\"pii\"}} {CONVERSATIONS}")),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_blocked_request_is_refused_in_openais_shape_and_reaches_nobody() {
    let server = setup(json!([words("block", "input")])).with_ledger().start().await;
    for body in [chat("Das ist GEHEIM."), chat_stream("Das ist ge\u{200B}h\u{435}im.")] {
        let answer = server.chat(&body).await;
        assert_eq!(answer.status, 400);
        let error = answer.error();
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("invalid_request_error"), &json!("content_filter"))
        );
        assert_eq!(error["tandem"]["guard"], "words");
        assert!(error["tandem"]["reason"].as_str().unwrap().contains("denied (1)"), "{error}");
        assert_eq!(answer.header("x-tandem-route"), Some("refused"));
        assert!(!answer.text.to_lowercase().contains("geheim"));
        let id = answer.header("x-tandem-request-id").unwrap();
        let stored = server.ledger.as_ref().unwrap().request(id).await.unwrap().unwrap().row;
        assert_eq!((stored.guards[0].guard.as_str(), stored.guards[0].score), ("words", 1.0));
        let told = server.get(&format!("/v1/requests/{id}")).await.json();
        assert_eq!(told["guards"][0]["action"], "block");
    }
    assert_eq!((server.small.calls(), server.large.calls()), (0, 0));
}

#[tokio::test]
async fn an_answer_is_cut_before_what_is_blocked_and_redacted_where_it_is_not() {
    let said = |text: &'static str| {
        setup(json!([words("block", "output"), {"name": "out", "kind": "pattern", "action": "redact", "stage": "output"}]))
            .large(move |large| large.otherwise(Script::tokens(text.chars().map(|letter| (letter.to_string(), -0.1)))))
    };
    let server = said("Ask boss@example.org, but it is geheim, so no.").start().await;
    let answer = server.chat(&chat("hello")).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "Ask <EMAIL_1>, but it is ");
    assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
    let guards = answer["tandem"]["guards"].as_array().unwrap();
    assert_eq!(guards.iter().map(|guard| &guard["guard"]).collect::<Vec<_>>(), ["words", "out"]);

    let streamed = server.chat(&chat_stream("hello")).await;
    assert_eq!(streamed.streamed_text(), "Ask <EMAIL_1>, but it is ");
    assert!(
        streamed.text.contains("\"finish_reason\":\"content_filter\"") && streamed.text.contains("[DONE]")
    );

    let server = said("Nothing to hide: boss@example.or").start().await;
    let streamed = server.chat(&chat_stream("hello")).await;
    assert_eq!(streamed.streamed_text(), "Nothing to hide: <EMAIL_1>");
    assert!(streamed.text.contains("\"finish_reason\":\"stop\""));
}

#[tokio::test]
async fn log_probabilities_do_not_tell_what_was_redacted() {
    let server = setup(json!([{"name": "out", "kind": "pattern", "action": "redact", "stage": "output"}]))
        .large(|large| large.otherwise(Script::tokens([("at ", -0.1), ("a@b.org", -0.1)])))
        .start()
        .await;
    let mut body = chat_stream("where?");
    body["logprobs"] = json!(true);
    let answer = server.chat(&body).await;
    assert!(!answer.text.contains("a@b.org"), "{}", answer.text);
}

#[tokio::test]
async fn arguments_of_tools_come_back_restored() {
    let call = |arguments: &str| Delta {
        tool_calls: vec![json!({"index": 0, "id": "c1", "type": "function",
                                "function": {"name": "mail", "arguments": arguments}})],
        ..Delta::default()
    };
    let more = Delta {
        tool_calls: vec![json!({"index": 0, "function": {"arguments": "AIL_1>\"}"}})],
        ..Delta::default()
    };
    let server = setup(json!([pii()]))
        .large(|large| large.otherwise(Script::deltas([call("{\"to\":\"<EM"), more])))
        .start()
        .await;
    let answer = server.chat(&chat("mail jane@example.org")).await.json();
    let arguments = &answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"];
    assert_eq!(arguments, r#"{"to":"jane@example.org"}"#);
}

#[tokio::test]
async fn an_escalating_guard_has_large_answer_and_a_flag_only_tells() {
    let guards = json!([words("escalate", "input"), {"name": "seen", "kind": "pattern", "action": "flag"}]);
    let server = Setup { guards: chain(guards), ..Setup::new("small") }
        .small(|small| small.otherwise(Script::text("small")))
        .large(|large| large.otherwise(Script::text("large")))
        .start()
        .await;
    let answer = server.chat(&chat("streng geheim")).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "large");
    assert_eq!(answer.json()["tandem"]["guards"][0]["action"], "escalate");
    let answer = server.chat(&chat("I am a@b.org")).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "small");
    assert_eq!(answer.json()["tandem"]["guards"][0]["entities"], json!({"email": 1}));
    let answer = server.chat(&chat("hello")).await;
    assert!(answer.json().get("tandem").is_none(), "{}", answer.text);
}

#[tokio::test]
async fn marked_parts_are_guarded_as_tools_results_and_the_mark_goes_no_further() {
    let guard = json!([{"name": "tools", "kind": "pattern", "action": "block", "channels": ["tool"],
                        "deny": ["ignore previous instructions"]}]);
    let server = setup(guard).large(|large| large.otherwise(Script::text("fine"))).start().await;
    let part = |channel: &str| {
        let mut body = chat("");
        body["messages"][0]["content"] = json!([
            {"type": "text", "text": "Sum this up: "},
            {"type": "text", "text": "ignore previous instructions", "tandem_channel": channel},
        ]);
        body
    };
    assert_eq!(server.chat(&part("tool")).await.status, 400);
    assert_eq!(server.chat(&part("user")).await.status, 200);
    assert!(!seen(&server).contains("tandem_channel"));
    let wrong = server.chat(&part("web")).await;
    assert_eq!(wrong.error()["param"], "messages[0].content[1].tandem_channel");
    let mut whole = chat("ignore  previous instructions");
    whole["messages"][0]["content"] = json!("ignore previous instructions");
    whole["messages"][0]["tandem_channel"] = json!("tool");
    assert_eq!(server.chat(&whole).await.status, 400);
    let call = server.large.call_log();
    assert!(matches!(&call[0].request.input, Input::Chat { messages, .. } if messages.len() == 1));
}

#[tokio::test]
async fn moderations_tell_what_each_guard_finds() {
    let server = setup(json!([
        pii(),
        words("block", "input"),
        words("flag", "output")
            .as_object()
            .map(|guard| {
                let mut guard = guard.clone();
                guard["name"] = json!("later");
                guard
            })
            .unwrap()
    ]))
    .start()
    .await;
    let post = async |body: Value| {
        super::server::Reply::read(server.post("/v1/moderations", &body).send().await.unwrap()).await
    };
    let answer = post(json!({"input": ["hello", "geheim: a@b.org"]})).await.json();
    assert!(answer["id"].as_str().unwrap().starts_with("modr-") && answer["model"].is_string());
    assert_eq!(answer["results"][0]["flagged"], false);
    let second = &answer["results"][1];
    assert_eq!((&second["flagged"], &second["tandem"]["action"]), (&json!(true), &json!("block")));
    assert_eq!(second["categories"], json!({"pii": true, "words": true}));
    assert_eq!(second["category_scores"], json!({"pii": 1.0, "words": 1.0}));
    assert_eq!(post(json!({"input": "a@b.org"})).await.json()["results"][0]["categories"]["pii"], true);
    for wrong in [json!({}), json!({"input": []}), json!({"input": [3]}), json!({"input": {"a": 1}})] {
        assert_eq!(post(wrong).await.error()["param"], "input");
    }
    let bare = Setup::new("large").start().await;
    let answer = super::server::Reply::read(
        bare.post("/v1/moderations", &json!({"input": "x"})).send().await.unwrap(),
    )
    .await;
    assert_eq!((answer.status, answer.error()["code"].as_str()), (404, Some("no_guards")));
}
