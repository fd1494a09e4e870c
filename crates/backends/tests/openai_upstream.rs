//! [`OpenaiBackend`] against local servers that play the upstream: well-behaved, slow, cut off,
//! garbled, limited, redirecting.

use std::convert::Infallible;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use backends::openai::Probe;
use backends::{OpenaiBackend, OpenaiSettings, Secret};
use contract::{
    Backend, BackendError, Call, Event, FailureKind, FinishReason, Finished, Input, Message, MessageRole,
    Readiness, Request, Usage,
};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const KEY: &str = "sk-do-not-show";

fn chat_call() -> Call {
    let messages = vec![Message::text(MessageRole::User, "Say hello to me.")];
    call(Input::Chat { messages, tools: Vec::new() })
}

fn call(input: Input) -> Call {
    let request = Request {
        max_tokens: Some(8),
        top_logprobs: Some(1),
        stream: true,
        ..Request::new("chatcmpl-1", input)
    };
    Call { request: Arc::new(request), signals: true, tenant: None }
}

/// Serves `router` on a free port; gives the base URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// Serves one fixed answer at every path.
async fn serve_answer(status: u16, headers: &[(&'static str, String)], body: impl Into<Bytes>) -> String {
    let status = StatusCode::from_u16(status).unwrap();
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let body: Bytes = body.into();
    serve(Router::new().fallback(move || async move { (status, headers, body) })).await
}

async fn serve_events(events: &[Value]) -> String {
    let lines: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    serve_answer(200, &[event_stream()], lines + "data: [DONE]\n\n").await
}

fn event_stream() -> (&'static str, String) {
    ("content-type", "text/event-stream".to_owned())
}

/// An answer of a stream of bytes that the test controls.
fn streamed(pieces: impl Stream<Item = String> + Send + 'static) -> Response {
    let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
    ([("content-type", "text/event-stream")], body).into_response()
}

async fn serve_stream<S, F>(make: F) -> String
where
    S: Stream<Item = String> + Send + 'static,
    F: Fn() -> S + Clone + Send + Sync + 'static,
{
    serve(Router::new().fallback(move || async move { streamed(make()) })).await
}

/// A server below HTTP: reads the request, then writes these bytes and closes. Counts its requests.
async fn serve_bytes(bytes: &'static [u8]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = socket.write_all(bytes).await;
            }
        }
    });
    (format!("http://{address}"), requests)
}

fn settings(url: &str) -> OpenaiSettings {
    OpenaiSettings {
        api_key: Some(Secret::new(KEY)),
        api_key_source: Some("the variable LARGE_KEY".into()),
        ..OpenaiSettings::new(url, "big")
    }
}

async fn events_of(settings: OpenaiSettings, call: Call) -> Vec<Event> {
    OpenaiBackend::new(settings).unwrap().call(call).collect().await
}

/// The events of a chat with the upstream at `url`.
async fn events(url: &str) -> Vec<Event> {
    events_of(settings(url), chat_call()).await
}

fn text(events: &[Event]) -> String {
    let texts = events.iter().filter_map(|event| match event {
        Event::Delta(delta) => Some(delta.text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[track_caller]
fn finished(events: &[Event]) -> Finished {
    match events.last() {
        Some(Event::Finished(finished)) => finished.clone(),
        other => panic!("not finished: {other:?}"),
    }
}

#[track_caller]
fn failed(events: &[Event]) -> BackendError {
    match events.last() {
        Some(Event::Failed(error)) => error.clone(),
        other => panic!("not failed: {other:?}"),
    }
}

fn delta(text: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {"content": text}, "logprobs": {"content": [
        {"token": text, "bytes": text.as_bytes(), "logprob": -0.25, "top_logprobs": []}]}}]})
}

fn data(event: Value) -> String {
    format!("data: {event}\n\n")
}

fn end() -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
}

fn usage() -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 5}}})
}

/// Serves `events` and passes on what it was asked: path, headers, JSON.
async fn serve_recording(events: String) -> (String, mpsc::UnboundedReceiver<(String, HeaderMap, Value)>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let handler = move |uri: Uri, headers: HeaderMap, Json(body): Json<Value>| async move {
        let _ = sender.send((uri.path().to_owned(), headers, body));
        ([("content-type", "text/event-stream")], events)
    };
    (serve(Router::new().fallback(handler)).await, receiver)
}

#[tokio::test]
async fn a_chat_is_streamed_with_logprobs_and_usage() {
    let stream: String = [delta("Hé"), delta("llo"), end(), usage()].map(data).concat();
    let (url, mut asked) = serve_recording(stream + "data: [DONE]\n\n").await;
    let events = events(&url).await;
    assert_eq!(events[0], Event::Started(contract::Usage::default()));
    assert_eq!(text(&events), "Héllo");
    let Event::Delta(first) = &events[1] else { panic!("{events:?}") };
    assert_eq!((first.tokens[0].logprob, first.tokens[0].bytes.as_slice()), (-0.25, "Hé".as_bytes()));
    let finished = finished(&events);
    let usage = Usage { prompt_tokens: 12, cached_tokens: 5, completion_tokens: 2, ..Usage::default() };
    assert_eq!((finished.reason, finished.usage), (FinishReason::Length, usage));
    assert!(finished.timings.prompt_ms > 0.0);

    let (path, headers, body) = asked.recv().await.unwrap();
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(
        (&body["model"], &body["stream"], &body["max_tokens"]),
        (&json!("big"), &json!(true), &json!(8))
    );
}

#[tokio::test]
async fn a_completion_is_streamed() {
    let chunk = json!({"choices": [{"index": 0, "text": "Once", "finish_reason": null,
        "logprobs": {"tokens": ["Once"], "token_logprobs": [-1.5], "top_logprobs": [{"Once": -1.5}]}}]});
    let last = json!({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
    let (url, mut asked) = serve_recording([chunk, last].map(data).concat()).await;
    let events = events_of(settings(&url), call(Input::Completion { prompt: "Story:".into() })).await;
    assert_eq!(text(&events), "Once");
    assert_eq!(finished(&events).reason, FinishReason::Stop);
    let Event::Delta(first) = &events[1] else { panic!("{events:?}") };
    assert_eq!(first.tokens[0].logprob, -1.5);
    let (path, _, body) = asked.recv().await.unwrap();
    assert_eq!((path.as_str(), &body["prompt"]), ("/v1/completions", &json!("Story:")));
}

#[tokio::test]
async fn an_upstream_that_does_not_stream_answers_in_one_delta() {
    let answer = json!({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1}});
    let headers = [("content-type", "application/json; charset=utf-8".to_owned())];
    let url = serve_answer(200, &headers, answer.to_string()).await;
    for stream in [false, true] {
        let events = events_of(OpenaiSettings { stream, ..settings(&url) }, chat_call()).await;
        assert_eq!((events.len(), text(&events).as_str()), (3, "Hello"), "stream: {stream}");
        assert_eq!(finished(&events).usage.prompt_tokens, 3);
    }
}

#[tokio::test]
async fn without_usage_tokens_are_estimated() {
    let url = serve_events(&[delta("a"), delta("b"), end()]).await;
    let usage = finished(&events(&url).await).usage;
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), ("Say hello to me.".len() as u64 / 4, 2));
}

#[tokio::test]
async fn tool_calls_pass_through_unread() {
    let fragment =
        json!({"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{\"x\""}, "odd": [1]});
    let chunk = json!({"choices": [{"delta": {"tool_calls": [fragment]}}]});
    let end = json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]});
    let events = events(&serve_events(&[chunk, end]).await).await;
    let Event::Delta(delta) = &events[1] else { panic!("{events:?}") };
    assert_eq!(delta.tool_calls, [fragment]);
    assert_eq!(finished(&events).reason, FinishReason::ToolCalls);
}

#[tokio::test]
async fn errors_keep_their_kind_and_the_upstreams_words() {
    let error = |message: &str, code: &str| json!({"error": {"message": message, "code": code}}).to_string();
    for (status, body, kind, words) in [
        (400, error("bad temperature", "x"), FailureKind::BadInput, "bad temperature"),
        (400, error("too many", "context_length_exceeded"), FailureKind::TooLong, "too many"),
        (413, String::new(), FailureKind::TooLong, "too long"),
        (401, error("who are you", "x"), FailureKind::Upstream, "our API key (from the variable LARGE_KEY)"),
        (404, error("nope", "model_not_found"), FailureKind::Upstream, "`big`"),
        (429, error("slow down", "x"), FailureKind::Busy, "slow down"),
        (500, "<html>oops</html>".into(), FailureKind::Upstream, "HTTP 500"),
        (503, error("loading", "x"), FailureKind::Upstream, "loading"),
    ] {
        let url = serve_answer(status, &[("retry-after", "7".to_owned())], body).await;
        let error = failed(&events(&url).await);
        assert_eq!((error.kind, error.retry_after_s), (kind, Some(7)), "{status}: {error}");
        assert!(error.message.contains(words), "{status}: {error}");
        assert!(error.message.contains("127.0.0.1:"), "names the host: {error}");
    }
}

#[tokio::test]
async fn nonsense_is_an_upstream_failure() {
    let html = ("content-type", "text/html; charset=utf-8".to_owned());
    let json = ("content-type", "application/json".to_owned());
    for (header, body) in [
        (html, "<html>login</html>"),
        (json.clone(), "{\"choices\": [{\"mess"),
        (json.clone(), "{}"),
        (json, "null"),
        (event_stream(), "data: {\"choices\"\n\n"),
        (event_stream(), "data: 7\n\n"),
        (event_stream(), "\0\u{1}garbage"),
        (event_stream(), ""),
    ] {
        let error = failed(&events(&serve_answer(200, &[header], body).await).await);
        assert_eq!(error.kind, FailureKind::Upstream, "{body}: {error}");
    }
}

#[tokio::test]
async fn errors_in_the_middle_of_a_stream_end_it() {
    let first = data(delta("Hel"));
    for (rest, kind) in [
        (data(json!({"error": {"message": "out of memory", "code": 500}})), FailureKind::Upstream),
        ("event: error\ndata: out of memory\n\n".to_owned(), FailureKind::Upstream),
        (data(json!({"error": {"message": "out of quota", "type": "rate_limit_error"}})), FailureKind::Busy),
    ] {
        let body = format!("{first}{rest}{}", data(delta("never seen")));
        let events = events(&serve_answer(200, &[event_stream()], body).await).await;
        assert_eq!(text(&events), "Hel");
        let error = failed(&events);
        assert_eq!(error.kind, kind);
        assert!(error.message.contains("out of"), "{error}");
    }
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_fails_and_one_cut_after_its_end_does_not() {
    const HEAD: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |event: Value| {
        let event = data(event);
        format!("{:x}\r\n{event}\r\n", event.len())
    };
    let cut = format!("{HEAD}{}", chunk(delta("Hi"))).leak().as_bytes();
    let (url, requests) = serve_bytes(cut).await;
    let half = events(&url).await;
    assert_eq!((text(&half).as_str(), failed(&half).kind), ("Hi", FailureKind::Upstream));
    assert_eq!(requests.load(Ordering::SeqCst), 1, "a begun answer is never asked for again");

    let ended = format!("{HEAD}{}{}", chunk(delta("Hi")), chunk(end())).leak().as_bytes();
    let whole = events(&serve_bytes(ended).await.0).await;
    assert_eq!((text(&whole).as_str(), finished(&whole).reason), ("Hi", FinishReason::Length));
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_not_tried_again() {
    for bytes in [&b""[..], b"no HTTP at all\r\n\r\n"] {
        let (url, requests) = serve_bytes(bytes).await;
        assert_eq!(failed(&events(&url).await).kind, FailureKind::Upstream);
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_stream_that_ends_but_stays_open_is_complete() {
    let make = || stream::iter([data(delta("Hi")), data(end())]).chain(stream::pending());
    let begun = Instant::now();
    let events = events(&serve_stream(make).await).await;
    assert_eq!(text(&events), "Hi");
    finished(&events);
    assert!(begun.elapsed() < Duration::from_secs(10), "not the idle limit of a minute");
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_and_then_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let begun = Instant::now();
    let url = format!("http://{address}");
    let error =
        failed(&events_of(OpenaiSettings { connect_retries_max: 1, ..settings(&url) }, chat_call()).await);
    assert!(begun.elapsed() >= Duration::from_millis(100), "one pause of 100 ms");
    assert_eq!(error.kind, FailureKind::Upstream);
    assert!(error.message.contains(&address.to_string()) && error.message.contains("refused"), "{error}");

    let unknown = OpenaiSettings { connect_retries_max: 0, ..settings("http://no-such-host.invalid") };
    let error = failed(&events_of(unknown, chat_call()).await);
    assert_eq!(error.kind, FailureKind::Upstream);
    assert!(error.message.contains("no-such-host.invalid"), "{error}");
}

#[tokio::test]
async fn every_time_limit_is_kept() {
    let silent = serve(Router::new().fallback(std::future::pending::<()>)).await;
    let mute = serve_stream(stream::pending).await;
    let pausing = serve_stream(|| stream::iter([data(delta("Hi"))]).chain(stream::pending())).await;
    let endless = serve_stream(|| {
        stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((data(delta("x")), ()))
        })
    });
    let endless = endless.await;
    let limited = |url: &str| OpenaiSettings { first_byte_timeout_ms: 100, ..settings(url) };
    for (settings, name) in [
        (limited(&silent), "first_byte_timeout_ms"),
        (limited(&mute), "first_byte_timeout_ms"),
        (OpenaiSettings { idle_timeout_ms: 100, ..settings(&pausing) }, "idle_timeout_ms"),
        (OpenaiSettings { total_timeout_ms: 300, ..settings(&endless) }, "total_timeout_ms"),
        (OpenaiSettings { total_timeout_ms: 100, stream: false, ..settings(&silent) }, "total_timeout_ms"),
    ] {
        let error = failed(&events_of(settings, chat_call()).await);
        assert_eq!(error.kind, FailureKind::Timeout, "{error}");
        assert!(error.message.contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_response_without_end_is_given_up() {
    let endless = serve_stream(|| stream::repeat(data(delta("more")))).await;
    let limited = OpenaiSettings { response_bytes_max: 100_000, ..settings(&endless) };
    let error = failed(&events_of(limited, chat_call()).await);
    assert_eq!(error.kind, FailureKind::Upstream);
    assert!(error.message.contains("100000 bytes"), "{error}");
}

/// Tells when the server drops the response, as it does when the client has gone.
struct OnDrop(mpsc::UnboundedSender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn dropping_the_events_ends_the_upstreams_work() {
    let (gone, mut noticed) = mpsc::unbounded_channel();
    let url = serve_stream(move || {
        let guard = OnDrop(gone.clone());
        stream::unfold(guard, |guard| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((data(delta("x")), guard))
        })
    });
    let backend = OpenaiBackend::new(settings(&url.await)).unwrap();
    let mut events = backend.call(chat_call());
    for _ in 0..3 {
        assert!(!matches!(events.next().await, None | Some(Event::Failed(_))));
    }
    assert!(noticed.try_recv().is_err(), "still answering");
    drop(events);
    let noticed = tokio::time::timeout(Duration::from_secs(2), noticed.recv()).await;
    assert_eq!(noticed, Ok(Some(())));
}

#[tokio::test]
async fn a_slow_reader_makes_the_upstream_wait() {
    const PIECE_BYTES: usize = 10_000;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let url = serve_stream(move || {
        let count = Arc::clone(&count);
        let piece = data(delta(&"x".repeat(PIECE_BYTES)));
        stream::repeat_with(move || {
            count.fetch_add(1, Ordering::SeqCst);
            piece.clone()
        })
    });
    let bytes_max = 1 << 30;
    let patient = OpenaiSettings { response_bytes_max: bytes_max, ..settings(&url.await) };
    let events = OpenaiBackend::new(patient).unwrap().call(chat_call());
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(Ordering::SeqCst);
        assert!(now * PIECE_BYTES < bytes_max / 4, "{now} pieces went to a reader that reads none");
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    drop(events);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let visits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&visits);
    let elsewhere = serve(Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let elsewhere = format!("{}/v1/chat/completions", elsewhere.await);
    for status in [301, 302, 307, 308] {
        let url = serve_answer(status, &[("location", elsewhere.clone())], "").await;
        let error = failed(&events(&url).await);
        assert_eq!(error.kind, FailureKind::Upstream);
        assert!(error.message.contains(&elsewhere), "{error}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

/// A log that the test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_never_shown() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let echo = json!({"error": {"message": format!("Incorrect API key: {KEY}")}});
    let mut shown = String::new();
    let stream = [data(delta("Hi")), data(echo.clone())].concat();
    for url in [
        serve_answer(401, &[], echo.to_string()).await,
        serve_answer(500, &[], format!("key {KEY}")).await,
        serve_answer(307, &[("location", format!("http://x/?key={KEY}"))], "").await,
        serve_answer(200, &[event_stream()], stream).await,
        serve_answer(200, &[event_stream()], format!("data: {KEY}\n\n")).await,
        serve_answer(200, &[event_stream()], format!("event: error\ndata: {KEY}\n\n")).await,
        serve_events(&[delta("no usage: a warning"), end()]).await,
        "http://127.0.0.1:1".to_owned(),
    ] {
        let backend = OpenaiBackend::new(settings(&url)).unwrap();
        let events: Vec<Event> = backend.call(chat_call()).collect().await;
        shown += &format!("{backend:?} {events:?} {:?}\n", backend.probe().await);
    }
    let unsendable =
        OpenaiSettings { api_key: Some(Secret::new("sk-do-not-show\n2")), ..settings("http://x") };
    let error = OpenaiBackend::new(unsendable).unwrap_err();
    shown += &format!("{error} {error:?}");
    drop(guard);
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("tells no usage"), "the log was captured: {log}");
    assert!(shown.contains("***") && !shown.contains(KEY), "{shown}");
    assert!(!log.contains(KEY), "{log}");
}

#[tokio::test]
async fn a_probe_tells_what_the_upstream_serves() {
    let list = json!({"object": "list", "data": [{"id": "other"}, {"id": "big", "max_model_len": 4096}]});
    let url = serve(Router::new().route("/v1/models", get(move || async move { Json(list) }))).await;
    let backend = OpenaiBackend::new(settings(&url)).unwrap();
    let models = vec!["other".to_owned(), "big".to_owned()];
    let expected = Probe { models, serves_model: true, context_tokens: Some(4096) };
    assert_eq!(backend.probe().await, Ok(expected));
    assert_eq!(backend.readiness(), Readiness::Ready);
    let lost = OpenaiBackend::new(settings(&serve(Router::new()).await)).unwrap();
    assert_eq!(lost.probe().await.unwrap_err().kind, FailureKind::Upstream);
}

#[tokio::test]
async fn connections_are_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stream: String = [delta("Hi"), end()].map(data).concat() + "data: [DONE]\n\n";
    let router = Router::new().fallback(move || async move { streamed(stream::iter([stream])) });
    let counted = axum::serve::ListenerExt::tap_io(listener, {
        let connections = Arc::clone(&connections);
        move |_| {
            connections.fetch_add(1, Ordering::SeqCst);
        }
    });
    tokio::spawn(async move { axum::serve(counted, router).await });
    let backend = OpenaiBackend::new(settings(&url)).unwrap();
    for _ in 0..5 {
        let events: Vec<Event> = backend.call(chat_call()).collect().await;
        finished(&events);
        // The connection is free once the last bytes, after `[DONE]`, are read.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
