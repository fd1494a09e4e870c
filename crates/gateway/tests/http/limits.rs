//! Queue, deadlines, readiness, keys and CORS.

use std::time::Duration;

use backends::Reply as Script;
use contract::Readiness;
use gateway::ApiKey;
use serde_json::json;

use crate::server::{Reply, Server, Setup, chat, chat_stream, until};

/// Comes back once so many requests wait for a place.
async fn waits(server: &Server, requests: usize) {
    let figure = format!("tandem_queue_depth {requests}\n");
    for _ in 0..400 {
        let metrics = server.client.get(format!("{}/metrics", server.base)).bearer_auth("sk-other");
        if Reply::read(metrics.send().await.unwrap()).await.text.contains(&figure) {
            return;
        }
    }
    panic!("{requests} requests never wait");
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let server = Setup::new("small")
        .small(|small| small.otherwise(Script::text("a b").hangs_after(1)))
        .settings(|settings| {
            settings.concurrent_max = 1;
            settings.queue_max = 1;
        })
        .start()
        .await;
    let running = tokio::spawn(server.post("/v1/chat/completions", &chat("one")).send());
    until("the first request runs", || server.small.calls() == 1).await;
    let waiting = tokio::spawn(server.post("/v1/chat/completions", &chat("two")).send());
    waits(&server, 1).await;
    let reply = server.chat(&chat("three")).await;
    assert_eq!(reply.status, 429, "{}", reply.text);
    assert_eq!(reply.error()["code"], "queue_full");
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(reply.header("x-tandem-route"), Some("refused"));
    assert_eq!(server.small.calls(), 1);
    // When the running client leaves, the waiting one gets its place.
    running.abort();
    until("the second request runs", || server.small.calls() == 2).await;
    waiting.abort();
    until("both are cancelled", || server.small.cancelled() == 2).await;
}

#[tokio::test]
async fn an_interactive_request_takes_the_turn_of_a_waiting_background_one() {
    let server = Setup::new("small")
        .small(|small| small.otherwise(Script::text("a b").hangs_after(1)))
        .settings(|settings| {
            settings.concurrent_max = 1;
            settings.queue_max = 1;
        })
        .start()
        .await;
    let running = tokio::spawn(server.post("/v1/chat/completions", &chat("one")).send());
    until("the first request runs", || server.small.calls() == 1).await;
    let mut background = chat("two");
    background["tandem"] = json!({"priority": "background"});
    let background = tokio::spawn(server.post("/v1/chat/completions", &background).send());
    waits(&server, 1).await;
    let interactive = tokio::spawn(server.post("/v1/chat/completions", &chat("three")).send());
    let displaced = Reply::read(background.await.unwrap().unwrap()).await;
    assert_eq!((displaced.status, displaced.error()["code"].as_str()), (429, Some("queue_full")));
    assert!(displaced.error()["message"].as_str().unwrap().contains("background"), "{}", displaced.text);
    assert!(displaced.header("retry-after").is_some());
    running.abort();
    until("the interactive request runs", || server.small.calls() == 2).await;
    interactive.abort();
}

#[tokio::test]
async fn a_free_place_goes_to_the_key_with_the_fewest_running_requests() {
    let server = Setup::new("small")
        .small(|small| small.otherwise(Script::text("a b").hangs_after(1)))
        .settings(|settings| {
            settings.api_keys = vec![ApiKey::new("sk-busy"), ApiKey::new("sk-other")];
            settings.concurrent_max = 2;
        })
        .start()
        .await;
    let ask =
        |key: &str| tokio::spawn(server.post("/v1/chat/completions", &chat(key)).bearer_auth(key).send());
    let running = [ask("sk-busy"), ask("sk-busy")];
    until("two requests run", || server.small.calls() == 2).await;
    let _third = ask("sk-busy");
    waits(&server, 1).await;
    let _other = ask("sk-other");
    waits(&server, 2).await;
    running[0].abort();
    until("another one runs", || server.small.calls() == 3).await;
    let tenants: Vec<_> = server.small.call_log().iter().map(|call| call.tenant.clone()).collect();
    assert_eq!(tenants[0], tenants[1]);
    assert_ne!(tenants[2], tenants[0], "the other key's request came later");
}

#[tokio::test]
async fn a_deadline_is_408_before_the_first_byte_and_an_event_after() {
    let server = Setup::new("small")
        .small(|small| {
            let script = Script::text("a b c");
            small.when("mute", script.clone().hangs_after(0)).when("stuck", script.hangs_after(1))
        })
        .start()
        .await;
    let ask = |text: &str| {
        server.post("/v1/chat/completions", &chat_stream(text)).header("x-tandem-deadline-ms", "150").send()
    };
    let reply = Reply::read(ask("mute").await.unwrap()).await;
    assert_eq!(reply.status, 408, "{}", reply.text);
    assert!(reply.error()["message"].as_str().unwrap().contains("150 ms"));
    let reply = Reply::read(ask("stuck").await.unwrap()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.events().last().unwrap()["error"]["code"], "deadline_exceeded");
    assert_eq!(server.small.cancelled(), 2, "both calls were stopped");
}

#[tokio::test]
async fn the_servers_own_time_limit_is_408_too() {
    let server = Setup::new("small")
        .small(|small| small.otherwise(Script::text("a").hangs_after(0)))
        .settings(|settings| settings.request_timeout_ms = 100)
        .start()
        .await;
    let reply = server.chat(&chat("hi")).await;
    assert_eq!((reply.status, reply.error()["code"].as_str()), (408, Some("request_timeout")));
}

#[tokio::test]
async fn answers_have_a_longest_length() {
    let server = Setup::new("small")
        .small(|small| small.otherwise(Script::text(&"word ".repeat(100))))
        .settings(|settings| settings.answer_bytes_max = 50)
        .start()
        .await;
    let reply = server.chat(&chat("hi")).await;
    assert_eq!(reply.status, 502);
    assert!(reply.error()["message"].as_str().unwrap().contains("50 bytes"));
}

#[tokio::test]
async fn request_tokens_max_bounds_and_fills_in_max_tokens() {
    let server = Setup::new("small")
        .small(|small| small.otherwise(Script::text("a")))
        .settings(|settings| settings.request_tokens_max = Some(100))
        .start()
        .await;
    let mut body = chat("hi");
    assert_eq!(server.chat(&body).await.status, 200);
    assert_eq!(server.small.call_log()[0].request.max_tokens, Some(100));
    body["max_tokens"] = json!(101);
    let reply = server.chat(&body).await;
    assert_eq!((reply.status, reply.error()["param"].as_str()), (400, Some("max_tokens")));
}

#[tokio::test]
async fn readiness_is_told_by_backend_and_loading_is_503() {
    let server = Setup::new("cascade").large(|large| large.otherwise(Script::text("a"))).start().await;
    assert_eq!(server.get("/ready").await.status, 200);
    server.small.set_readiness(Readiness::Loading);
    let ready = server.get("/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["backends"][0]["why"], "loading");
    assert_eq!(ready.json()["backends"][1]["ready"], true);
    let reply = server.chat(&chat("hi")).await;
    assert_eq!((reply.status, reply.error()["code"].as_str()), (503, Some("model_loading")));
    assert!(reply.header("retry-after").is_some());
    // A model that can't come is a failed attempt: the policy may go on to the other.
    server.small.set_readiness(Readiness::Failed("the file is damaged".into()));
    assert!(server.get("/ready").await.text.contains("the file is damaged"));
    let reply = server.chat(&chat("hi")).await;
    assert_eq!((reply.status, reply.header("x-tandem-route")), (200, Some("escalated")));
    assert_eq!(server.get("/health").await.status, 200, "alive all the same");
}

#[tokio::test]
async fn keys_guard_everything_but_health_and_readiness() {
    let server = Setup::new("small")
        .small(|small| small.otherwise(Script::text("a")))
        .settings(|settings| settings.api_keys = vec![ApiKey::new("sk-one"), ApiKey::new("sk-two")])
        .start()
        .await;
    for path in ["/v1/models", "/metrics", "/", "/dashboard.json", "/v1/requests/x"] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"));
        assert_eq!(reply.error()["type"], "authentication_error");
    }
    for path in ["/health", "/ready"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let ask = |key: &str| server.post("/v1/chat/completions", &chat("hi")).bearer_auth(key).send();
    assert_eq!(ask("sk-two").await.unwrap().status(), 200);
    assert_eq!(ask("sk-three").await.unwrap().status(), 401);
}

#[tokio::test]
async fn cors_is_off_unless_origins_are_listed() {
    let preflight = |url: String, client: &reqwest::Client| {
        let request = client.request(reqwest::Method::OPTIONS, url);
        request
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
            .send()
    };
    let plain = Setup::new("small").start().await;
    let reply = preflight(plain.url("/v1/chat/completions"), &plain.client).await.unwrap();
    assert!(reply.headers().get("access-control-allow-origin").is_none());
    let open = Setup::new("small")
        .settings(|settings| {
            settings.cors = vec!["https://app.example".into()];
            settings.api_keys = vec![ApiKey::new("k")];
        })
        .start()
        .await;
    let reply = preflight(open.url("/v1/chat/completions"), &open.client).await.unwrap();
    assert_eq!(reply.status(), 200, "a preflight carries no key");
    assert_eq!(reply.headers()["access-control-allow-origin"], "https://app.example");
    assert_eq!(reply.headers()["access-control-allow-headers"], "authorization");
    let foreign = plain.post("/v1/chat/completions", &chat("hi")).header("origin", "https://evil.example");
    assert_eq!(Reply::read(foreign.send().await.unwrap()).await.error()["code"], "origin_not_allowed");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = Setup::new("small").settings(|settings| settings.connections_max = 1).start().await;
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let held = tokio::net::TcpStream::connect(&address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = server.client.get(server.url("/health")).send();
    assert!(tokio::time::timeout(Duration::from_millis(200), second).await.is_err());
    drop(held);
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Setup::new("small").settings(|settings| settings.header_timeout_ms = 100).start().await;
    let mut stream =
        tokio::net::TcpStream::connect(server.base.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(b"POST /v1/chat").await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
    read.await.expect("the server gives up").unwrap();
}
