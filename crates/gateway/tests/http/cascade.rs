//! Escalation, and the rule that bytes leave only once the policy accepted them.

use std::time::Duration;

use backends::Reply as Script;
use contract::{BackendError, FailureKind};
use futures_util::StreamExt;
use serde_json::json;

use crate::server::{Reply, Setup, chat, chat_stream};

fn down() -> BackendError {
    BackendError::new(FailureKind::Upstream, "the upstream answered 500")
}

#[tokio::test]
async fn a_confident_small_answer_streams_and_large_is_not_called() {
    let server = Setup::new("cascade")
        .small(|small| small.otherwise(Script::text("a b c d e f").logprob(-0.01)))
        .start()
        .await;
    let reply = server.chat(&chat_stream("hi")).await;
    assert_eq!(reply.streamed_text(), "a b c d e f");
    assert_eq!(reply.header("x-tandem-route"), Some("small"));
    assert!(reply.header("x-tandem-confidence").unwrap().parse::<f64>().unwrap() > 0.9);
    assert!(reply.header("x-tandem-reason").unwrap().contains("confidence"));
    assert_eq!(server.large.calls(), 0);
}

#[tokio::test]
async fn an_unsure_small_answer_escalates_and_none_of_it_leaves() {
    for stream in [true, false] {
        let server = Setup::new("cascade")
            .small(|small| small.otherwise(Script::text("rubbish from the little one").logprob(-3.0)))
            .large(|large| large.otherwise(Script::text("a fine answer")))
            .start()
            .await;
        let mut body = chat("hi");
        body["stream"] = json!(stream);
        let reply = server.chat(&body).await;
        assert_eq!(reply.header("x-tandem-route"), Some("escalated"));
        assert_eq!(reply.header("x-tandem-model"), Some("huge-1"));
        assert!(!reply.text.contains("rubbish"), "{}", reply.text);
        assert!(reply.text.contains("fine"));
        if stream {
            assert_eq!(server.small.cancelled(), 1, "three tokens were enough to judge");
            assert_eq!(server.small.deltas_sent(), 3);
        } else {
            // Both are paid: 1 prompt token each, 5 and 3 written.
            let cost = reply.header("x-tandem-cost-usd").unwrap().parse::<f64>().unwrap();
            let expected = (1.0 + 5.0 * 2.0 + 10.0 + 3.0 * 20.0) / 1e6;
            assert!((cost - expected).abs() < 1e-9, "{cost} {expected}");
            assert!(reply.header("x-tandem-saved-usd").unwrap().starts_with('-'));
        }
    }
}

#[tokio::test]
async fn small_is_cut_short_once_its_answer_is_lost_and_that_is_paid_for() {
    let server = Setup::new("cascade")
        .small(|small| small.otherwise(Script::text(&"word ".repeat(40)).logprob(-4.0)))
        .large(|large| large.otherwise(Script::text("a fine answer")))
        .with_ledger()
        .start()
        .await;
    let reply = server.chat(&chat("hi")).await;
    assert_eq!(reply.header("x-tandem-route"), Some("escalated"));
    assert!(reply.header("x-tandem-reason").unwrap().contains("before small is done"));
    assert_eq!((server.small.cancelled(), server.small.deltas_sent()), (1, 8));
    // Eight tokens of small, whose script counts the prompt only at the end; one read and three written by large.
    let cost = reply.header("x-tandem-cost-usd").unwrap().parse::<f64>().unwrap();
    let expected = (8.0 * 2.0 + 10.0 + 3.0 * 20.0) / 1e6;
    assert!((cost - expected).abs() < 1e-9, "{cost} {expected}");
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    let ledger = server.ledger.as_ref().unwrap();
    ledger.flush().await.unwrap();
    let stored = ledger.request(&id).await.unwrap().unwrap();
    assert_eq!(stored.row.attempts[0].status, contract::AttemptStatus::Cancelled);
    assert_eq!(stored.row.decisions.len(), 2);
}

#[tokio::test]
async fn not_even_headers_leave_before_the_window_is_accepted() {
    let server = Setup::new("cascade")
        .small(|small| {
            let slow = Script::text("a b c d e").logprob(-0.01).delta_delay_ms(1);
            small.when("stuck", slow.clone().hangs_after(2)).when("goes", slow.hangs_after(4))
        })
        .start()
        .await;
    let stuck = server.post("/v1/chat/completions", &chat_stream("stuck")).send();
    assert!(tokio::time::timeout(Duration::from_millis(300), stuck).await.is_err(), "window not full");

    let goes = server.post("/v1/chat/completions", &chat_stream("goes")).send().await.unwrap();
    let mut body = goes.bytes_stream();
    let mut text = String::new();
    while !text.contains("\" d\"") {
        text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    assert!(text.contains("\"a\"") && text.contains("\" c\""), "what was held came first: {text}");
}

#[tokio::test]
async fn when_a_backend_fails_before_the_first_byte_the_other_role_answers() {
    let server = Setup::new("cascade")
        .small(|small| small.otherwise(Script::text("a b").fails_after(1, down())))
        .large(|large| large.otherwise(Script::text("rescued")))
        .start()
        .await;
    let reply = server.chat(&chat_stream("hi")).await;
    assert_eq!((reply.status, reply.streamed_text().as_str()), (200, "rescued"));
    assert_eq!(reply.header("x-tandem-route"), Some("escalated"));
}

#[tokio::test]
async fn when_large_fails_after_an_escalation_small_stands_in() {
    let server = Setup::new("cascade")
        .small(|small| small.otherwise(Script::text("a poor answer").logprob(-3.0)))
        .large(|large| large.otherwise(Script::fails(down())))
        .start()
        .await;
    let reply = server.chat(&chat("hi")).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "a poor answer");
    assert_eq!(reply.header("x-tandem-route"), Some("small"));
    let streamed = server.chat(&chat_stream("hi")).await;
    assert_eq!(streamed.streamed_text(), "a poor answer");
}

#[tokio::test]
async fn failures_before_the_first_byte_have_their_status_and_headers() {
    let kinds = [
        (FailureKind::BadInput, 400),
        (FailureKind::TooLong, 413),
        (FailureKind::Busy, 429),
        (FailureKind::Unready, 503),
        (FailureKind::Upstream, 502),
        (FailureKind::Timeout, 504),
        (FailureKind::Deadline, 408),
        (FailureKind::Internal, 500),
    ];
    for (kind, status) in kinds {
        let server = Setup::new("large")
            .large(|large| large.otherwise(Script::fails(BackendError::new(kind, "it went wrong"))))
            .start()
            .await;
        for body in [chat("hi"), chat_stream("hi")] {
            let reply = server.chat(&body).await;
            assert_eq!(reply.status, status, "{}", reply.text);
            assert!(reply.error()["message"].as_str().unwrap().contains("it went wrong"));
            assert_eq!(reply.header("x-tandem-route"), Some("large"));
            assert_eq!(reply.header("retry-after").is_some(), [429, 503].contains(&status), "{status}");
        }
    }
}

#[tokio::test]
async fn a_failure_after_the_first_byte_is_an_error_event_and_closes_the_connection() {
    let server = Setup::new("large")
        .large(|large| large.otherwise(Script::text("one two three").fails_after(2, down())))
        .start()
        .await;
    let reply = server.chat(&chat_stream("hi")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.streamed_text(), "one two");
    assert!(reply.text.contains("event: error\ndata: {\"error\""), "{}", reply.text);
    let events = reply.events();
    assert_eq!(events.last().unwrap()["error"]["code"], "upstream_error");
    assert!(!reply.text.contains("[DONE]"));
    // Without streaming nothing has left, so it is a plain error.
    assert_eq!(server.chat(&chat("hi")).await.status, 502);
}

#[tokio::test]
async fn the_connection_is_closed_after_an_error_event() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Setup::new("large")
        .large(|large| large.otherwise(Script::text("one two").fails_after(1, down())))
        .start()
        .await;
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = chat_stream("hi").to_string();
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut text));
    read.await.expect("the server closes").unwrap();
    assert!(text.contains("event: error"), "{text}");
    assert!(text.ends_with("0\r\n\r\n"), "the body ends in order: {text}");
}

#[tokio::test]
async fn small_too_long_for_its_context_goes_to_large() {
    let error = BackendError::new(FailureKind::TooLong, "5000 tokens do not fit 4096");
    let server = Setup::new("cascade")
        .small(|small| small.otherwise(Script::fails(error)))
        .large(|large| large.otherwise(Script::text("long, but fine")))
        .start()
        .await;
    let reply: Reply = server.chat(&chat("hi")).await;
    assert_eq!((reply.status, reply.header("x-tandem-route")), (200, Some("escalated")));
}
