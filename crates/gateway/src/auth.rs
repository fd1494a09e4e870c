//! API keys: [`Keys`]. Keys are compared as SHA-256 digests, in constant time and over the whole
//! list, so that answering takes as long for a near miss as for a far one.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::routes::App;
use crate::settings::ApiKey;
use crate::wire::ApiError;

/// Hexadecimal digits of a key's digest that name its tenant.
const TENANT_DIGITS: usize = 16;

/// Who asks: a short hash of the key that was sent; `None` where no keys are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tenant(pub(crate) Option<String>);

/// The keys that open the server, hashed.
pub(crate) struct Keys {
    digests: Vec<[u8; 32]>,
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

impl Keys {
    pub(crate) fn new(keys: &[ApiKey]) -> Self {
        Keys { digests: keys.iter().map(|key| digest(key.expose().as_bytes())).collect() }
    }

    /// Who asks, or the error (401) to answer with.
    pub(crate) fn check(&self, method: &Method, headers: &HeaderMap) -> Result<Tenant, ApiError> {
        if self.digests.is_empty() {
            return Ok(Tenant(None));
        }
        let sent = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let bearer = sent.and_then(|sent| credentials(sent, b"bearer ")).map(<[u8]>::to_vec);
        let key = bearer.or_else(|| sent.filter(|_| method.is_safe()).and_then(basic_password));
        let Some(key) = key else {
            let message = "no API key was sent; send the header \"Authorization: Bearer <key>\"";
            return Err(ApiError::new(401, "missing_api_key", message));
        };
        let sent = digest(&key);
        let known = self.digests.iter().fold(Choice::from(0), |known, digest| known | digest.ct_eq(&sent));
        if bool::from(known) {
            let hex: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(Tenant(Some(hex.chars().take(TENANT_DIGITS).collect())));
        }
        Err(ApiError::new(401, "invalid_api_key", "the API key that was sent is not known to this server"))
    }
}

/// What follows the scheme, `b"bearer "` or so, in an `Authorization` header.
fn credentials<'a>(value: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then(|| rest.trim_ascii())
}

/// The key as a browser sends it that asked its user for a password, so that the dashboard can be
/// opened. Only for reading: browsers send it along with whatever a foreign page makes them send.
fn basic_password(value: &[u8]) -> Option<Vec<u8>> {
    let pair = STANDARD.decode(credentials(value, b"basic ")?).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

/// Lets requests in that carry a known key, and notes whose it is.
pub(crate) async fn require(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match app.keys.check(request.method(), request.headers()) {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(keys: &[&str], sent: Option<&str>) -> Result<Tenant, ApiError> {
        let keys: Vec<ApiKey> = keys.iter().map(|key| ApiKey::new(*key)).collect();
        let mut headers = HeaderMap::new();
        if let Some(sent) = sent {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(sent).unwrap());
        }
        Keys::new(&keys).check(&Method::POST, &headers)
    }

    #[test]
    fn any_known_key_opens_and_names_its_own_tenant() {
        let one = check(&["one", "two"], Some("Bearer one")).unwrap();
        let two = check(&["one", "two"], Some("bearer two ")).unwrap();
        assert_ne!(one, two);
        assert_eq!(one, check(&["one"], Some("Bearer one")).unwrap());
        assert_eq!(one.0.as_deref().map(str::len), Some(TENANT_DIGITS));
        assert_eq!(check(&[], Some("Bearer whatever")).unwrap(), Tenant(None));
    }

    #[test]
    fn browsers_may_read_with_the_key_as_password() {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", STANDARD.encode("anyone:one"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
        let keys = Keys::new(&[ApiKey::new("one")]);
        assert_eq!(keys.check(&Method::GET, &headers), check(&["one"], Some("Bearer one")));
        assert_eq!(keys.check(&Method::POST, &headers).unwrap_err().status, 401);
    }

    #[test]
    fn everything_else_is_401_and_does_not_repeat_the_key() {
        for sent in
            [None, Some("Bearer"), Some("Bearer oneX"), Some("Bearer on"), Some("Basic one"), Some("one")]
        {
            let error = check(&["one"], sent).unwrap_err();
            assert_eq!(error.status, 401, "{sent:?}");
            assert!(!error.message.contains("oneX"));
        }
    }
}
