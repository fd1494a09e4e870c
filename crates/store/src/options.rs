//! What a [`Store`](crate::Store) can be told: [`Options`].

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::Catalogue;

/// How a store fetches. `Options::default()` is right for nearly everyone.
#[derive(Clone, Debug)]
pub struct Options {
    /// The models known by name.
    pub catalogue: Catalogue,
    /// The Python interpreter whose pip fetches packages.
    pub python: PathBuf,
    /// Where the Hugging Face Hub is: scheme and host, no trailing slash.
    pub hub_endpoint: String,
    /// A token for gated and private repositories; sent to `hub_endpoint` only.
    pub hub_token: Option<Token>,
    /// Longest time to reach a host.
    pub connect_timeout: Duration,
    /// Longest silence of a host while it sends.
    pub read_timeout: Duration,
    /// Longest time for one Python package.
    pub package_timeout: Duration,
    /// Longest wait for another process that fetches the same model.
    pub lock_timeout: Duration,
    /// Attempts in a row without progress before a source is given up.
    pub attempts_max: u32,
    /// Pause before the second attempt; doubled before each further one.
    pub retry_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            catalogue: Catalogue::builtin(),
            python: "python3".into(),
            hub_endpoint: "https://huggingface.co".to_owned(),
            hub_token: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            package_timeout: Duration::from_secs(30 * 60),
            lock_timeout: Duration::from_secs(60 * 60),
            attempts_max: 4,
            retry_delay: Duration::from_millis(500),
        }
    }
}

impl Options {
    /// The pause after `failures` attempts in a row that brought nothing.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        const DOUBLINGS_MAX: u32 = 5;
        self.retry_delay.saturating_mul(1 << failures.saturating_sub(1).min(DOUBLINGS_MAX))
    }
}

/// A secret that does not show in logs.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Token(secret.into())
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let options = Options { retry_delay: Duration::from_millis(10), ..Options::default() };
        let pauses: Vec<u128> = [1, 2, 3, 6, 60, u32::MAX].map(|n| options.pause(n).as_millis()).to_vec();
        assert_eq!(pauses, [10, 20, 40, 320, 320, 320]);
    }

    #[test]
    fn a_token_does_not_show() {
        let options = Options { hub_token: Some(Token::new("secret")), ..Options::default() };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
