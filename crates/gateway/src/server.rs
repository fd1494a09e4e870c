//! The listening server: [`Gateway`]. It accepts connections within limits, and at shutdown lets
//! running requests finish.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::connection::Connection;
use crate::flow::Flow;
use crate::memory::CONNECTION_BYTES;
use crate::routes::{self, App};
use crate::settings::{GatewaySettings, SettingsError};

/// Pause after a failed accept: usually the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Most bytes of a request's head, and of what a connection buffers.
const HEAD_BYTES_MAX: usize = CONNECTION_BYTES / 2;
/// Time connections get to write out what they hold when everything else is over.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a server can't start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A setting can't work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The address can't be listened on.
    #[error("can't listen on {listen}: {source}; is another server running there?")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A server that is bound to its address.
pub struct Gateway {
    listener: TcpListener,
    local_addr: SocketAddr,
    app: App,
}

impl Gateway {
    /// Checks the settings and binds the address; clients can connect from now on and are answered
    /// once [`Gateway::serve`] runs.
    pub async fn bind(settings: GatewaySettings, flow: Flow) -> Result<Self, GatewayError> {
        settings.validate()?;
        let listen = settings.listen;
        let bound = async {
            let listener = TcpListener::bind(listen).await?;
            let local_addr = listener.local_addr()?;
            Ok((listener, local_addr))
        };
        let (listener, local_addr) = bound.await.map_err(|source| GatewayError::Bind { listen, source })?;
        Ok(Gateway { listener, local_addr, app: App::new(settings, flow) })
    }

    /// The address, with the port that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` is ready. Then new requests get 503 and `/ready` says so, while running
    /// ones finish within `drain_timeout_ms`; what still runs after that is cut off. Returns when all
    /// requests lie in the ledger, on disk.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Gateway { listener, app, .. } = self;
        let mut acceptor = Acceptor::new(listener, &app);
        tokio::select! {
            () = acceptor.run() => {}
            () = shutdown => {}
        }
        app.drain();
        let drain_ms = app.settings.drain_timeout_ms;
        tracing::info!(running = app.running.len(), drain_ms, "shutting down");
        app.running.close();
        tokio::select! {
            () = acceptor.run() => {}
            () = app.running.wait() => {}
            () = sleep(Duration::from_millis(drain_ms)) => {
                tracing::warn!(running = app.running.len(), "requests did not finish in time and are cut off");
            }
        }
        acceptor.close().await;
        app.flow.settle().await;
    }
}

/// Accepts connections and runs them.
struct Acceptor {
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    places: Arc<Semaphore>,
    connections: JoinSet<()>,
    /// Asks all connections to end when their running response is written.
    closing: CancellationToken,
}

impl Acceptor {
    fn new(listener: TcpListener, app: &App) -> Self {
        Acceptor {
            listener,
            router: routes::router(app.clone()),
            header_timeout: Duration::from_millis(app.settings.header_timeout_ms),
            places: Arc::new(Semaphore::new(app.settings.connections_max)),
            connections: JoinSet::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Never ends; dropping the future loses no connection that was accepted.
    async fn run(&mut self) {
        loop {
            tokio::select! {
                accepted = accept(&self.listener, &self.places) => {
                    if let Some((stream, place)) = accepted {
                        self.spawn(stream, place);
                    }
                }
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    fn spawn(&mut self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let connection = Connection::new(self.closing.child_token());
        let router = self.router.clone();
        let header_timeout = self.header_timeout;
        self.connections.spawn(async move {
            run_connection(stream, router, connection, header_timeout).await;
            drop(place);
        });
    }

    /// Lets connections write what they hold, then cuts them.
    async fn close(mut self) {
        drop(self.listener);
        self.closing.cancel();
        let ended = async { while self.connections.join_next().await.is_some() {} };
        if timeout(CLOSE_TIME_MAX, ended).await.is_err() {
            self.connections.shutdown().await;
        }
    }
}

/// The next connection, once there is a place for it; `None` if it went wrong.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Tokens are small packets that must not wait for each other.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
            Some((stream, place))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn run_connection(stream: TcpStream, router: Router, connection: Connection, header_timeout: Duration) {
    let handle = connection.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(handle.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut serving = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut closing = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke off");
                }
                return;
            }
            () = connection.closing(), if !closing => {
                closing = true;
                serving.as_mut().graceful_shutdown();
            }
            () = connection.aborted() => {
                tracing::warn!("a client stopped reading; its connection is cut");
                return;
            }
        }
    }
}
