//! The server under test: gateway, flow, ledger and an engine with a tiny model, on a runtime of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::{DraftOptions, EmbeddedBackend, EmbeddedOptions};
use contract::{Backend, Price};
use engine::decoder::DecoderOptions;
use engine::model::{LoadOptions, Model};
use gateway::{ApiKey, Flow, FlowHeads, FlowParts, Gateway, GatewaySettings, Metrics};
use kernels::isa::Isa;
use kernels::pool::Pool;
use ledger::{Ledger, LedgerSettings, ReportQuery};
use policy::PolicySettings;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Client, KEYS, KNOWN_TOKENS, Known, PROMPTS, Random};

/// Longest body.
pub const BODY_BYTES_MAX: usize = 32 << 10;
/// The tiny model's context.
pub const CONTEXT_TOKENS: u64 = 512;
/// Longest wait until nothing is left of anybody.
const QUIET_TIME_MAX: Duration = Duration::from_secs(20);

pub struct World {
    runtime: Runtime,
    pub address: SocketAddr,
    pub known: Arc<Known>,
    engine: EmbeddedBackend,
    flow: Flow,
    ledger: Ledger,
    /// Tasks that are alive while nobody asks anything.
    idle_tasks: usize,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// Limits so low that all of them are met.
fn settings() -> GatewaySettings {
    GatewaySettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        api_keys: KEYS.map(ApiKey::new).into(),
        request_bytes_max: BODY_BYTES_MAX,
        concurrent_max: 6,
        queue_max: 8,
        connections_max: 64,
        request_timeout_ms: 4000,
        header_timeout_ms: 400,
        body_timeout_ms: 400,
        stall_timeout_ms: 3000,
        ..GatewaySettings::default()
    }
}

/// More requests come than the engine has sequences, so some wait inside of it, too.
fn engine() -> EmbeddedBackend {
    let backend = EmbeddedBackend::loading("tiny".into(), Price::default());
    let pool = Arc::new(Pool::new(2));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny/tiny-qwen2.gguf");
    let model = Arc::new(Model::load(&path, LoadOptions::default(), &pool).unwrap());
    let options = EmbeddedOptions {
        pool,
        turns: Arc::default(),
        isa: Isa::detect(),
        decoder: DecoderOptions::new(4, 1024),
        queue_max: 8,
        idle: None,
        drafts: Some(DraftOptions { prompt_lookup: true, ..DraftOptions::default() }),
    };
    backend.start(model, &options).unwrap();
    backend
}

impl World {
    pub fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let ledger = runtime.block_on(Ledger::open(&path, LedgerSettings::default())).unwrap();
        let engine = engine();
        let small: Arc<dyn Backend> = Arc::new(engine.clone());
        let settings = settings();
        let policy = PolicySettings { kind: "small".to_owned(), ..PolicySettings::default() };
        let flow = Flow::new(FlowParts {
            policy: Arc::from(policy::build(&policy).unwrap()),
            large: Arc::clone(&small),
            small,
            ledger: Some(ledger.clone()),
            heads: FlowHeads::default(),
            limits: settings.flow_limits(),
            metrics: Metrics::new().unwrap(),
            guards: policy::guards::Chain::default(),
        });
        let gateway = runtime.block_on(Gateway::bind(settings, flow.clone())).unwrap();
        let address = gateway.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = runtime.spawn(gateway.serve(async { drop(stopped.await) }));
        let known = Arc::new(known(address));
        let mut world = World {
            runtime,
            address,
            known,
            engine,
            flow,
            ledger,
            idle_tasks: 0,
            stop,
            serving,
            _folder: folder,
        };
        std::thread::sleep(Duration::from_millis(200));
        world.idle_tasks = world.tasks();
        world
    }

    fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }

    /// The sum of a metric's values.
    fn metric(&self, name: &str) -> f64 {
        let text = self.flow.metrics().render(0, &[]).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// What is there that should not be, once all clients have left.
    fn left(&self) -> Vec<String> {
        let engine = self.engine.load();
        let figures = [
            ("jobs waiting in the engine", engine.waiting as f64, 0.0),
            ("jobs running in the engine", engine.running as f64, 0.0),
            ("blocks of the cache in use", engine.blocks.used as f64, 0.0),
            ("tasks", self.tasks() as f64, self.idle_tasks as f64),
            ("waiting requests", self.metric("tandem_queue_depth"), 0.0),
            ("running requests", self.metric("tandem_requests_running"), 0.0),
        ];
        let left = figures.iter().filter(|(_, now, idle)| now != idle);
        left.map(|(what, now, idle)| format!("{now} {what} instead of {idle}")).collect()
    }

    /// Nobody may be waited for longer than the limits say.
    pub fn assert_nothing_is_left(&self) {
        let until = Instant::now() + QUIET_TIME_MAX;
        while !self.left().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(self.left().is_empty(), "{:?}", self.left());
    }

    /// Ends the server. Each request that was let in has one row, and the figures agree.
    pub fn assert_everything_is_recorded(self) {
        let counted = self.metric("tandem_requests_total");
        eprintln!(
            "DEBUG {}",
            self.flow
                .metrics()
                .render(0, &[])
                .unwrap()
                .lines()
                .filter(|l| l.starts_with("tandem_requests"))
                .collect::<Vec<_>>()
                .join("\n")
        );
        let World { runtime, known, ledger, stop, serving, .. } = self;
        stop.send(()).unwrap();
        runtime.block_on(async {
            serving.await.unwrap();
            let report = ledger.report(ReportQuery::default()).await.unwrap();
            assert_eq!(report.requests as f64, counted, "rows, and requests counted");
            assert!(report.clients_gone > 0 && report.errors > 0, "{report:?}");
            let ids = std::mem::take(&mut *known.ids.lock().unwrap());
            assert!(!ids.is_empty());
            for id in ids {
                assert!(ledger.request(&id).await.unwrap().is_some(), "{id} is not in the ledger");
            }
            ledger.close().await.unwrap();
        });
    }
}

/// Asks everything once while nobody else does.
fn known(address: SocketAddr) -> Known {
    let mut known = Known::default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for prompt in PROMPTS {
        let text = runtime.block_on(async {
            let mut client = Client::new(address, Random::new(0), Arc::default());
            let body = serde_json::json!({
                "model": "small", "prompt": prompt, "max_tokens": KNOWN_TOKENS, "temperature": 0,
            });
            client.text(&body.to_string()).await.unwrap()
        });
        known.texts.insert(prompt, text);
    }
    known
}
