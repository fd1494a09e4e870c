//! Which web pages may send requests. Without API keys, any page open in a browser on this machine could
//! post to the server and spend its owner's money, even though it can't read the answer; a browser
//! says in `Origin` where a request comes from. Where keys are needed a page would have to know one.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::routes::App;
use crate::settings::GatewaySettings;
use crate::wire::ApiError;

/// Lets requests in that come from no page, from the server's own, or from a listed origin.
pub(crate) async fn require(State(app): State<App>, request: Request, next: Next) -> Response {
    if *request.method() == Method::POST && !allowed(request.headers(), &app.settings) {
        let message = "pages of this origin may not use the server; list the origin in server.cors, or set \
                       server.api_keys";
        return ApiError::new(403, "origin_not_allowed", message).into_response();
    }
    next.run(request).await
}

fn allowed(headers: &HeaderMap, settings: &GatewaySettings) -> bool {
    if !settings.api_keys.is_empty() {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = host.is_some_and(|host| {
        origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) == Some(host)
    });
    own || settings.cors.iter().any(|listed| listed == "*" || listed == origin)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::settings::ApiKey;

    fn check(origin: Option<&'static str>, settings: &GatewaySettings) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8080"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        allowed(&headers, settings)
    }

    #[test]
    fn foreign_pages_are_kept_out_unless_listed_or_keys_are_needed() {
        let plain = GatewaySettings::default();
        assert!(check(None, &plain));
        assert!(check(Some("http://127.0.0.1:8080"), &plain));
        for foreign in ["https://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1:8080.evil"]
        {
            assert!(!check(Some(foreign), &plain), "{foreign}");
        }
        let listed =
            GatewaySettings { cors: vec!["https://app.example".into()], ..GatewaySettings::default() };
        assert!(check(Some("https://app.example"), &listed));
        assert!(!check(Some("https://evil.example"), &listed));
        let keyed = GatewaySettings { api_keys: vec![ApiKey::new("k")], ..GatewaySettings::default() };
        assert!(check(Some("https://evil.example"), &keyed));
    }
}
