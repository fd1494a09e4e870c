//! Errors in OpenAI's shape, `{"error":{"message","type","param","code"}}`: [`ApiError`].

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::flow::FlowError;

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// OpenAI's word for the kind of error, or ours.
    pub code: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
    /// When to try again, seconds.
    pub retry_after_s: Option<u64>,
    /// The guard that refused the request, and why.
    pub guard: Option<Box<GuardRefusal>>,
}

/// A refusal as the `tandem` object of an error tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuardRefusal {
    /// The guard's name.
    pub guard: String,
    /// What it found, without the text.
    pub reason: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tandem: Option<&'a GuardRefusal>,
}

impl ApiError {
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            code: code.to_owned(),
            param: None,
            message: message.into(),
            retry_after_s: None,
            guard: None,
        }
    }

    /// A field that is wrong (400).
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError { param: Some(param.into()), ..ApiError::new(400, "invalid_value", message) }
    }

    /// No such model (404).
    pub(crate) fn model_not_found(model: &str, known: &[String]) -> Self {
        let message = format!("the model {model:?} does not exist; this server has {}", known.join(", "));
        ApiError { param: Some("model".to_owned()), ..ApiError::new(404, "model_not_found", message) }
    }

    /// The server is going down (503).
    pub(crate) fn draining() -> Self {
        let message = "the server is shutting down and takes no new requests";
        ApiError { retry_after_s: Some(5), ..ApiError::new(503, "draining", message) }
    }

    /// OpenAI's `type` for a status.
    fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            429 => "rate_limit_error",
            502 => "upstream_error",
            503 => "service_unavailable_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The JSON body.
    pub fn body(&self) -> String {
        let fields = Fields {
            message: &self.message,
            kind: self.kind(),
            param: self.param.as_deref(),
            code: &self.code,
            tandem: self.guard.as_deref(),
        };
        // Strings always serialise.
        serde_json::to_string(&Body { error: fields }).unwrap_or_default()
    }
}

impl From<&FlowError> for ApiError {
    fn from(error: &FlowError) -> Self {
        ApiError {
            retry_after_s: error.retry_after_s(),
            guard: match error {
                FlowError::Guarded { guard, reason } => {
                    Some(Box::new(GuardRefusal { guard: guard.clone(), reason: reason.clone() }))
                }
                _ => None,
            },
            ..ApiError::new(error.status(), error.code(), error.to_string())
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/json")], self.body()).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            for challenge in ["Bearer realm=\"tandem\"", "Basic realm=\"tandem\""] {
                response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        response
    }
}

/// A JSON reply.
pub(crate) fn json<T: Serialize>(value: T) -> Response {
    Json(value).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_openais() {
        let error = ApiError::field("temperature", "temperature is \"hot\"; give a number");
        let json: serde_json::Value = serde_json::from_str(&error.body()).unwrap();
        let expected = serde_json::json!({"error": {
            "message": "temperature is \"hot\"; give a number",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_value",
        }});
        assert_eq!(json, expected);
    }
}
