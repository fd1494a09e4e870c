//! `/v1/moderations`: what the configured guards of requests find in texts, in OpenAI's shape.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use contract::{Channel, GuardAction};
use policy::guards::{Checked, Hit};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{App, answer, body};
use crate::auth::Tenant;
use crate::door::{self, Fields};
use crate::wire::{self, ApiError};

/// Most texts of one request.
const TEXTS_MAX: usize = 1024;

#[derive(Serialize)]
struct Moderation {
    id: String,
    model: &'static str,
    results: Vec<Verdict>,
}

/// One text's; the categories are the guards' names.
#[derive(Serialize)]
struct Verdict {
    flagged: bool,
    categories: Map<String, Value>,
    category_scores: Map<String, Value>,
    tandem: VerdictDetails,
}

#[derive(Serialize)]
struct VerdictDetails {
    /// The gravest action that would be taken.
    action: Option<GuardAction>,
    /// What kept guards from judging, by their names.
    #[serde(skip_serializing_if = "Map::is_empty")]
    errors: Map<String, Value>,
}

impl From<Checked> for Verdict {
    fn from(checked: Checked) -> Self {
        let by_name = |value: fn(&Hit) -> Value| {
            checked.hits.iter().map(|hit| (hit.guard.clone(), value(hit))).collect()
        };
        let error = |hit: &Hit| {
            let record = hit.verdict.as_ref()?.record.as_ref()?;
            Some((hit.guard.clone(), Value::from(record.error.clone()?)))
        };
        Verdict {
            flagged: checked.flagged(),
            categories: by_name(|hit| Value::from(hit.acts().is_some())),
            category_scores: by_name(|hit| Value::from(hit.score())),
            tandem: VerdictDetails {
                action: checked.action(),
                errors: checked.hits.iter().filter_map(error).collect(),
            },
        }
    }
}

pub(super) async fn moderate(
    State(app): State<App>,
    Extension(tenant): Extension<Tenant>,
    request: axum::extract::Request,
) -> Response {
    match try_moderate(&app, &tenant, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn try_moderate(
    app: &App,
    tenant: &Tenant,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    if app.flow.guards().is_empty() {
        let message = "no guards are configured, so there is nothing to moderate with; add a [[guard]]";
        return Err(ApiError::new(404, "no_guards", message));
    }
    let (parts, bytes) = request.into_parts();
    let mut charge = app.memory.charge();
    let bytes = body::read(&parts.headers, bytes, (&app.settings, &mut charge)).await?;
    let map = door::parse_body(&bytes)?;
    let texts = texts(Fields::new(&map, ""))?;
    let mut results = Vec::with_capacity(texts.len());
    for text in texts {
        let checked = app.flow.check(text, Channel::User, tenant.0.as_deref()).await;
        results.push(Verdict::from(checked.map_err(|error| ApiError::from(&error))?));
    }
    Ok(wire::json(Moderation { id: answer::request_id("modr"), model: "tandem-guards", results }))
}

/// `input`: a text, a list of texts, or a list of text parts.
fn texts<'a>(fields: Fields<'a>) -> Result<Vec<&'a str>, ApiError> {
    let wrong = || {
        let allowed = format!("a text, or a list of 1 to {TEXTS_MAX} texts or {{\"type\": \"text\"}} parts");
        fields.wrong("input", &allowed)
    };
    match fields.get("input") {
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(items)) if (1..=TEXTS_MAX).contains(&items.len()) => {
            let text = |item: &'a Value| match item.get("type").and_then(Value::as_str) {
                Some("text") => item.get("text").and_then(Value::as_str),
                _ => item.as_str(),
            };
            items.iter().map(text).collect::<Option<Vec<&str>>>().ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}
