//! A server under test: [`Server`], and what the tests ask it.

use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use backends::ScriptedBackend;
use contract::Price;
use gateway::{Flow, FlowHeads, FlowParts, Gateway, GatewaySettings, Metrics};
use ledger::{KeepText, Ledger, LedgerSettings};
use policy::PolicySettings;
use policy::guards::Chain;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const SMALL_PRICE: Price =
    Price { input_usd_per_mtok: 1.0, cached_input_usd_per_mtok: None, output_usd_per_mtok: 2.0 };
pub const LARGE_PRICE: Price =
    Price { input_usd_per_mtok: 10.0, cached_input_usd_per_mtok: None, output_usd_per_mtok: 20.0 };

/// What to start.
pub struct Setup {
    pub settings: GatewaySettings,
    pub policy: PolicySettings,
    pub small: ScriptedBackend,
    pub large: ScriptedBackend,
    pub ledger: bool,
    pub guards: Chain,
}

impl Setup {
    /// A policy over two scripted backends on a free port, without a ledger.
    pub fn new(kind: &str) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        Setup {
            settings: GatewaySettings { listen, ..GatewaySettings::default() },
            policy: PolicySettings { kind: kind.to_owned(), window_tokens: 3, ..PolicySettings::default() },
            small: ScriptedBackend::new("tiny-1").price(SMALL_PRICE),
            large: ScriptedBackend::new("huge-1").price(LARGE_PRICE),
            ledger: false,
            guards: Chain::default(),
        }
    }

    pub fn small(mut self, change: impl FnOnce(ScriptedBackend) -> ScriptedBackend) -> Self {
        self.small = change(self.small);
        self
    }

    pub fn large(mut self, change: impl FnOnce(ScriptedBackend) -> ScriptedBackend) -> Self {
        self.large = change(self.large);
        self
    }

    pub fn settings(mut self, change: impl FnOnce(&mut GatewaySettings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub fn with_ledger(self) -> Self {
        Setup { ledger: true, ..self }
    }

    pub async fn start(self) -> Server {
        // reqwest wants a TLS provider to exist, although nothing here is encrypted.
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let ledger = match self.ledger {
            true => {
                let path = folder.path().join("ledger.sqlite");
                let settings = LedgerSettings { keep_text: KeepText::Full, ..LedgerSettings::default() };
                Some(Ledger::open(&path, settings).await.unwrap())
            }
            false => None,
        };
        let flow = Flow::new(FlowParts {
            policy: Arc::from(policy::build(&self.policy).unwrap()),
            small: Arc::new(self.small.clone()),
            large: Arc::new(self.large.clone()),
            ledger: ledger.clone(),
            heads: FlowHeads::default(),
            limits: self.settings.flow_limits(),
            metrics: Metrics::new().unwrap(),
            guards: self.guards,
        });
        let gateway = Gateway::bind(self.settings, flow).await.unwrap();
        let base = format!("http://{}", gateway.local_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(gateway.serve(async { drop(stopped.await) }));
        let client = Client::builder().no_proxy().build().unwrap();
        let (small, large) = (self.small, self.large);
        Server { base, client, stop: Some(stop), task, small, large, ledger, _folder: folder }
    }
}

/// A running server; it ends with the test's runtime.
pub struct Server {
    pub base: String,
    pub client: Client,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<()>,
    pub small: ScriptedBackend,
    pub large: ScriptedBackend,
    pub ledger: Option<Ledger>,
    _folder: tempfile::TempDir,
}

/// A response that was read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Reply {
    pub async fn read(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Reply { status, headers, text: response.text().await.unwrap() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The error's message, after checking that its shape is OpenAI's.
    pub fn error(&self) -> Value {
        let error = self.json()["error"].clone();
        for key in ["message", "type", "code"] {
            assert!(error[key].is_string(), "{key} is missing: {}", self.text);
        }
        assert!(error.get("param").is_some(), "{}", self.text);
        error
    }

    /// The JSON of each event; `[DONE]` as a string.
    pub fn events(&self) -> Vec<Value> {
        let events = self.text.split("\n\n").filter(|event| !event.is_empty());
        let data = events.map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap());
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
    }

    /// The streamed text of a chat.
    pub fn streamed_text(&self) -> String {
        let events = self.events();
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
    }
}

/// A chat request's body with one user message.
pub fn chat(text: &str) -> Value {
    json!({"model": "auto", "messages": [{"role": "user", "content": text}]})
}

/// The same, streaming.
pub fn chat_stream(text: &str) -> Value {
    let mut body = chat(text);
    body["stream"] = json!(true);
    body
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).json(body)
    }

    pub async fn chat(&self, body: &Value) -> Reply {
        Reply::read(self.post("/v1/chat/completions", body).send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::read(self.client.get(self.url(path)).send().await.unwrap()).await
    }

    /// Asks the server to shut down.
    pub fn shut_down(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

/// Waits until the condition holds; panics after some seconds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain until {what}");
}
