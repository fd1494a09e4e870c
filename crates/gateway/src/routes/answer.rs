//! `/v1/chat/completions` and `/v1/completions`: from the body through the door into the flow, and out
//! whole or as a stream.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use contract::{Request, Role};
use serde_json::{Map, Value};
use tokio::time::{Duration, Instant};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{App, body, unix_s};
use crate::auth::Tenant;
use crate::connection::Connection;
use crate::door::{self, Accepted, Door};
use crate::flow::{Arrival, Failure, FlowEvent, FlowStream};
use crate::memory::{ANSWER_TOKENS_DEFAULT, Charge, answer_bytes};
use crate::sse;
use crate::wire::{self, ApiError, Chat, Collected, Completion, Head, Shape};

const DEADLINE_HEADER: &str = "x-tandem-deadline-ms";

/// What differs between the two endpoints.
#[derive(Clone, Copy)]
struct Endpoint {
    id_prefix: &'static str,
    accept: fn(&Door<'_>, &Map<String, Value>) -> Result<Accepted, ApiError>,
    shape: fn(Head) -> Box<dyn Shape>,
}

const CHAT: Endpoint =
    Endpoint { id_prefix: "chatcmpl", accept: door::accept_chat, shape: |head| Box::new(Chat::new(head)) };

const COMPLETIONS: Endpoint = Endpoint {
    id_prefix: "cmpl",
    accept: door::accept_completion,
    shape: |head| Box::new(Completion::new(head)),
};

/// What a request holds until its last byte has left.
#[derive(Debug)]
pub(crate) struct Held {
    /// Keeps the server from ending before.
    _running: TaskTrackerToken,
    /// Its share of the memory for requests.
    _charge: Charge,
}

/// Around a request: everything that is not its body.
pub(super) struct Around {
    headers: HeaderMap,
    tenant: Tenant,
    connection: Option<Connection>,
}

pub(super) async fn chat(
    State(app): State<App>,
    Extension(tenant): Extension<Tenant>,
    connection: Option<Extension<Connection>>,
    request: axum::extract::Request,
) -> Response {
    let (around, body) = around(tenant, connection, request);
    answer(&app, CHAT, around, body).await
}

pub(super) async fn completions(
    State(app): State<App>,
    Extension(tenant): Extension<Tenant>,
    connection: Option<Extension<Connection>>,
    request: axum::extract::Request,
) -> Response {
    let (around, body) = around(tenant, connection, request);
    answer(&app, COMPLETIONS, around, body).await
}

fn around(
    tenant: Tenant,
    connection: Option<Extension<Connection>>,
    request: axum::extract::Request,
) -> (Around, Body) {
    let (parts, body) = request.into_parts();
    let connection = connection.map(|Extension(connection)| connection);
    (Around { headers: parts.headers, tenant, connection }, body)
}

async fn answer(app: &App, endpoint: Endpoint, around: Around, body: Body) -> Response {
    let id = request_id(endpoint.id_prefix);
    let result = try_answer(app, endpoint, around, (id.clone(), body)).await;
    let mut response = result.unwrap_or_else(IntoResponse::into_response);
    wire::insert_request_id(response.headers_mut(), &id);
    response
}

async fn try_answer(
    app: &App,
    endpoint: Endpoint,
    around: Around,
    (id, body): (String, Body),
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    if app.draining() {
        return Err(ApiError::draining());
    }
    let running = app.running.token();
    let mut charge = app.memory.charge();
    let bytes = body::read(&around.headers, body, (&app.settings, &mut charge)).await?;

    let read = Instant::now();
    let door = Door {
        models: &app.models,
        request_tokens_max: app.settings.request_tokens_max,
        deadline_ms: deadline_ms(&around.headers)?,
        id,
    };
    let accepted = (endpoint.accept)(&door, &door::parse_body(&bytes)?)?;
    drop(bytes);
    app.warn_ignored(&accepted.ignored);

    let Accepted { request, include_usage, .. } = accepted;
    charge.take(answer_bytes(longest_answer(app, &request), request.top_logprobs.unwrap_or(0).into()))?;
    let held = Held { _running: running, _charge: charge };
    let shape = (endpoint.shape)(Head {
        id: request.id.clone(),
        created: unix_s(),
        model: String::new(),
        logprobs: request.top_logprobs.is_some(),
        include_usage,
        explain: request.options.explain,
    });
    let stream = request.stream;
    let limit_ms = request.deadline_ms.unwrap_or(u64::MAX).min(app.settings.request_timeout_ms);
    let door = read.elapsed();
    let flow = app.flow.start(Arrival { request, tenant: around.tenant.0, at: arrived, door });
    if stream {
        let limit = Duration::from_millis(limit_ms.saturating_add(app.settings.stall_timeout_ms));
        let abort = around.connection.as_ref().zip(arrived.checked_add(limit));
        let abort = abort.map(|(connection, at)| connection.abort_at(at));
        Ok(streamed(sse::Answer { flow, shape, connection: around.connection, abort, held }).await)
    } else {
        Ok(whole(flow, shape, held).await)
    }
}

/// Tokens that the answer may have.
fn longest_answer(app: &App, request: &Request) -> u64 {
    let context = |role| app.flow.backend(role).info().context_tokens;
    let longest = context(Role::Small).max(context(Role::Large)).map(u64::from);
    let asked = request.max_tokens.map(u64::from);
    let longest = longest.unwrap_or(ANSWER_TOKENS_DEFAULT);
    asked.map_or(longest, |asked| asked.min(longest))
}

/// The client's deadline, from its header.
fn deadline_ms(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(DEADLINE_HEADER) else { return Ok(None) };
    let ms = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok()).filter(|ms| *ms > 0);
    ms.map(Some).ok_or_else(|| {
        let shown = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let message =
            format!("the header {DEADLINE_HEADER} is {shown:?}, but it must be milliseconds from 1 upwards");
        ApiError::field(DEADLINE_HEADER, message)
    })
}

/// Unique over all replicas that share a ledger, and not to be guessed.
pub(super) fn request_id(prefix: &str) -> String {
    let mut random = [0u8; 16];
    if let Err(error) = getrandom::fill(&mut random) {
        // Ids then stay unique within this process, but not among replicas.
        tracing::error!(%error, "the system gives no random numbers; request ids can be guessed");
        random = fallback_id();
    }
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}-{hex}")
}

/// Time and a count.
fn fallback_id() -> [u8; 16] {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    (u128::from(unix_s()) << 64 | u128::from(count)).to_be_bytes()
}

/// The response leaves with the first text, so what fails before that has a status of its own.
async fn streamed(mut answer: sse::Answer) -> Response {
    loop {
        match answer.flow.next().await {
            Some(FlowEvent::Decided(decided)) => {
                let mut response = sse::response(answer, &decided);
                wire::insert_decided(response.headers_mut(), &decided);
                return response;
            }
            Some(FlowEvent::Failed(failure)) => return failed(&failure),
            Some(FlowEvent::Delta(_) | FlowEvent::Finished(_)) => {}
            None => return ended_early(),
        }
    }
}

async fn whole(mut flow: FlowStream, mut shape: Box<dyn Shape>, held: Held) -> Response {
    let mut collected = Collected::default();
    while let Some(event) = flow.next().await {
        match event {
            FlowEvent::Decided(decided) => shape.set_model(decided.model),
            FlowEvent::Delta(delta) => collected.add(delta),
            FlowEvent::Failed(failure) => return failed(&failure),
            FlowEvent::Finished(outcome) => {
                let body = shape.whole(&collected, &outcome);
                let json = HeaderValue::from_static("application/json");
                let mut response = ([(header::CONTENT_TYPE, json)], body).into_response();
                wire::insert_outcome(response.headers_mut(), &outcome);
                drop(held);
                return response;
            }
        }
    }
    ended_early()
}

fn failed(failure: &Failure) -> Response {
    let mut response = ApiError::from(&failure.error).into_response();
    wire::insert_outcome(response.headers_mut(), &failure.outcome);
    response
}

/// A flow always ends with `Finished` or `Failed`; this is for the type's sake.
fn ended_early() -> Response {
    ApiError::new(500, "internal_error", "the request ended without an answer").into_response()
}
