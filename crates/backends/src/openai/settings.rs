//! How an upstream is reached: [`OpenaiSettings`], and the URLs made from it.

use contract::Price;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::Secret;

/// Longest time limit, milliseconds: a day.
const TIMEOUT_MS_MAX: u64 = 24 * 3600 * 1000;
/// Largest limit on a response, bytes.
const RESPONSE_BYTES_MAX: u64 = 1 << 30;

/// The field that carries the longest answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// `max_tokens`: every server knows it.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`: OpenAI's reasoning models accept only this one (chat only).
    MaxCompletionTokens,
}

/// How an OpenAI-compatible upstream is reached, what it can do, and when it is given up.
///
/// Serialised or printed, it shows no secret.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpenaiSettings {
    /// The base URL, with or without `/v1` at its end: `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name at the upstream; also its name for our clients.
    pub model: String,
    /// The key sent as `Authorization: Bearer …`.
    pub api_key: Option<Secret>,
    /// Where the key came from, in words for an error message (`the variable OPENAI_API_KEY`).
    pub api_key_source: Option<String>,
    /// What its tokens cost.
    pub price: Price,
    /// Longest prompt plus answer, if known.
    pub context_tokens: Option<u32>,
    /// Whether the upstream can stream; if not, each answer arrives as one delta.
    pub stream: bool,
    /// Whether it can tell log-probabilities. If not, a client that asks for them is refused and
    /// the policy does without.
    pub logprobs: bool,
    /// The field that carries the longest answer.
    pub max_tokens_field: MaxTokensField,
    /// Longest wait for a connection, DNS and TLS included.
    pub connect_timeout_ms: u64,
    /// Longest wait for the first byte of a streamed answer: the upstream's queue and prompt.
    pub first_byte_timeout_ms: u64,
    /// Longest pause within a streamed answer.
    pub idle_timeout_ms: u64,
    /// Longest call; the only limit on one that is not streamed.
    pub total_timeout_ms: u64,
    /// How often a failed connection is tried again. Once a request may have reached the upstream
    /// it is never repeated.
    pub connect_retries_max: u32,
    /// Largest response, bytes.
    pub response_bytes_max: usize,
}

impl OpenaiSettings {
    /// The default settings for an upstream without a key, free of charge.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        OpenaiSettings {
            url: url.into(),
            model: model.into(),
            api_key: None,
            api_key_source: None,
            price: Price::default(),
            context_tokens: None,
            stream: true,
            logprobs: true,
            max_tokens_field: MaxTokensField::default(),
            connect_timeout_ms: 5_000,
            first_byte_timeout_ms: 120_000,
            idle_timeout_ms: 60_000,
            total_timeout_ms: 600_000,
            connect_retries_max: 2,
            response_bytes_max: 64 << 20,
        }
    }

    /// Checks what can be checked without a network and gives the base URL.
    pub(super) fn validate(&self) -> Result<Url, SettingsError> {
        let base = base_url(&self.url)?;
        if self.model.trim().is_empty() {
            return Err(SettingsError::NoModel { host: authority(&base) });
        }
        let ranges = [
            ("connect_timeout_ms", self.connect_timeout_ms, TIMEOUT_MS_MAX),
            ("first_byte_timeout_ms", self.first_byte_timeout_ms, TIMEOUT_MS_MAX),
            ("idle_timeout_ms", self.idle_timeout_ms, TIMEOUT_MS_MAX),
            ("total_timeout_ms", self.total_timeout_ms, TIMEOUT_MS_MAX),
            ("response_bytes_max", self.response_bytes_max as u64, RESPONSE_BYTES_MAX),
        ];
        match ranges.into_iter().find(|(_, value, max)| !(1..=*max).contains(value)) {
            Some((name, value, max)) => Err(SettingsError::OutOfRange { name, value, max }),
            None => Ok(base),
        }
    }
}

/// Why settings can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not a URL, or not one of a web server.
    #[error("the upstream URL `{url}` can't be used: {reason}; give it like http://localhost:8000/v1")]
    Url {
        /// As given, without a query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A user name or password in the URL (an `@`). The URL is not shown.
    #[error("the upstream URL holds a user name or password; take it out and give the key as the API key")]
    Credentials,
    /// No model named.
    #[error("no model is named for the upstream at {host}; name the one it should answer with")]
    NoModel {
        /// The upstream.
        host: String,
    },
    /// The key can't stand in a header. It is not shown.
    #[error("the API key{} holds characters that can't be sent in a header; check for line breaks or quotes", from(.source_name))]
    ApiKey {
        /// Where it came from, if known.
        source_name: Option<String>,
    },
    /// A limit of nothing, or of more than can be.
    #[error("`{name}` of the upstream is {value}; it must be in 1..={max}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// As given.
        value: u64,
        /// The largest allowed.
        max: u64,
    },
    /// The HTTP client can't start.
    #[error(
        "the HTTP client for {host} can't start: {reason}; for https the system's CA certificates must be installed"
    )]
    Client {
        /// The upstream.
        host: String,
        /// What it said.
        reason: String,
    },
}

/// ` (from …)`, or nothing.
pub(super) fn from(source: &Option<String>) -> String {
    source.as_ref().map(|source| format!(" (from {source})")).unwrap_or_default()
}

/// Host and port as a person writes them: `localhost:8000`, `api.example.com`.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The URL under which `/chat/completions` lies. A path without a version segment (`v1`, `v1beta`,
/// …) gets `/v1`; a pasted endpoint is cut back to its base.
fn base_url(given: &str) -> Result<Url, SettingsError> {
    // Before anything of it is shown, also of what is no URL.
    if given.contains('@') {
        return Err(SettingsError::Credentials);
    }
    // A query may hold a key.
    let shown = given.trim().split(['?', '#']).next().unwrap_or_default();
    let refuse = |reason: &str| SettingsError::Url { url: shown.to_owned(), reason: reason.to_owned() };
    let mut url = Url::parse(given.trim()).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it must begin with http:// or https://"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("it names no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("a base URL has neither `?` nor `#`"));
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/completions").unwrap_or(path);
    let path = path.strip_suffix("/chat").unwrap_or(path).trim_end_matches('/').to_owned();
    let is_version = |segment: &str| {
        segment.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let version = if path.split('/').any(is_version) { "" } else { "/v1" };
    url.set_path(&format!("{path}{version}"));
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(url: &str) -> String {
        OpenaiSettings::new(url, "m").validate().unwrap().to_string()
    }

    #[test]
    fn base_urls_are_normalised() {
        for (given, expected) in [
            ("http://localhost:8000", "http://localhost:8000/v1"),
            ("http://localhost:8000/", "http://localhost:8000/v1"),
            (" http://localhost:8000/v1/ ", "http://localhost:8000/v1"),
            ("https://api.example.com/v1/chat/completions", "https://api.example.com/v1"),
            ("https://api.example.com/v1/completions", "https://api.example.com/v1"),
            ("https://example.com/llm", "https://example.com/llm/v1"),
            ("https://example.com/v1beta/openai/", "https://example.com/v1beta/openai"),
            ("https://example.com/vision", "https://example.com/vision/v1"),
        ] {
            assert_eq!(base(given), expected, "{given}");
        }
    }

    #[test]
    fn unusable_settings_are_named() {
        let error = |url: &str| OpenaiSettings::new(url, "m").validate().unwrap_err();
        for url in ["", "localhost", "localhost:8000", "ftp://x/v1", "http://x/v1?key=1", "http://"] {
            assert!(matches!(error(url), SettingsError::Url { .. }), "{url}: {:?}", error(url));
        }
        for url in ["http://me:hunter2@x/v1", "me:hunter2@x", "http://x/v1?key=hunter2"] {
            let shown = format!("{0} {0:?}", error(url));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let no_model = OpenaiSettings::new("http://x:1", " ").validate();
        assert_eq!(no_model, Err(SettingsError::NoModel { host: "x:1".into() }));
        for (idle_timeout_ms, refused) in [(0, true), (1, false), (TIMEOUT_MS_MAX, false), (u64::MAX, true)] {
            let settings = OpenaiSettings { idle_timeout_ms, ..OpenaiSettings::new("http://x", "m") };
            let (name, value, max) = ("idle_timeout_ms", idle_timeout_ms, TIMEOUT_MS_MAX);
            let expected = SettingsError::OutOfRange { name, value, max };
            assert_eq!(settings.validate().err(), refused.then_some(expected));
        }
    }

    #[test]
    fn printed_settings_hide_the_key() {
        let key = Some(Secret::new("sk-secret"));
        let settings = OpenaiSettings { api_key: key, ..OpenaiSettings::new("http://x", "m") };
        let shown = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
        assert!(shown.contains("***") && !shown.contains("sk-secret"), "{shown}");
    }
}
