//! `/`: one self-contained page that shows what the server has done, and the figures it reads.

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

use super::App;
use crate::wire;

const PAGE: &str = include_str!("dashboard.html");
/// The page runs its own script and style and talks to its own server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                      connect-src 'self'; frame-ancestors 'none'";

pub(super) async fn page() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE)).into_response()
}

pub(super) async fn figures(State(app): State<App>) -> Response {
    wire::json(app.flow.board().figures())
}
