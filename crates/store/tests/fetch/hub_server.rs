//! A local server that speaks the Hugging Face Hub's protocol for one file: a hub that names the commit, the
//! length and the digest and redirects, and, on another port, a content server that honours `Range`.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE};
use axum::http::{Method, Response, StatusCode};
use futures_util::{StreamExt, stream};
use store::Sha256;
use tokio::net::TcpListener;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the servers say; tests change it as they go.
pub struct Script {
    /// The file's bytes as the content server gives them.
    pub content: Vec<u8>,
    /// `X-Linked-Size`, if there is one.
    pub size: Option<String>,
    /// `X-Linked-ETag`, if there is one.
    pub etag: Option<String>,
    /// Statuses of the next answers of the hub to `HEAD`, before it says 302.
    pub statuses: Vec<u16>,
    /// The next connections of the content server break after so many bytes.
    pub breaks: Vec<usize>,
    /// The next connections of the content server fall silent after their first bytes.
    pub stalls: usize,
    /// Whether the content server takes no notice of `Range`.
    pub ignores_range: bool,
    /// Added to where the content server says that its bytes start.
    pub range_error: usize,
    /// Every request, in order.
    pub seen: Vec<String>,
}

/// Both servers, until dropped.
pub struct HubServer {
    pub endpoint: String,
    pub script: Arc<Mutex<Script>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl HubServer {
    /// Serves `content` as `o/r/f.gguf`; the repository was once called `old/r`.
    pub async fn start(content: &[u8]) -> Self {
        let script = Arc::new(Mutex::new(Script {
            content: content.to_owned(),
            size: Some(content.len().to_string()),
            etag: Some(format!("\"{}\"", Sha256::of(content))),
            statuses: Vec::new(),
            breaks: Vec::new(),
            stalls: 0,
            ignores_range: false,
            range_error: 0,
            seen: Vec::new(),
        }));
        let (contents, content_task) = serve(script.clone(), |script, request| give(script, &request)).await;
        let (endpoint, hub_task) =
            serve(script.clone(), move |script, request| answer(script, &request, &contents)).await;
        HubServer { endpoint, script, tasks: vec![content_task, hub_task] }
    }

    /// Changes what the servers do.
    pub fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.script.lock().unwrap().seen)
    }
}

async fn serve(
    script: Arc<Mutex<Script>>,
    respond: impl Fn(&mut Script, Request) -> Response<Body> + Clone + Send + Sync + 'static,
) -> (String, tokio::task::JoinHandle<()>) {
    let router = Router::new().fallback(move |request: Request| {
        let response = respond(&mut script.lock().unwrap(), request);
        async move { response }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (endpoint, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

/// The hub.
fn answer(script: &mut Script, request: &Request, contents: &str) -> Response<Body> {
    let authorised = request.headers().get(AUTHORIZATION).is_some_and(|value| value == "Bearer secret");
    let mark = if authorised { " with token" } else { "" };
    script.seen.push(format!("{} {}{mark}", request.method(), request.uri().path()));
    let status = |status: u16| Response::builder().status(status).body(Body::empty()).unwrap();
    if request.method() == Method::HEAD && !script.statuses.is_empty() {
        return status(script.statuses.remove(0));
    }
    let (file, moved) = ("/o/r/resolve/", "/old/r/resolve/");
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix(moved) {
        return Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(LOCATION, format!("{file}{rest}"))
            .body(Body::empty())
            .unwrap();
    }
    if ![format!("{file}main/f.gguf"), format!("{file}{COMMIT}/f.gguf")].contains(&path.to_owned()) {
        return status(404);
    }
    let mut response = Response::builder()
        .status(StatusCode::FOUND)
        .header("x-repo-commit", COMMIT)
        .header(LOCATION, format!("{contents}/blob"));
    for (name, value) in [("x-linked-size", &script.size), ("x-linked-etag", &script.etag)] {
        if let Some(value) = value {
            response = response.header(name, value);
        }
    }
    response.body(Body::empty()).unwrap()
}

/// The content server.
fn give(script: &mut Script, request: &Request) -> Response<Body> {
    let headers = request.headers();
    let range = headers.get(RANGE).map_or("", |range| range.to_str().unwrap()).to_owned();
    let leaked = if headers.contains_key(AUTHORIZATION) { " with token" } else { "" };
    script.seen.push(format!("GET content {range}{leaked}").trim_end().to_owned());
    let start = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|_| !script.ignores_range);
    let bytes = script.content[start.unwrap_or(0)..].to_vec();
    let mut response = Response::builder().header(CONTENT_LENGTH, bytes.len()).header(ETAG, "\"other\"");
    if let Some(start) = start {
        let (from, all) = (start + script.range_error, script.content.len());
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(CONTENT_RANGE, format!("bytes {from}-{}/{all}", all - 1));
    }
    if script.stalls > 0 {
        script.stalls -= 1;
        let first = stream::iter([Ok::<_, io::Error>(bytes[..10].to_vec())]);
        return response.body(Body::from_stream(first.chain(stream::pending()))).unwrap();
    }
    if script.breaks.is_empty() {
        return response.body(Body::from(bytes)).unwrap();
    }
    let sent = bytes[..script.breaks.remove(0)].to_vec();
    let pieces = stream::iter([Ok(sent), Err(io::Error::other("the connection breaks"))]);
    // A pause, so that what was sent has left before the connection goes.
    let pieces = pieces.then(|piece| async {
        if piece.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        piece
    });
    response.body(Body::from_stream(pieces)).unwrap()
}
