//! Who answered before goes on: over several turns, streamed or not, each tenant for itself.

use backends::Reply as Script;
use contract::{BackendError, Delta, FailureKind, FinishReason, Readiness};
use gateway::ApiKey;
use policy::Stickiness;
use serde_json::{Value, json};

use crate::server::{Reply, Server, Setup, chat};

/// A call of a tool as it is streamed: the id first, the arguments in pieces.
fn calls_tool(id: &str) -> Script {
    let piece = |call: Value| Delta { tool_calls: vec![call], ..Delta::default() };
    let begin =
        json!({"index": 0, "id": id, "type": "function", "function": {"name": "add", "arguments": ""}});
    let rest = json!({"index": 0, "function": {"arguments": "{\"a\": 1}"}});
    Script::deltas([piece(begin), piece(rest)]).finish(FinishReason::ToolCalls)
}

/// A cascade whose small is unsure of "hard" things and sure of all others; large calls tools for them.
fn setup() -> Setup {
    Setup::new("cascade")
        .small(|small| {
            let unsure = Script::text("I do not know").logprob(-3.0);
            let sure = Script::text("small says so").logprob(-0.01);
            small.when("hard", unsure).otherwise(sure)
        })
        .large(|large| {
            let done = Script::text("large is done");
            large.then(calls_tool("call-1")).then(calls_tool("call-2")).otherwise(done)
        })
}

async fn ask(server: &Server, messages: &[Value], (stream, key): (bool, &str)) -> Reply {
    let body = json!({"model": "auto", "stream": stream, "messages": messages});
    let asked = server.post("/v1/chat/completions", &body).bearer_auth(key).send();
    Reply::read(asked.await.unwrap()).await
}

fn user(words: &str) -> Value {
    json!({"role": "user", "content": words})
}

fn called(id: &str) -> Value {
    let call = json!({"id": id, "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}});
    json!({"role": "assistant", "content": null, "tool_calls": [call]})
}

fn result(id: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": "3"})
}

fn route(reply: &Reply) -> &str {
    reply.header("x-tandem-route").unwrap_or_default()
}

#[tokio::test]
async fn whoever_calls_tools_goes_on_until_the_loop_ends() {
    for stream in [true, false] {
        let server = setup().start().await;
        let how = (stream, "any");
        let mut messages = vec![user("a hard question")];
        assert_eq!(route(&ask(&server, &messages, how).await), "escalated");
        // What is asked now small would be sure of.
        messages[0] = user("a question");
        for (id, turn) in [("call-1", "call-2"), ("call-2", "large is done")] {
            messages.extend([called(id), result(id)]);
            let reply = ask(&server, &messages, how).await;
            assert_eq!(route(&reply), "large");
            assert!(reply.text.contains(turn.rsplit(' ').next().unwrap()), "{}", reply.text);
            let reason = reply.header("x-tandem-reason").unwrap();
            assert!(reason.contains("large made the tool calls that this request answers"), "{reason}");
        }
        // The loop is over, and nobody asked for more.
        messages.extend([json!({"role": "assistant", "content": "large is done"}), user("thanks")]);
        assert_eq!(route(&ask(&server, &messages, how).await), "small");
    }
}

#[tokio::test]
async fn a_conversation_stays_with_its_model_if_that_is_asked_for() {
    for (sticky, stays) in [(Stickiness::Conversation, true), (Stickiness::Tools, false)] {
        for stream in [true, false] {
            let mut setup = setup().large(|large| large.when("hard", Script::text("a good answer")));
            setup.policy.sticky = sticky;
            let server = setup.start().await;
            let begin = ask(&server, &[user("a hard question")], (stream, "any")).await;
            assert_eq!(route(&begin), "escalated");
            let answer = json!({"role": "assistant", "content": "a good answer"});
            let past = [user("a hard question"), answer, user("and?")];
            let reply = ask(&server, &past, (stream, "any")).await;
            let reason = reply.header("x-tandem-reason").unwrap();
            let goes_on = reason.contains("large has answered in this conversation");
            assert_eq!(goes_on, stays, "{reason}");
            assert_eq!(server.small.calls(), if stays { 1 } else { 2 });
        }
    }
}

#[tokio::test]
async fn small_goes_on_too_and_one_that_is_down_does_not() {
    let down = || BackendError::new(FailureKind::Upstream, "the upstream answered 500");
    let server = Setup::new("large")
        .small(|small| small.then(calls_tool("call-s")).otherwise(Script::text("small again")))
        .large(|large| {
            large.then(calls_tool("call-l")).then(Script::fails(down())).otherwise(Script::text("up"))
        })
        .start()
        .await;
    let mut begin = chat("go");
    begin["model"] = json!("small");
    assert_eq!(route(&server.chat(&begin).await), "small");
    let on = |id: &str| [user("go"), called(id), result(id)];
    assert_eq!(route(&ask(&server, &on("call-s"), (true, "any")).await), "small");
    // What the client forces counts more.
    let forced = json!({"model": "large", "messages": on("call-s")});
    assert_eq!(route(&server.chat(&forced).await), "large");
    // Large fails, and the policy decides: large again.
    let reply = ask(&server, &on("call-l"), (true, "any")).await;
    assert_eq!((reply.status, route(&reply)), (200, "large"));
    assert_eq!(server.large.calls(), 3);
    // Small is not there at all: the policy decides at once.
    server.small.set_readiness(Readiness::Failed("gone".to_owned()));
    let reply = ask(&server, &on("call-s"), (true, "any")).await;
    assert_eq!(route(&reply), "large");
    assert!(!reply.header("x-tandem-reason").unwrap().contains("tool calls"));
}

#[tokio::test]
async fn tenants_do_not_go_on_from_each_others_calls() {
    let keys = || vec![ApiKey::new("sk-one"), ApiKey::new("sk-two")];
    let server = setup().settings(|settings| settings.api_keys = keys()).start().await;
    ask(&server, &[user("a hard question")], (true, "sk-one")).await;
    let on = [user("a question"), called("call-1"), result("call-1")];
    assert_eq!(route(&ask(&server, &on, (true, "sk-two")).await), "small");
    assert_eq!(route(&ask(&server, &on, (true, "sk-one")).await), "large");
}
