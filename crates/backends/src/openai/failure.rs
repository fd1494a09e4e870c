//! What can go wrong with an upstream, in [`FailureKind`]s and sentences: [`Faults`].
//!
//! Messages name the host and what to check. They never hold the API key: whatever an upstream says
//! passes through [`Faults::quote`].

use std::error::Error;
use std::time::{Duration, SystemTime};

use contract::{BackendError, FailureKind};
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::settings::{OpenaiSettings, from};

/// Most of an error's body that is read, bytes.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// Most of an upstream's words that are passed on, characters.
const QUOTE_CHARS_MAX: usize = 500;
/// Longest `retry-after` that is passed on, seconds.
const RETRY_AFTER_S_MAX: u64 = 86_400;
/// What servers write, in lower case, when prompt plus answer are too long, if they give no code.
const TOO_LONG_WORDS: [&str; 5] = [
    "maximum context length",
    "maximum model length",
    "model's context length",
    "context size",
    "context window",
];

/// An upstream's own description of an error.
#[derive(Debug, Default)]
struct Described {
    message: String,
    /// `code` and `type`, in lower case, for what they are worth.
    words: String,
    /// The HTTP status that some servers repeat in `code`.
    status: Option<u16>,
}

/// A time limit, for the sentence that says it passed.
#[derive(Clone, Copy)]
pub(super) struct TimeLimit {
    /// Its length, milliseconds.
    pub(super) ms: u64,
    /// What the upstream did or did not do.
    pub(super) what: &'static str,
    /// The setting to change.
    pub(super) setting: &'static str,
}

/// Makes errors that speak of one upstream.
pub(super) struct Faults<'a> {
    pub(super) settings: &'a OpenaiSettings,
    pub(super) host: &'a str,
}

impl Faults<'_> {
    /// An error of the upstream: `the upstream HOST` and then `what`.
    pub(super) fn upstream(&self, what: &str) -> BackendError {
        self.of(FailureKind::Upstream, what)
    }

    /// A time limit that passed.
    pub(super) fn timeout(&self, limit: TimeLimit) -> BackendError {
        let TimeLimit { ms, what, setting } = limit;
        self.of(FailureKind::Timeout, &format!("{what} within {ms} ms (`{setting}`)"))
    }

    /// A failed exchange below HTTP: DNS, TCP, TLS, a cut connection.
    pub(super) fn transport(&self, error: &reqwest::Error) -> BackendError {
        let cause = self.quote(&innermost(error));
        if error.is_timeout() {
            let ms = self.settings.connect_timeout_ms;
            let (what, setting) = ("gave no connection", "connect_timeout_ms");
            return self.timeout(TimeLimit { ms, what, setting });
        }
        if error.is_connect() {
            let advice = if cause.contains("certificate") {
                "check its certificate; the variable SSL_CERT_FILE can name the file of a private CA"
            } else {
                "check that it runs and that the URL is right"
            };
            return self.upstream(&format!("can't be reached: {cause}; {advice}"));
        }
        self.upstream(&format!("broke the connection: {cause}"))
    }

    /// An answer with a status other than 2xx.
    pub(super) async fn status(&self, mut response: Response) -> BackendError {
        let status = response.status();
        let retry_after_s = retry_after(response.headers(), SystemTime::now());
        if status.is_redirection() {
            let to = response.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            let to = self.quote(to);
            let what = format!("redirects to {to}, which is not followed; put the final URL in the settings");
            return self.upstream(&what);
        }
        let mut body = Vec::new();
        let limit = Duration::from_millis(self.settings.idle_timeout_ms);
        // What has come when the time is up says enough.
        let _ = tokio::time::timeout(limit, read_error_body(&mut response, &mut body)).await;
        let json = serde_json::from_slice::<Value>(&body).ok();
        let described = json.and_then(|body| describe(&body).or_else(|| describe_detail(&body)));
        let described = described.unwrap_or_else(|| Described {
            message: plain_text(response.headers(), &body),
            ..Described::default()
        });
        BackendError { retry_after_s, ..self.classify(status, &described) }
    }

    /// An error object that came with status 200, whole or in the middle of a stream; `None` if
    /// `value` holds none.
    pub(super) fn in_answer(&self, value: &Value) -> Option<BackendError> {
        let described = describe(value)?;
        let status = described.status.and_then(|status| StatusCode::from_u16(status).ok());
        let guess = || match &described.words {
            words if words.contains("rate_limit") => StatusCode::TOO_MANY_REQUESTS,
            words if words.contains("invalid_request") => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Some(self.classify(status.unwrap_or_else(guess), &described))
    }

    fn classify(&self, status: StatusCode, described: &Described) -> BackendError {
        let said = self.quote(&described.message);
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let (kind, what) = match status.as_u16() {
            400 | 413 | 422 if is_too_long(status, described) => {
                (FailureKind::TooLong, format!("says the request is too long{said}"))
            }
            400 | 422 => (FailureKind::BadInput, format!("refused the request{said}")),
            401 | 403 => {
                let key = match &self.settings.api_key {
                    Some(_) => format!("our API key{}", from(&self.settings.api_key_source)),
                    None => "a request without an API key".to_owned(),
                };
                (FailureKind::Upstream, format!("refused {key} (HTTP {}){said}", status.as_u16()))
            }
            404 => {
                let model = &self.settings.model;
                let what = format!("knows no model `{model}` or has no such path (HTTP 404){said}");
                (FailureKind::Upstream, what)
            }
            408 => (FailureKind::Timeout, format!("gave up waiting (HTTP 408){said}")),
            429 => (FailureKind::Busy, format!("is busy or limits us (HTTP 429){said}")),
            code => (FailureKind::Upstream, format!("failed (HTTP {code}){said}")),
        };
        self.of(kind, &what)
    }

    fn of(&self, kind: FailureKind, what: &str) -> BackendError {
        BackendError::new(kind, format!("the upstream {} {what}", self.host))
    }

    /// The upstream's words made fit to be shown: one line, not too long, without the key.
    pub(super) fn quote(&self, text: &str) -> String {
        let masked = self.settings.api_key.as_ref().map(|key| key.mask(text));
        let text = masked.as_deref().unwrap_or(text);
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut quote: String = line.chars().filter(|c| !c.is_control()).take(QUOTE_CHARS_MAX).collect();
        if quote.len() < line.len() {
            quote.push('…');
        }
        quote
    }
}

async fn read_error_body(response: &mut Response, body: &mut Vec<u8>) {
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = ERROR_BODY_BYTES_MAX - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if body.len() == ERROR_BODY_BYTES_MAX {
            break;
        }
    }
}

fn is_too_long(status: StatusCode, described: &Described) -> bool {
    let message = described.message.to_lowercase();
    status == StatusCode::PAYLOAD_TOO_LARGE
        || described.words.contains("context_length_exceeded")
        || described.words.contains("exceed_context_size")
        || TOO_LONG_WORDS.iter().any(|words| message.contains(words))
}

/// Reads the shapes of OpenAI (`{"error": {…}}`), older vLLM (`{"object": "error", …}`) and those
/// who write `{"error": "…"}`.
fn describe(body: &Value) -> Option<Described> {
    let error = match body.get("error") {
        Some(error) if !error.is_null() => error,
        _ if body.get("object").and_then(Value::as_str) == Some("error") => body,
        _ => return None,
    };
    if let Some(message) = error.as_str() {
        return Some(Described { message: message.to_owned(), ..Described::default() });
    }
    let message = error.get("message").and_then(Value::as_str);
    let words = ["code", "type"].map(|field| error.get(field).and_then(Value::as_str).unwrap_or_default());
    Some(Described {
        message: message.map_or_else(|| error.to_string(), str::to_owned),
        words: words.join(" ").to_lowercase(),
        status: error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()),
    })
}

/// Reads FastAPI's shape, `{"detail": …}`.
fn describe_detail(body: &Value) -> Option<Described> {
    let detail = body.get("detail")?;
    let message = detail.as_str().map_or_else(|| detail.to_string(), str::to_owned);
    Some(Described { message, ..Described::default() })
}

/// A body that is no JSON, as far as a person can read it.
fn plain_text(headers: &HeaderMap, body: &[u8]) -> String {
    if is_html(headers) { "(an HTML page)".to_owned() } else { String::from_utf8_lossy(body).into_owned() }
}

/// Whether the answer is a web page: a wrong URL or a proxy in between.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    content_type(headers).starts_with("text/html")
}

/// The content type in lower case; empty if there is none.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get("content-type").and_then(|value| value.to_str().ok());
    value.unwrap_or_default().trim().to_ascii_lowercase()
}

/// Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or an HTTP date).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let milliseconds = header("retry-after-ms").and_then(|value| value.parse::<f64>().ok());
    let seconds = milliseconds.map(|milliseconds| milliseconds / 1e3).or_else(|| {
        let value = header("retry-after")?;
        value.parse::<f64>().ok().or_else(|| {
            let date = httpdate::parse_http_date(value).ok()?;
            Some(date.duration_since(now).map_or(0.0, |wait| wait.as_secs_f64()))
        })
    })?;
    seconds.is_finite().then(|| (seconds.max(0.0).ceil() as u64).min(RETRY_AFTER_S_MAX))
}

/// The deepest cause, where the operating system or the TLS library says what happened.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Secret;

    fn settings() -> OpenaiSettings {
        OpenaiSettings {
            api_key: Some(Secret::new("sk-secret")),
            api_key_source: Some("the variable LARGE_KEY".into()),
            ..OpenaiSettings::new("http://host", "big")
        }
    }

    fn classify(status: u16, body: Value) -> BackendError {
        let settings = settings();
        let faults = Faults { settings: &settings, host: "host" };
        faults.classify(StatusCode::from_u16(status).unwrap(), &describe(&body).unwrap_or_default())
    }

    #[test]
    fn statuses_become_kinds() {
        let nothing = || json!({});
        for (status, kind) in [
            (400, FailureKind::BadInput),
            (422, FailureKind::BadInput),
            (401, FailureKind::Upstream),
            (403, FailureKind::Upstream),
            (404, FailureKind::Upstream),
            (408, FailureKind::Timeout),
            (413, FailureKind::TooLong),
            (429, FailureKind::Busy),
            (500, FailureKind::Upstream),
            (503, FailureKind::Upstream),
        ] {
            assert_eq!(classify(status, nothing()).kind, kind, "{status}");
        }
        assert!(classify(404, nothing()).message.contains("`big`"));
        assert!(classify(401, nothing()).message.contains("(from the variable LARGE_KEY)"));
    }

    #[test]
    fn too_long_is_told_from_other_bad_input() {
        for body in [
            json!({"error": {"message": "x", "code": "context_length_exceeded"}}),
            json!({"error": {"message": "x", "type": "exceed_context_size_error", "code": 400}}),
            json!({"object": "error", "message": "This model's maximum context length is 4096 tokens."}),
        ] {
            assert_eq!(classify(400, body.clone()).kind, FailureKind::TooLong, "{body}");
        }
        let other = json!({"error": {"message": "temperature must be at most 2"}});
        assert_eq!(
            classify(400, other).message,
            "the upstream host refused the request: temperature must be at most 2"
        );
    }

    #[test]
    fn errors_within_answers_are_found_and_classified() {
        let settings = settings();
        let faults = Faults { settings: &settings, host: "host" };
        for (body, kind) in [
            (json!({"error": "boom"}), FailureKind::Upstream),
            (json!({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}), FailureKind::Busy),
            (json!({"error": {"message": "no", "code": 400}}), FailureKind::BadInput),
            (json!({"object": "error", "message": "no", "code": 503}), FailureKind::Upstream),
        ] {
            assert_eq!(faults.in_answer(&body).unwrap().kind, kind, "{body}");
        }
        assert_eq!(faults.in_answer(&json!({"choices": [], "error": null})), None);
    }

    #[test]
    fn quotes_hide_the_key_and_are_short() {
        let error = classify(401, json!({"error": {"message": "Incorrect key:\n sk-secret."}}));
        assert!(error.message.ends_with("Incorrect key: ***."), "{error}");
        let long = classify(400, json!({"error": "x".repeat(10_000)}));
        assert!(long.message.chars().count() < QUOTE_CHARS_MAX + 100);
    }

    #[test]
    fn retry_after_is_seconds_milliseconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        let read = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("retry-after", "7"), Some(7));
        assert_eq!(read("retry-after", "0.2"), Some(1));
        assert_eq!(read("retry-after-ms", "1500"), Some(2));
        assert_eq!(read("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(read("retry-after", "Sun, 06 Nov 1983 08:49:37 GMT"), Some(0));
        assert_eq!(read("retry-after", "1e30"), Some(RETRY_AFTER_S_MAX));
        for garbage in ["soon", "NaN", "inf", ""] {
            assert_eq!(read("retry-after", garbage), None, "{garbage}");
        }
    }
}
