//! What the ledger holds afterwards, and how clients ask for it.

use backends::Reply as Script;
use contract::{AttemptStatus, BackendError, FailureKind};
use futures_util::StreamExt;
use gateway::ApiKey;
use ledger::RequestRow;
use serde_json::json;

use crate::server::{LARGE_PRICE, Reply, SMALL_PRICE, Server, Setup, chat, chat_stream, until};

/// The row of a request, once it is written.
async fn row(server: &Server, id: &str) -> RequestRow {
    let ledger = server.ledger.as_ref().unwrap();
    for _ in 0..200 {
        ledger.flush().await.unwrap();
        if let Some(stored) = ledger.request(id).await.unwrap() {
            return stored.row;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{id} is not recorded");
}

/// Cost is price times usage, attempt by attempt and in sum.
fn reconcile(row: &RequestRow) {
    let mut sum = 0.0;
    for attempt in &row.attempts {
        let price = if attempt.role == contract::Role::Small { SMALL_PRICE } else { LARGE_PRICE };
        assert!((attempt.cost_usd - price.cost_usd(&attempt.usage)).abs() < 1e-12, "{attempt:?}");
        sum += attempt.cost_usd;
    }
    assert!((row.cost_usd - sum).abs() < 1e-12);
}

#[tokio::test]
async fn finished_escalated_and_failed_requests_are_recorded_and_reconcile() {
    let down = BackendError::new(FailureKind::Upstream, "it went wrong");
    let server = Setup::new("cascade")
        .with_ledger()
        .small(|small| {
            small
                .when("easy", Script::text("a b c d").logprob(-0.01))
                .when("hard", Script::text("a b c d e").logprob(-3.0))
                .when("broken", Script::text("a b c d e").logprob(-0.01).fails_after(4, down))
        })
        .large(|large| large.otherwise(Script::text("x y")))
        .start()
        .await;

    let reply = server.chat(&chat("easy")).await;
    let easy = row(&server, reply.header("x-tandem-request-id").unwrap()).await;
    reconcile(&easy);
    assert_eq!((easy.route.as_str(), easy.status, easy.answered), ("small", 200, Some(0)));
    assert_eq!(easy.attempts[0].usage.completion_tokens, reply.json()["usage"]["completion_tokens"]);
    assert_eq!(reply.header("x-tandem-cost-usd").unwrap(), format!("{:.9}", easy.cost_usd));
    assert!(easy.total_ms >= easy.overhead_ms && easy.confidence.is_some());

    let reply = server.chat(&chat_stream("hard")).await;
    let hard = row(&server, reply.header("x-tandem-request-id").unwrap()).await;
    reconcile(&hard);
    assert_eq!((hard.route.as_str(), hard.answered), ("escalated", Some(1)));
    assert_eq!(hard.attempts[0].status, AttemptStatus::Cancelled);
    assert_eq!(hard.attempts[0].usage.completion_tokens, 3, "the tokens seen until then");
    assert_eq!(hard.decisions.len(), 2);
    assert!(hard.first_token_ms.is_some());

    let reply = server.chat(&chat_stream("broken")).await;
    let broken = row(&server, reply.header("x-tandem-request-id").unwrap()).await;
    reconcile(&broken);
    assert_eq!((broken.status, broken.error.as_deref()), (502, Some("it went wrong")));
    assert!(matches!(broken.attempts[0].status, AttemptStatus::Failed(_)));
    assert_eq!(broken.attempts[0].usage.completion_tokens, 4);
}

#[tokio::test]
async fn clients_that_left_and_requests_that_found_no_place_are_recorded() {
    let endless = Script::text(&"word ".repeat(10_000)).delta_delay_ms(1);
    let server = Setup::new("small")
        .with_ledger()
        .small(|small| small.otherwise(endless))
        .settings(|settings| {
            settings.concurrent_max = 1;
            settings.queue_max = 0;
        })
        .start()
        .await;
    let response = server.post("/v1/chat/completions", &chat_stream("one")).send().await.unwrap();
    let id = response.headers()["x-tandem-request-id"].to_str().unwrap().to_owned();
    let refused = server.chat(&chat("two")).await;
    assert_eq!(refused.status, 429);
    let refused = row(&server, refused.header("x-tandem-request-id").unwrap()).await;
    assert_eq!((refused.route.as_str(), refused.status, refused.attempts.len()), ("refused", 429, 0));

    let mut body = response.bytes_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    until("the stream is cancelled", || server.small.cancelled() == 1).await;
    let gone = row(&server, &id).await;
    reconcile(&gone);
    assert!(gone.client_gone);
    assert_eq!(gone.attempts[0].status, AttemptStatus::Cancelled);
    assert_eq!(gone.attempts[0].usage.completion_tokens, server.small.deltas_sent() as u64);
}

#[tokio::test]
async fn a_request_can_be_looked_up_and_judged() {
    let server =
        Setup::new("small").with_ledger().small(|small| small.otherwise(Script::text("a"))).start().await;
    let reply = server.chat(&chat("hi")).await;
    let id = reply.header("x-tandem-request-id").unwrap();
    let path = format!("/v1/requests/{id}");
    let explained = server.get(&path).await;
    assert_eq!(explained.status, 200, "{}", explained.text);
    let json = explained.json();
    assert_eq!((json["id"].as_str(), json["route"].as_str()), (Some(id), Some("small")));
    assert_eq!(json["decisions"].as_array().unwrap().len(), 1);
    assert_eq!(json["feedback"], json!([]));

    let judge = |body: serde_json::Value| {
        let request = server.post("/v1/feedback", &body);
        async { Reply::read(request.send().await.unwrap()).await }
    };
    assert_eq!(judge(json!({"id": id, "score": 0.5, "comment": "so so"})).await.status, 200);
    assert_eq!(server.get(&path).await.json()["feedback"][0]["score"], 0.5);

    assert_eq!(judge(json!({"id": "chatcmpl-none", "score": 1})).await.status, 404);
    assert_eq!(server.get("/v1/requests/chatcmpl-none").await.status, 404);
    for (body, param) in [
        (json!({"score": 1}), "id"),
        (json!({"id": id}), "score"),
        (json!({"id": id, "score": 1.1}), "score"),
        (json!({"id": id, "score": 1, "stars": 5}), "stars"),
        (json!({"id": id, "score": 1, "comment": "x".repeat(5000)}), "comment"),
    ] {
        let reply = judge(body).await;
        assert_eq!((reply.status, reply.error()["param"].as_str()), (400, Some(param)));
    }
}

#[tokio::test]
async fn tenants_see_only_their_own_requests() {
    let server = Setup::new("small")
        .with_ledger()
        .small(|small| small.otherwise(Script::text("a")))
        .settings(|settings| settings.api_keys = vec![ApiKey::new("sk-one"), ApiKey::new("sk-two")])
        .start()
        .await;
    let asked = server.post("/v1/chat/completions", &chat("hi")).bearer_auth("sk-one").send().await.unwrap();
    let id = asked.headers()["x-tandem-request-id"].to_str().unwrap().to_owned();
    let look =
        |key: &str| server.client.get(server.url(&format!("/v1/requests/{id}"))).bearer_auth(key).send();
    assert_eq!(look("sk-one").await.unwrap().status(), 200);
    assert_eq!(look("sk-two").await.unwrap().status(), 404);
    let judged = server.post("/v1/feedback", &json!({"id": id, "score": 0})).bearer_auth("sk-two");
    assert_eq!(judged.send().await.unwrap().status(), 404);
    let tenant = row(&server, &id).await.tenant.unwrap();
    assert!(tenant.len() == 16 && !tenant.contains("sk-one"));
}

#[tokio::test]
async fn shutdown_leaves_all_rows_on_disk() {
    let mut server =
        Setup::new("small").with_ledger().small(|small| small.otherwise(Script::text("a"))).start().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(server.chat(&chat("hi")).await.header("x-tandem-request-id").unwrap().to_owned());
    }
    server.shut_down();
    (&mut server.task).await.unwrap();
    let ledger = server.ledger.as_ref().unwrap();
    assert_eq!(ledger.lag_rows(), 0);
    for id in ids {
        assert!(ledger.request(&id).await.unwrap().is_some(), "{id}");
    }
}

#[tokio::test]
async fn without_a_ledger_lookups_say_so() {
    let server = Setup::new("small").start().await;
    let reply = server.get("/v1/requests/x").await;
    assert_eq!((reply.status, reply.error()["code"].as_str()), (404, Some("no_ledger")));
}
