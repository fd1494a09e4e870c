//! Every way a client can be wrong gets the right 4xx, in OpenAI's shape, naming what was wrong.

use backends::Reply as Script;
use contract::{BackendError, FailureKind};
use serde_json::{Value, json};

use crate::server::{Reply, Server, Setup, chat};

async fn server() -> Server {
    Setup::new("small").small(|small| small.otherwise(Script::text("never reached"))).start().await
}

async fn post_bytes(server: &Server, path: &str, bytes: impl Into<reqwest::Body>) -> Reply {
    let request = server.client.post(server.url(path)).header("content-type", "application/json");
    Reply::read(request.body(bytes).send().await.unwrap()).await
}

/// A chat body with some fields replaced.
fn with(fields: Value) -> Value {
    let mut body = chat("hello");
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// Checks status and param, and that the message holds all of `words`.
fn check(reply: &Reply, status: u16, param: Option<&str>, words: &[&str]) {
    assert_eq!(reply.status, status, "{}", reply.text);
    let error = reply.error();
    assert_eq!(error["param"].as_str(), param, "{}", reply.text);
    let message = error["message"].as_str().unwrap();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert!(reply.header("x-tandem-request-id").is_some());
}

#[tokio::test]
async fn fields_of_chat_are_checked_one_by_one() {
    let server = server().await;
    let long_stop: Vec<String> = (0..17).map(|n| n.to_string()).collect();
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    let audio = json!([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]);
    let cases: Vec<(Value, &str, &[&str])> = vec![
        (json!({"messages": []}), "messages", &["at least one"]),
        (json!({"messages": null}), "messages", &["at least one"]),
        (json!({"messages": "hi"}), "messages", &["\"hi\"", "a list"]),
        (json!({"messages": ["hi"]}), "messages[0]", &["object"]),
        (
            json!({"messages": [{"role": "wizard", "content": "x"}]}),
            "messages[0].role",
            &["wizard", "assistant"],
        ),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role", &["missing"]),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", &["missing"]),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content", &["5", "text parts"]),
        (json!({"messages": [{"role": "assistant", "content": null}]}), "messages[0].content", &["null"]),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id", &["tool call"]),
        (json!({"messages": image}), "messages[0].content[0]", &["image_url", "only text"]),
        (json!({"messages": audio}), "messages[0].content[0]", &["input_audio", "only text"]),
        (json!({"model": 7}), "model", &["7", "string"]),
        (json!({"temperature": -0.1}), "temperature", &["-0.1", "0 to 2"]),
        (json!({"temperature": 2.1}), "temperature", &["2.1", "0 to 2"]),
        (json!({"temperature": "hot"}), "temperature", &["hot"]),
        (json!({"top_p": 0}), "top_p", &["above 0 to 1"]),
        (json!({"top_p": 1.5}), "top_p", &["1.5"]),
        (json!({"top_k": -2}), "top_k", &["-2"]),
        (json!({"min_p": 1.5}), "min_p", &["1.5"]),
        (json!({"repetition_penalty": 0}), "repetition_penalty", &["above 0"]),
        (json!({"presence_penalty": 3}), "presence_penalty", &["-2 to 2"]),
        (json!({"frequency_penalty": -3}), "frequency_penalty", &["-2 to 2"]),
        (json!({"seed": 1.5}), "seed", &["integer"]),
        (json!({"max_tokens": 0}), "max_tokens", &["from 1"]),
        (json!({"max_tokens": -5}), "max_tokens", &["-5"]),
        (json!({"max_completion_tokens": "many"}), "max_completion_tokens", &["many"]),
        (json!({"stop": long_stop}), "stop", &["17", "16"]),
        (json!({"stop": ""}), "stop", &["empty"]),
        (json!({"stop": ["a", ""]}), "stop", &["empty"]),
        (json!({"stop": [1]}), "stop", &["list of strings"]),
        (json!({"stop": 1}), "stop", &["1"]),
        (json!({"logit_bias": {"x": 1}}), "logit_bias", &["\"x\"", "token ids"]),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5", &["101", "-100 to 100"]),
        (json!({"logit_bias": {"5": null}}), "logit_bias.5", &["null"]),
        (json!({"logprobs": 3}), "logprobs", &["true or false"]),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", &["21", "20"]),
        (json!({"top_logprobs": 2}), "top_logprobs", &["logprobs is true"]),
        (json!({"n": 2}), "n", &["2", "1"]),
        (json!({"stream": "yes"}), "stream", &["true or false"]),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", &["stream is true"]),
        (json!({"tools": [{"type": "function"}]}), "tools[0]", &["name"]),
        (json!({"modalities": ["audio"]}), "modalities", &["text"]),
        (json!({"tandem": {"rout": "small"}}), "tandem.rout", &["unknown", "max_quality_loss"]),
        (json!({"tandem": {"route": "medium"}}), "tandem.route", &["medium", "\"large\""]),
        (json!({"tandem": {"max_quality_loss": 2}}), "tandem.max_quality_loss", &["0 to 1"]),
        (json!({"tandem": {"explain": 1}}), "tandem.explain", &["true or false"]),
        (json!({"tandem": "small"}), "tandem", &["an object"]),
    ];
    for (fields, param, words) in cases {
        let reply = server.chat(&with(fields)).await;
        check(&reply, 400, Some(param), words);
    }
    assert_eq!(server.small.calls(), 0, "nothing wrong came past the door");
}

#[tokio::test]
async fn fields_of_completions_are_checked_one_by_one() {
    let server = server().await;
    let cases: Vec<(Value, &str, &[&str])> = vec![
        (json!({}), "prompt", &["missing"]),
        (json!({"prompt": [1, 2]}), "prompt", &["token ids"]),
        (json!({"prompt": ["a", "b"]}), "prompt", &["a list of 2"]),
        (json!({"prompt": "a", "echo": true}), "echo", &["echo"]),
        (json!({"prompt": "a", "suffix": "b"}), "suffix", &["not supported"]),
        (json!({"prompt": "a", "best_of": 3}), "best_of", &["3"]),
        (json!({"prompt": "a", "logprobs": 6}), "logprobs", &["0 to 5"]),
        (json!({"prompt": "a", "logprobs": true}), "logprobs", &["integer"]),
    ];
    for (body, param, words) in cases {
        let reply = Reply::read(server.post("/v1/completions", &body).send().await.unwrap()).await;
        check(&reply, 400, Some(param), words);
    }
}

#[tokio::test]
async fn what_is_no_json_is_located() {
    let server = server().await;
    let path = "/v1/chat/completions";
    check(&post_bytes(&server, path, "hello").await, 400, None, &["not valid JSON", "line 1"]);
    check(&post_bytes(&server, path, "").await, 400, None, &["empty"]);
    check(&post_bytes(&server, path, "[]").await, 400, None, &["must be a JSON object"]);
    check(&post_bytes(&server, path, &b"{\"model\": \"\xff\"}"[..]).await, 400, None, &["UTF-8", "byte 11"]);
    let nan = "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"temperature\": NaN}";
    check(&post_bytes(&server, path, nan).await, 400, Some("temperature"), &["temperature", "no NaN"]);
    let deep = "[".repeat(100_000);
    check(&post_bytes(&server, path, format!("{{\"a\": {deep}")).await, 400, None, &["recursion"]);
}

#[tokio::test]
async fn an_unknown_model_is_404_and_lists_the_known_ones() {
    let server = server().await;
    let reply = server.chat(&with(json!({"model": "gpt-9"}))).await;
    check(&reply, 404, Some("model"), &["gpt-9", "auto", "tiny-1", "huge-1"]);
    assert_eq!(reply.error()["code"], "model_not_found");
    assert_eq!(server.get("/v1/models/gpt-9").await.status, 404);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_413_declared_or_not() {
    let server = Setup::new("small").settings(|s| s.request_bytes_max = 1000).start().await;
    let path = "/v1/chat/completions";
    let declared = post_bytes(&server, path, vec![b' '; 50_000_000]).await;
    check(&declared, 413, None, &["1000 bytes"]);
    let pieces = (0..1000).map(|_| Ok::<_, std::io::Error>(vec![b' '; 10_000]));
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    check(&post_bytes(&server, path, chunked).await, 413, None, &["1000 bytes"]);
}

#[tokio::test]
async fn what_only_the_backend_can_tell_comes_back_as_its_own_status() {
    let too_long = "the prompt has 100000 tokens, but the context holds 32768";
    let roles = "messages[1]: conversation roles must alternate user/assistant";
    let server = Setup::new("small")
        .small(|small| {
            small
                .when("long", Script::fails(BackendError::new(FailureKind::TooLong, too_long)))
                .when("roles", Script::fails(BackendError::new(FailureKind::BadInput, roles)))
        })
        .start()
        .await;
    let reply = server.chat(&chat("long")).await;
    check(&reply, 413, None, &["100000", "32768"]);
    assert_eq!(reply.error()["code"], "context_length_exceeded");
    check(&server.chat(&chat("roles")).await, 400, None, &["alternate"]);
}

#[tokio::test]
async fn wrong_paths_methods_and_encodings_have_openais_shape() {
    let server = server().await;
    let reply = server.get("/v1/nothing").await;
    assert_eq!((reply.status, reply.error()["code"].as_str()), (404, Some("not_found")));
    let reply = server.get("/v1/chat/completions").await;
    assert_eq!((reply.status, reply.error()["code"].as_str()), (405, Some("method_not_allowed")));
    for path in ["/v1/requests/%ff", "/v1/models/%ff"] {
        assert_eq!(server.get(path).await.error()["param"], "id");
    }
    let request = server.post("/v1/chat/completions", &chat("x")).header("content-encoding", "gzip");
    assert_eq!(Reply::read(request.send().await.unwrap()).await.status, 415);
    for deadline in ["soon", "-1", "0", "1.5"] {
        let request =
            server.post("/v1/chat/completions", &chat("x")).header("x-tandem-deadline-ms", deadline);
        let reply = Reply::read(request.send().await.unwrap()).await;
        check(&reply, 400, Some("x-tandem-deadline-ms"), &["milliseconds", deadline]);
    }
}

#[tokio::test]
async fn unknown_fields_of_openai_are_ignored_and_known_ones_passed_on() {
    let server = server().await;
    let fields = json!({
        "some_future_field": 1, "user": "u-1", "response_format": {"type": "text"}, "tool_choice": "none",
        "metadata": {"a": "b"}, "stop": null, "seed": -5, "logit_bias": {"7": -100},
        "max_tokens": 9, "max_completion_tokens": 8, "n": 1,
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "out"},
        ],
    });
    let reply = server.chat(&with(fields)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let request = &server.small.call_log()[0].request;
    let passed: Vec<&str> = request.passthrough.keys().map(String::as_str).collect();
    assert_eq!(passed, ["user", "response_format", "tool_choice", "metadata"]);
    assert_eq!(request.max_tokens, Some(8));
    assert_eq!(request.sampling.seed, Some((-5i64).cast_unsigned()));
    assert_eq!(request.sampling.logit_bias, [(7, -100.0)]);
    let contract::Input::Chat { messages, .. } = &request.input else { panic!("{request:?}") };
    assert_eq!(messages[0].role, contract::MessageRole::System);
    assert_eq!(messages[0].content.as_deref(), Some("ab"));
    assert_eq!(messages[1].tool_calls[0].id, "c1");
}
