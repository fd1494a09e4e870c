//! Clients that leave, and servers that do.

use std::time::Duration;

use backends::Reply as Script;
use futures_util::StreamExt;

use crate::server::{Reply, Setup, chat, chat_stream, until};

#[tokio::test]
async fn a_client_that_leaves_stops_its_generation() {
    let endless = Script::text(&"word ".repeat(10_000)).delta_delay_ms(2);
    let server = Setup::new("small").small(|small| small.otherwise(endless)).start().await;

    let whole = tokio::spawn(server.post("/v1/chat/completions", &chat("one")).send());
    until("the call runs", || server.small.deltas_sent() > 2).await;
    whole.abort();
    until("the call is cancelled", || server.small.cancelled() == 1).await;

    let response = server.post("/v1/chat/completions", &chat_stream("two")).send().await.unwrap();
    let mut body = response.bytes_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    until("the stream is cancelled", || server.small.cancelled() == 2).await;
    let sent = server.small.deltas_sent();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.small.deltas_sent(), sent, "nothing is generated for nobody");
    let metrics = server.get("/metrics").await.text;
    let gone = "tandem_requests_total{model=\"tiny-1\",route=\"small\",status=\"499\"} 2";
    assert!(metrics.contains(gone), "{metrics}");
}

#[tokio::test]
async fn shutdown_lets_running_requests_finish_and_takes_no_new_ones() {
    let slow = Script::text("a b c d e f g h").delta_delay_ms(60);
    let mut server = Setup::new("small").small(|small| small.otherwise(slow)).start().await;
    let running = server.post("/v1/chat/completions", &chat_stream("one")).send().await.unwrap();
    server.shut_down();
    let mut ready = server.get("/ready").await;
    for _ in 0..100 {
        if ready.status == 503 {
            break;
        }
        ready = server.get("/ready").await;
    }
    assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("draining")));
    let refused = server.chat(&chat("two")).await;
    assert_eq!((refused.status, refused.error()["code"].as_str()), (503, Some("draining")));
    assert!(refused.header("retry-after").is_some());
    let reply = Reply::read(running).await;
    assert_eq!(reply.streamed_text(), "a b c d e f g h");
    assert!(reply.text.ends_with("data: [DONE]\n\n"));
    tokio::time::timeout(Duration::from_secs(5), &mut server.task).await.expect("it ends").unwrap();
    assert!(server.client.get(server.url("/health")).send().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn shutdown_waits_no_longer_than_it_may_and_records_what_it_cuts() {
    let mut server = Setup::new("small")
        .with_ledger()
        .small(|small| small.otherwise(Script::text("a b").hangs_after(1)))
        .settings(|settings| settings.drain_timeout_ms = 100)
        .start()
        .await;
    let running = server.post("/v1/chat/completions", &chat_stream("one")).send().await.unwrap();
    let id = running.headers()["x-tandem-request-id"].to_str().unwrap().to_owned();
    server.shut_down();
    tokio::time::timeout(Duration::from_secs(8), &mut server.task).await.expect("it ends").unwrap();
    assert!(running.text().await.is_err(), "the stream was cut");
    assert_eq!(server.small.cancelled(), 1);
    let stored = server.ledger.as_ref().unwrap().request(&id).await.unwrap().expect("it is recorded");
    assert!(stored.row.client_gone);
}

#[tokio::test]
async fn a_client_that_stops_reading_loses_its_connection() {
    use tokio::io::AsyncWriteExt;
    let megabyte = "x".repeat(1 << 20);
    let endless = Script::tokens((0..200).map(|_| (megabyte.as_str(), -0.1)));
    let server = Setup::new("small")
        .small(|small| small.otherwise(endless))
        .settings(|settings| {
            settings.answer_bytes_max = usize::MAX;
            settings.request_timeout_ms = 300;
            settings.stall_timeout_ms = 300;
        })
        .start()
        .await;
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = chat_stream("hi").to_string();
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    until("the call is cancelled", || server.small.cancelled() == 1).await;
    assert!(server.small.deltas_sent() < 200, "the socket was full before the end");
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let mut server = Setup::new("small").start().await;
    assert_eq!(server.get("/health").await.status, 200); // leaves an idle connection behind
    server.shut_down();
    tokio::time::timeout(Duration::from_millis(1500), &mut server.task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn several_servers_in_one_process_count_for_themselves() {
    let one = Setup::new("small").small(|small| small.otherwise(Script::text("a"))).start().await;
    let two = Setup::new("small").small(|small| small.otherwise(Script::text("a"))).start().await;
    one.chat(&chat("hi")).await;
    let count = "tandem_requests_total{model=\"tiny-1\",route=\"small\",status=\"200\"} 1";
    assert!(one.get("/metrics").await.text.contains(count));
    assert!(!two.get("/metrics").await.text.contains(count));
}

#[tokio::test]
async fn the_metrics_have_their_names_and_types_and_the_dashboard_its_figures() {
    let server = Setup::new("small").small(|small| small.otherwise(Script::text("a b c"))).start().await;
    server.chat(&chat_stream("hi")).await;
    let metrics = server.get("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for line in [
        "# TYPE tandem_requests_total counter",
        "# TYPE tandem_tokens_total counter",
        "# TYPE tandem_cost_usd_total counter",
        "tandem_cost_usd_total{backend=\"small\"} 0.000007",
        "tandem_saved_usd_total ",
        "tandem_time_to_first_token_seconds_count 1",
        "tandem_inter_token_seconds_count 2",
        "tandem_overhead_seconds_count 1",
        "tandem_queue_depth 0",
        "tandem_requests_running 0",
        "tandem_ledger_lag_rows 0",
    ] {
        assert!(metrics.text.contains(line), "{line} is missing in\n{}", metrics.text);
    }
    let page = server.get("/").await;
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(!page.text.contains("http://") && !page.text.contains("https://"), "nothing from outside");
    let figures = server.get("/dashboard.json").await.json();
    assert_eq!(figures["routes"][0]["requests"], 1);
    assert_eq!(figures["recent"][0]["model"], "tiny-1");
}
