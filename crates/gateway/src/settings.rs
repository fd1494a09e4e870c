//! What an operator can set about the server: [`GatewaySettings`], the `[server]` table.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize, Serializer};

use crate::flow::FlowLimits;
use crate::memory::{ANSWER_TOKEN_BYTES, BODY_COST, CONNECTION_BYTES};

/// An API key that clients must send. It shows as `***` wherever it is printed or serialised.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key as it stands in the configuration.
    pub fn new(key: impl Into<String>) -> Self {
        ApiKey(key.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for ApiKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// The server's settings. Every queue, buffer and wait has its limit here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// Address and port to listen on; port 0 takes a free one. Loopback unless set otherwise.
    pub listen: SocketAddr,
    /// Keys of which clients must send one; none: no key is needed.
    pub api_keys: Vec<ApiKey>,
    /// Origins whose pages may call the server from a browser, or `*`; none: no CORS headers.
    pub cors: Vec<String>,
    /// Most tokens a request may ask for; also the limit of requests that name none.
    pub request_tokens_max: Option<u32>,
    /// Most bytes of a request's body.
    pub request_bytes_max: usize,
    /// Most bytes that connections, requests and their answers hold together; further requests get 429.
    pub http_bytes_max: usize,
    /// Most bytes of text of one answer.
    pub answer_bytes_max: usize,
    /// Most requests that are answered at the same time.
    pub concurrent_max: usize,
    /// Most requests that wait for a place; further ones get 429.
    pub queue_max: usize,
    /// Most connections; further ones wait unaccepted.
    pub connections_max: usize,
    /// Longest time from a request's arrival to its last byte.
    pub request_timeout_ms: u64,
    /// Longest time a client may take to send a request's head.
    pub header_timeout_ms: u64,
    /// Longest time a client may take to send a request's body.
    pub body_timeout_ms: u64,
    /// Longest time past a request's deadline that a client may leave its stream unread.
    pub stall_timeout_ms: u64,
    /// Longest time that running requests get to finish at shutdown.
    pub drain_timeout_ms: u64,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        GatewaySettings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            api_keys: Vec::new(),
            cors: Vec::new(),
            request_tokens_max: None,
            request_bytes_max: 4 << 20,
            http_bytes_max: 512 << 20,
            answer_bytes_max: 16 << 20,
            concurrent_max: 32,
            queue_max: 256,
            connections_max: 1024,
            request_timeout_ms: 600_000,
            header_timeout_ms: 15_000,
            body_timeout_ms: 60_000,
            stall_timeout_ms: 10_000,
            drain_timeout_ms: 30_000,
        }
    }
}

/// A setting that can't work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("server.{field}: {problem}")]
pub struct SettingsError {
    /// The setting's name.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl GatewaySettings {
    /// Checks what the types can't: zero limits, empty keys, origins that are none.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let wrong =
            |field: &'static str, problem: &str| Err(SettingsError { field, problem: problem.to_owned() });
        let limits: [(&'static str, u64); 8] = [
            ("request_bytes_max", self.request_bytes_max as u64),
            ("answer_bytes_max", self.answer_bytes_max as u64),
            ("concurrent_max", self.concurrent_max as u64),
            ("connections_max", self.connections_max as u64),
            ("request_timeout_ms", self.request_timeout_ms),
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("request_tokens_max", u64::from(self.request_tokens_max.unwrap_or(1))),
        ];
        if let Some((field, _)) = limits.iter().find(|(_, value)| *value == 0) {
            return wrong(field, "is 0; give at least 1");
        }
        if self.concurrent_max > tokio::sync::Semaphore::MAX_PERMITS
            || self.connections_max > tokio::sync::Semaphore::MAX_PERMITS
        {
            return wrong("concurrent_max", "or connections_max is beyond any machine; give a smaller one");
        }
        // One request with one token of an answer.
        let one = self.request_bytes_max.saturating_mul(BODY_COST).saturating_add(ANSWER_TOKEN_BYTES);
        let least = self.connections_max.saturating_mul(CONNECTION_BYTES).saturating_add(one);
        if self.http_bytes_max < least {
            return wrong(
                "http_bytes_max",
                &format!(
                    "is {}, but connections_max × {CONNECTION_BYTES} and request_bytes_max × {BODY_COST} are \
                     {least}; give that much, or less to those two",
                    self.http_bytes_max
                ),
            );
        }
        let visible = |key: &ApiKey| !key.0.is_empty() && key.0.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.api_keys.iter().all(visible) {
            return wrong("api_keys", "holds a key that is empty or not of visible ASCII characters");
        }
        let origin = |origin: &String| {
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            origin == "*"
                || host.is_some_and(|host| {
                    !host.is_empty()
                        && !host.contains(['/', '*'])
                        && host.bytes().all(|byte| byte.is_ascii_graphic())
                })
        };
        match self.cors.iter().find(|candidate| !origin(candidate)) {
            Some(bad) => {
                wrong("cors", &format!("{bad:?} is no origin; write \"https://host[:port]\" or \"*\""))
            }
            None => Ok(()),
        }
    }

    /// The part of the limits that holds for requests without HTTP too.
    pub fn flow_limits(&self) -> FlowLimits {
        FlowLimits {
            concurrent_max: self.concurrent_max,
            queue_max: self.queue_max,
            request_timeout_ms: self.request_timeout_ms,
            answer_bytes_max: self.answer_bytes_max,
            ..FlowLimits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_stay_on_this_machine() {
        let settings = GatewaySettings::default();
        assert_eq!(settings.validate(), Ok(()));
        assert!(settings.listen.ip().is_loopback());
    }

    #[test]
    fn keys_are_never_shown() {
        let settings =
            GatewaySettings { api_keys: vec![ApiKey::new("sk-secret")], ..GatewaySettings::default() };
        assert!(!format!("{settings:?}").contains("secret"));
        assert!(!serde_json::to_string(&settings).unwrap().contains("secret"));
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let field = |change: fn(&mut GatewaySettings)| {
            let mut settings = GatewaySettings::default();
            change(&mut settings);
            settings.validate().unwrap_err().field
        };
        assert_eq!(field(|s| s.concurrent_max = 0), "concurrent_max");
        assert_eq!(field(|s| s.http_bytes_max = 1 << 20), "http_bytes_max");
        assert_eq!(field(|s| s.connections_max = 1 << 50), "http_bytes_max");
        assert_eq!(field(|s| s.request_tokens_max = Some(0)), "request_tokens_max");
        assert_eq!(field(|s| s.api_keys = vec![ApiKey::new("")]), "api_keys");
        assert_eq!(field(|s| s.api_keys = vec![ApiKey::new("a b")]), "api_keys");
        assert_eq!(field(|s| s.cors = vec!["example.org".into()]), "cors");
        assert_eq!(field(|s| s.cors = vec!["https://example.org/path".into()]), "cors");
    }

    #[test]
    fn unknown_settings_are_refused() {
        let error = serde_json::from_str::<GatewaySettings>(r#"{"listn":"127.0.0.1:1"}"#).unwrap_err();
        assert!(error.to_string().contains("listn"), "{error}");
    }
}
