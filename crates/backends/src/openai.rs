//! An OpenAI-compatible HTTP upstream as a backend: [`OpenaiBackend`].
//!
//! A call runs as a task that reads the upstream and feeds a bounded queue; dropping the event
//! stream ends the task and with it the connection, which is how servers learn to stop generating.
//!
//! | file | what it does |
//! |---|---|
//! | `settings` | how an upstream is reached, validated |
//! | `body` | a call as the JSON that is sent |
//! | `exchange` | one HTTP exchange: time limits, retries, events |
//! | `sse` | bytes to server-sent events |
//! | `answer` | JSON to deltas and usage |
//! | `failure` | what went wrong, in kinds and sentences |

mod answer;
mod body;
mod exchange;
mod failure;
mod settings;
mod sse;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use contract::{
    Backend, BackendError, BackendInfo, BackendKind, Call, Event, EventStream, FailureKind, Readiness,
};
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use exchange::Exchange;
use failure::{Faults, innermost};
pub use settings::{MaxTokensField, OpenaiSettings, SettingsError};
pub use sse::{SseDecoder, SseEvent, TooMuchData};

/// Most events that wait for a slow reader before the upstream is made to wait.
const EVENTS_QUEUED_MAX: usize = 64;
/// Longest [`OpenaiBackend::probe`], milliseconds.
const PROBE_TIMEOUT_MS: u64 = 5_000;
/// Largest list of models that is read, bytes.
const PROBE_BYTES_MAX: usize = 4 << 20;
/// How long an unused connection is kept, seconds: without TLS it costs little to make a new one,
/// and uvicorn and llama-server close theirs after 5.
const IDLE_CONNECTION_S: u64 = 4;
const IDLE_CONNECTION_TLS_S: u64 = 60;

/// An OpenAI-compatible HTTP upstream. Clones share its connections.
#[derive(Clone, Debug)]
pub struct OpenaiBackend {
    upstream: Arc<Upstream>,
}

/// What an upstream says of itself at `GET /models`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The models it serves.
    pub models: Vec<String>,
    /// Whether the configured one is among them. Some servers answer to any name.
    pub serves_model: bool,
    /// The configured model's context length, where the upstream tells (vLLM, llama-server).
    pub context_tokens: Option<u32>,
}

/// Everything a call needs, shared by all calls.
struct Upstream {
    settings: OpenaiSettings,
    /// Host and port, for messages.
    host: String,
    chat_url: Url,
    completions_url: Url,
    models_url: Url,
    client: Client,
    /// Marked as sensitive, so no log shows it.
    authorization: Option<HeaderValue>,
    warned_of_missing_usage: AtomicBool,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl OpenaiBackend {
    /// Checks the settings and makes a client; connects to nothing yet.
    pub fn new(settings: OpenaiSettings) -> Result<Self, SettingsError> {
        let base = settings.validate()?;
        let host = settings::authority(&base);
        let authorization = authorization(&settings)?;
        let client = client(&settings, &base)
            .map_err(|error| SettingsError::Client { host: host.clone(), reason: innermost(&error) })?;
        let endpoint = |path: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}{path}", base.path()));
            url
        };
        let upstream = Upstream {
            chat_url: endpoint("/chat/completions"),
            completions_url: endpoint("/completions"),
            models_url: endpoint("/models"),
            settings,
            host,
            client,
            authorization,
            warned_of_missing_usage: AtomicBool::new(false),
        };
        Ok(OpenaiBackend { upstream: Arc::new(upstream) })
    }

    /// Asks `GET /models`: whether the upstream is there, takes our key, and knows the model. For a
    /// line in the log at start; a failure is no reason not to call it later.
    pub async fn probe(&self) -> Result<Probe, BackendError> {
        let limit = Duration::from_millis(PROBE_TIMEOUT_MS);
        let late = |_| {
            let limit_ms = PROBE_TIMEOUT_MS;
            let message =
                format!("the upstream {} did not list its models within {limit_ms} ms", self.upstream.host);
            BackendError::new(FailureKind::Timeout, message)
        };
        let models = tokio::time::timeout(limit, self.upstream.models()).await.map_err(late)??;
        let name = |model: &Value| model.get("id").and_then(Value::as_str).map(str::to_owned);
        let wanted = Some(&self.upstream.settings.model);
        let ours = models.iter().find(|model| name(model).as_ref() == wanted);
        let context =
            ours.and_then(|model| model.get("max_model_len").or_else(|| model.pointer("/meta/n_ctx")));
        Ok(Probe {
            models: models.iter().filter_map(name).collect(),
            serves_model: ours.is_some(),
            context_tokens: context.and_then(Value::as_u64).and_then(|tokens| u32::try_from(tokens).ok()),
        })
    }
}

impl Upstream {
    fn faults(&self) -> Faults<'_> {
        Faults { settings: &self.settings, host: &self.host }
    }

    async fn models(&self) -> Result<Vec<Value>, BackendError> {
        let mut request = self.client.get(self.models_url.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization.clone());
        }
        let transport = |error: reqwest::Error| self.faults().transport(&error);
        let mut response = request.send().await.map_err(transport)?;
        if !response.status().is_success() {
            return Err(self.faults().status(response).await);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            body.extend_from_slice(&chunk);
            if body.len() > PROBE_BYTES_MAX {
                return Err(self.faults().upstream("lists too many models"));
            }
        }
        let list = serde_json::from_slice::<Value>(&body).unwrap_or(Value::Null);
        let models = list.get("data").and_then(Value::as_array).cloned();
        models.ok_or_else(|| self.faults().upstream("gave no list of models at /models; check the URL"))
    }

    /// Once per upstream: the ledger's figures rest on estimates from here on.
    fn warn_of_missing_usage(&self) {
        if !self.warned_of_missing_usage.swap(true, Ordering::Relaxed) {
            let host = &self.host;
            tracing::warn!("the upstream {host} tells no usage; its tokens and cost are estimates");
        }
    }
}

impl Backend for OpenaiBackend {
    fn info(&self) -> BackendInfo {
        let settings = &self.upstream.settings;
        BackendInfo {
            model: settings.model.clone(),
            kind: BackendKind::Openai,
            context_tokens: settings.context_tokens,
            price: settings.price,
        }
    }

    /// Always ready: whether an upstream answers is known only by calling it.
    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn call(&self, call: Call) -> EventStream {
        let (sender, receiver) = mpsc::channel(EVENTS_QUEUED_MAX);
        let Ok(runtime) = Handle::try_current() else {
            let error =
                BackendError::new(FailureKind::Internal, "an upstream was called outside the runtime");
            return Box::pin(tokio_stream::once(Event::Failed(error)));
        };
        let upstream = Arc::clone(&self.upstream);
        runtime.spawn(async move {
            let mut exchange = Exchange::new(&upstream, &call, &sender);
            // Dropping the exchange closes its connection.
            let last = tokio::select! {
                () = sender.closed() => return,
                last = exchange.run() => last,
            };
            if let Some(last) = last {
                let complete = matches!(last, Event::Finished(_));
                if sender.send(last).await.is_ok() && complete {
                    exchange.drain().await;
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

fn authorization(settings: &OpenaiSettings) -> Result<Option<HeaderValue>, SettingsError> {
    let Some(key) = &settings.api_key else { return Ok(None) };
    let unusable = |_| SettingsError::ApiKey { source_name: settings.api_key_source.clone() };
    let mut header = HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(unusable)?;
    header.set_sensitive(true);
    Ok(Some(header))
}

fn client(settings: &OpenaiSettings, base: &Url) -> reqwest::Result<Client> {
    // reqwest takes the process's provider; the error only says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let is_tls = base.scheme() == "https";
    let idle = if is_tls { IDLE_CONNECTION_TLS_S } else { IDLE_CONNECTION_S };
    let mut builder = Client::builder()
        .user_agent(concat!("tandem/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
        .pool_idle_timeout(Duration::from_secs(idle))
        .tcp_nodelay(true)
        // A redirect would carry the key and the prompt to wherever it points.
        .redirect(reqwest::redirect::Policy::none());
    if !is_tls {
        // No certificates are loaded, so that plain http works on machines that have none.
        builder = builder.tls_certs_only([]);
    }
    if is_loopback(base) {
        // A proxy can't reach this machine's own ports.
        builder = builder.no_proxy();
    }
    builder.build()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
