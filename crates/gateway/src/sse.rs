//! An answer as server-sent events: [`response`].

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;

use crate::connection::{AbortGuard, Connection};
use crate::flow::{Decided, FlowEvent, FlowStream};
use crate::routes::Held;
use crate::wire::{ApiError, Shape};

/// A stream of which the first event, that it was decided, has come.
pub(crate) struct Answer {
    pub(crate) flow: FlowStream,
    pub(crate) shape: Box<dyn Shape>,
    pub(crate) connection: Option<Connection>,
    /// Cuts the connection of a client that stopped reading.
    #[expect(dead_code, reason = "held until the body is dropped")]
    pub(crate) abort: Option<AbortGuard>,
    #[expect(dead_code, reason = "held until the body is dropped")]
    pub(crate) held: Held,
}

/// Where the body stands.
struct Progress {
    answer: Answer,
    opening: Option<String>,
    over: bool,
}

/// The response whose body is the stream. Dropping it, as when the client leaves, drops the flow.
pub(crate) fn response(mut answer: Answer, decided: &Decided) -> Response {
    answer.shape.set_model(decided.model.clone());
    let opening = answer.shape.opening();
    let body = stream::unfold(Progress { answer, opening, over: false }, |mut body| async move {
        let events = body.next().await?;
        Some((Ok::<Bytes, Infallible>(Bytes::from(events)), body))
    });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would collect the events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Progress {
    /// The text of the next events; `None` after the last.
    async fn next(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        if let Some(opening) = self.opening.take() {
            return Some(event(&opening));
        }
        loop {
            match self.answer.flow.next().await {
                Some(FlowEvent::Decided(_)) => {}
                Some(FlowEvent::Delta(delta)) => {
                    if let Some(chunk) = self.answer.shape.piece(&delta) {
                        return Some(event(&chunk));
                    }
                }
                Some(FlowEvent::Finished(outcome)) => {
                    self.over = true;
                    let chunks = self.answer.shape.closing(&outcome);
                    let mut text: String = chunks.iter().map(|chunk| event(chunk)).collect();
                    text.push_str("data: [DONE]\n\n");
                    return Some(text);
                }
                Some(FlowEvent::Failed(failure)) => {
                    self.over = true;
                    if let Some(connection) = &self.answer.connection {
                        connection.close();
                    }
                    let error = ApiError::from(&failure.error).body();
                    return Some(format!("event: error\n{}", event(&error)));
                }
                None => return None,
            }
        }
    }
}

/// One event; JSON on one line needs no splitting.
fn event(json: &str) -> String {
    format!("data: {json}\n\n")
}
