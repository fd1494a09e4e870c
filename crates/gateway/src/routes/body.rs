//! Reading a request's body within its limits: [`read`].

use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use tokio::time::{Duration, timeout};

use crate::memory::{BODY_COST, Charge};
use crate::settings::GatewaySettings;
use crate::wire::ApiError;

/// Most bytes of a body that is too long anyway which are read and thrown away, so that the client
/// gets to see the answer: a connection closed under a sending client is reset, answer and all.
const DISCARD_BYTES_MAX: usize = 2 << 30;
/// Longest time spent on that.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

/// Reads the whole body, charged as it comes.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    (settings, charge): (&GatewaySettings, &mut Charge),
) -> Result<Vec<u8>, ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|value| *value != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
        let message = format!("content-encoding {encoding:?} is not supported; send the body as it is");
        return Err(ApiError::new(415, "unsupported_encoding", message));
    }
    let bytes_max = settings.request_bytes_max;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|declared: u64| declared > bytes_max as u64) {
        // A client that asks first (curl does) sends nothing once it has its answer.
        if !headers.contains_key(header::EXPECT) {
            discard(body).await;
        }
        return Err(too_large(bytes_max));
    }
    let limit = Duration::from_millis(settings.body_timeout_ms);
    timeout(limit, collect(body, (bytes_max, charge))).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} ms", settings.body_timeout_ms);
        Err(ApiError::new(408, "body_timeout", message))
    })
}

async fn collect(body: Body, (bytes_max, charge): (usize, &mut Charge)) -> Result<Vec<u8>, ApiError> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece
            .map_err(|error| ApiError::new(400, "body_unreadable", format!("the body broke off: {error}")))?;
        if bytes.len() + piece.len() > bytes_max {
            discard(Body::from_stream(stream)).await;
            return Err(too_large(bytes_max));
        }
        if let Err(refused) = charge.take(piece.len() * BODY_COST) {
            drop(bytes);
            discard(Body::from_stream(stream)).await;
            return Err(refused);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

async fn discard(body: Body) {
    let mut left = DISCARD_BYTES_MAX;
    let mut stream = body.into_data_stream();
    let throw_away = async {
        while let Some(Ok(piece)) = stream.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                break;
            }
        }
    };
    // What is still coming after that time is cut off with the connection.
    let _ = timeout(DISCARD_TIME_MAX, throw_away).await;
}

fn too_large(bytes_max: usize) -> ApiError {
    let message = format!("the body is longer than {bytes_max} bytes (request_bytes_max)");
    ApiError::new(413, "request_too_large", message)
}
