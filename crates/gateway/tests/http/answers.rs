//! The shapes of answers: OpenAI's, whole and streamed, with Tandem's headers and object.

use backends::Reply as Script;
use contract::{Delta, FinishReason, Usage};
use serde_json::{Value, json};

use crate::server::{Reply, Server, Setup, chat, chat_stream};

async fn server() -> Server {
    Setup::new("small")
        .small(|small| small.otherwise(Script::text("Hello dear world").logprob(-0.25)))
        .large(|large| large.otherwise(Script::text("Greetings")))
        .start()
        .await
}

fn with(mut body: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

async fn complete(server: &Server, body: Value) -> Reply {
    Reply::read(server.post("/v1/completions", &body).send().await.unwrap()).await
}

#[tokio::test]
async fn a_whole_chat_answer_has_openais_shape_and_tandems_headers() {
    let server = server().await;
    let reply = server.chat(&chat("one two three")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let json = reply.json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "tiny-1");
    assert!(json["created"].as_u64().unwrap() > 1_600_000_000);
    let expected = json!([{"index": 0, "logprobs": null, "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Hello dear world", "refusal": null}}]);
    assert_eq!(json["choices"], expected);
    assert_eq!(json["usage"]["prompt_tokens"], 3);
    assert_eq!(json["usage"]["completion_tokens"], 3);
    assert_eq!(json["usage"]["total_tokens"], 6);
    assert_eq!(json["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(json["usage"]["completion_tokens_details"]["accepted_prediction_tokens"], 0);
    assert!(json.get("tandem").is_none(), "only when asked to explain");

    assert_eq!(reply.header("x-tandem-request-id"), json["id"].as_str());
    assert_eq!(reply.header("x-tandem-route"), Some("small"));
    assert_eq!(reply.header("x-tandem-model"), Some("tiny-1"));
    assert!(!reply.header("x-tandem-reason").unwrap().is_empty());
    // 3 tokens in at 1, 3 out at 2; large would have been 10 and 20.
    assert_eq!(reply.header("x-tandem-cost-usd"), Some("0.000009000"));
    assert_eq!(reply.header("x-tandem-saved-usd"), Some("0.000081000"));
    assert!(reply.header("x-tandem-overhead-ms").unwrap().parse::<f64>().unwrap() > 0.0);
}

#[tokio::test]
async fn explain_shows_decisions_and_attempts() {
    let server = server().await;
    let reply = server.chat(&with(chat("hi"), json!({"tandem": {"explain": true}}))).await;
    let tandem = &reply.json()["tandem"];
    assert_eq!(tandem["route"], "small");
    assert_eq!(tandem["decisions"].as_array().unwrap().len(), 1);
    assert_eq!(tandem["attempts"][0]["status"], "finished");
    assert_eq!(tandem["attempts"][0]["usage"]["completion_tokens"], 3);
    assert!(tandem["attempts"][0].get("text").is_none());
}

#[tokio::test]
async fn a_streamed_chat_has_role_pieces_reason_and_done() {
    let server = server().await;
    let reply = server.chat(&chat_stream("hi")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("x-tandem-route"), Some("small"));
    assert_eq!(reply.header("x-tandem-cost-usd"), None, "not known yet");
    let events = reply.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks = &events[..events.len() - 1];
    for chunk in chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"].as_str(), reply.header("x-tandem-request-id"));
        assert!(chunk.get("usage").is_none(), "usage was not asked for");
    }
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(reply.streamed_text(), "Hello dear world");
    let (last, before) = chunks.split_last().unwrap();
    assert!(before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    assert_eq!(
        last["choices"][0],
        json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"})
    );
    assert_eq!(last["tandem"]["route"], "small");
    assert!(last["tandem"]["saved_usd"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn streamed_usage_comes_in_a_last_chunk_without_choices() {
    let server = server().await;
    let reply =
        server.chat(&with(chat_stream("hi"), json!({"stream_options": {"include_usage": true}}))).await;
    let events = reply.events();
    let chunks = &events[..events.len() - 1];
    let (last, before) = chunks.split_last().unwrap();
    assert!(before.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert_eq!(before.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], 4);
    assert_eq!(last["tandem"]["model"], "tiny-1");
}

#[tokio::test]
async fn chat_logprobs_come_whole_and_streamed() {
    let server = server().await;
    let wanted = json!({"logprobs": true, "top_logprobs": 1});
    let whole = server.chat(&with(chat("hi"), wanted.clone())).await.json();
    let token = json!({"token": " dear", "logprob": -0.25, "bytes": [32, 100, 101, 97, 114],
        "top_logprobs": [{"token": " dear", "logprob": -0.25, "bytes": [32, 100, 101, 97, 114]}]});
    assert_eq!(whole["choices"][0]["logprobs"]["content"][1], token);
    let streamed = server.chat(&with(chat_stream("hi"), wanted)).await.events();
    assert_eq!(streamed[2]["choices"][0]["logprobs"]["content"], json!([token]));
}

#[tokio::test]
async fn completions_have_their_own_shape() {
    let server = server().await;
    let whole = complete(&server, json!({"model": "small", "prompt": ["Once"], "logprobs": 1})).await.json();
    assert_eq!(whole["object"], "text_completion");
    assert!(whole["id"].as_str().unwrap().starts_with("cmpl-"));
    let choice = &whole["choices"][0];
    assert_eq!(choice["text"], "Hello dear world");
    assert_eq!(choice["logprobs"]["tokens"], json!(["Hello", " dear", " world"]));
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([-0.25, -0.25, -0.25]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 5, 10]));
    assert_eq!(choice["logprobs"]["top_logprobs"][0], json!({"Hello": -0.25}));

    let reply = complete(&server, json!({"model": "small", "prompt": "Once", "stream": true})).await;
    let events = reply.events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "Hello dear world");
    assert_eq!(events[0]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn the_model_field_and_tandem_route_choose_who_answers() {
    let server = server().await;
    for (model, answered) in [
        ("auto", "tiny-1"),
        ("small", "tiny-1"),
        ("tiny-1", "tiny-1"),
        ("large", "huge-1"),
        ("huge-1", "huge-1"),
    ] {
        let reply = server.chat(&with(chat("hi"), json!({"model": model}))).await;
        assert_eq!(reply.json()["model"], answered, "{model}");
    }
    let forced = server.chat(&with(chat("hi"), json!({"tandem": {"route": "large"}}))).await;
    assert_eq!(forced.header("x-tandem-route"), Some("large"));
    assert_eq!(forced.header("x-tandem-saved-usd"), Some("0.000000000"));
}

#[tokio::test]
async fn tool_calls_are_passed_on_in_pieces_and_joined_whole() {
    let fragment = |value: Value| Delta { tool_calls: vec![value], ..Delta::default() };
    let script = Script::deltas([
        fragment(
            json!({"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}),
        ),
        fragment(json!({"index": 0, "function": {"arguments": "{}"}})),
    ])
    .finish(FinishReason::ToolCalls);
    let server = Setup::new("small").small(|small| small.otherwise(script)).start().await;
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]});
    let whole = server.chat(&with(chat("hi"), tools.clone())).await.json();
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    assert_eq!(message["tool_calls"], json!([call]));
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    let events = server.chat(&with(chat_stream("hi"), tools)).await.events();
    assert_eq!(
        events[2]["choices"][0]["delta"],
        json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})
    );
}

#[tokio::test]
async fn usage_is_the_backends_own() {
    let usage = Usage {
        prompt_tokens: 100,
        cached_tokens: 64,
        completion_tokens: 7,
        accepted_prediction_tokens: 5,
        rejected_prediction_tokens: 2,
    };
    let server =
        Setup::new("small").small(|small| small.otherwise(Script::text("x").usage(usage))).start().await;
    let json = server.chat(&chat("hi")).await.json();
    assert_eq!(json["usage"]["prompt_tokens_details"]["cached_tokens"], 64);
    assert_eq!(json["usage"]["completion_tokens_details"]["accepted_prediction_tokens"], 5);
    assert_eq!(json["usage"]["completion_tokens_details"]["rejected_prediction_tokens"], 2);
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("tandem_tokens_total{backend=\"small\",kind=\"prompt\"} 100"), "{metrics}");
    assert!(metrics.contains("tandem_tokens_total{backend=\"small\",kind=\"cached\"} 64"));
    assert!(metrics.contains("tandem_tokens_total{backend=\"small\",kind=\"completion\"} 7"));
}

#[tokio::test]
async fn models_are_listed() {
    let server = server().await;
    let list = server.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["auto", "small", "large", "tiny-1", "huge-1"]);
    assert_eq!(server.get("/v1/models/tiny-1").await.json()["object"], "model");
}
