//! The `x-tandem-…` response headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::flow::{Decided, Outcome};

/// Longest header value; proxies refuse heads of more than a few KiB.
const VALUE_BYTES_MAX: usize = 1024;

/// Header values are visible ASCII: signs that have an ASCII form get it, others become `?`.
fn ascii(text: &str) -> HeaderValue {
    let mut value = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '≥' => value.push_str(">="),
            '≤' => value.push_str("<="),
            '→' => value.push_str("->"),
            '…' => value.push_str("..."),
            '×' => value.push('x'),
            '·' => value.push('*'),
            '−' | '–' | '—' => value.push('-'),
            '‘' | '’' => value.push('\''),
            '“' | '”' | '„' => value.push('"'),
            ' '..='~' => value.push(character),
            character if character.is_whitespace() => value.push(' '),
            _ => value.push('?'),
        }
    }
    value.truncate(VALUE_BYTES_MAX);
    HeaderValue::from_str(value.trim()).unwrap_or(HeaderValue::from_static("?"))
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    headers.insert(HeaderName::from_static(name), ascii(value));
}

/// The id alone: all that is known before a request is decided.
pub(crate) fn insert_request_id(headers: &mut HeaderMap, id: &str) {
    insert(headers, "x-tandem-request-id", id);
}

/// What is known when a stream's first text leaves.
pub(crate) fn insert_decided(headers: &mut HeaderMap, decided: &Decided) {
    insert(headers, "x-tandem-route", decided.route.as_str());
    insert(headers, "x-tandem-model", &decided.model);
    insert(headers, "x-tandem-reason", &decided.reason);
    if let Some(confidence) = decided.confidence {
        insert(headers, "x-tandem-confidence", &format!("{confidence:.4}"));
    }
    insert(headers, "x-tandem-overhead-ms", &format!("{:.3}", decided.overhead_ms));
}

/// What is known at the end, when nothing has left yet.
pub(crate) fn insert_outcome(headers: &mut HeaderMap, outcome: &Outcome) {
    insert_request_id(headers, &outcome.request_id);
    let decided = Decided {
        route: outcome.route,
        model: outcome.model.clone().unwrap_or_else(|| "none".to_owned()),
        reason: outcome.reason.clone(),
        confidence: outcome.confidence,
        overhead_ms: outcome.overhead_ms,
    };
    insert_decided(headers, &decided);
    insert(headers, "x-tandem-cost-usd", &format!("{:.9}", outcome.cost_usd));
    insert(headers, "x-tandem-saved-usd", &format!("{:.9}", outcome.saved_usd));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_signs_keep_their_meaning() {
        assert_eq!(ascii("confidence ≥ 0.5 – “yes”\r\nx: y"), "confidence >= 0.5 - \"yes\"  x: y");
        assert_eq!(ascii("モデル"), "???");
    }

    proptest! {
        #[test]
        fn every_text_is_a_header(text in any::<String>()) {
            let value = ascii(&text);
            prop_assert!(value.to_str().is_ok());
            prop_assert!(value.len() <= VALUE_BYTES_MAX);
        }
    }
}
