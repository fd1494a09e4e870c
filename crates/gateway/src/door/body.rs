//! The body's bytes as a JSON object: [`parse`].

use serde_json::{Map, Value};

use crate::wire::ApiError;

/// Reads one JSON object. What can't be read is located by line, column and the field it stands at.
///
/// # Errors
/// [`ApiError`] with status 400.
pub fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let invalid = |message: String| ApiError::new(400, "invalid_json", message);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (valid, _) = bytes.split_at(error.valid_up_to());
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        invalid(format!("the body is not UTF-8: byte {} (line {line}) is not valid", error.valid_up_to()))
    })?;
    if text.trim().is_empty() {
        return Err(invalid("the body is empty; send a JSON object".to_owned()));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(invalid(format!(
            "the body is {}, but it must be a JSON object",
            super::fields::shown(&other)
        ))),
        Err(error) => {
            let field = field_before(text, error.line(), error.column());
            let at = field.as_deref().map(|field| format!(" (at the field {field:?})")).unwrap_or_default();
            let hint = if field.is_some() && (text.contains("NaN") || text.contains("Infinity")) {
                "; JSON has no NaN and no Infinity"
            } else {
                ""
            };
            let message = format!("the body is not valid JSON{at}: {error}{hint}");
            Err(ApiError { param: field, ..invalid(message) })
        }
    }
}

/// The key whose value stands at this place, if the text before it ends in `"key":`. JSON knows no
/// NaN and no Infinity, and this names the field in which a client sent one.
fn field_before(text: &str, line: usize, column: usize) -> Option<String> {
    let line_start: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    // serde_json counts bytes, and points at or just behind the offending one.
    let end = (line_start + column).min(text.len());
    let before = (0..=end).rev().find_map(|end| text.get(..end))?;
    let before =
        before.trim_end_matches(|character: char| character.is_alphanumeric() || "-+.".contains(character));
    let before = before.trim_end().strip_suffix(':')?.trim_end().strip_suffix('"')?;
    let start = before.rfind('"')? + 1;
    before.get(start..).filter(|key| !key.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(bytes: &[u8]) -> (String, Option<String>) {
        let error = parse(bytes).unwrap_err();
        assert_eq!(error.status, 400);
        (error.message, error.param)
    }

    #[test]
    fn what_is_no_json_object_is_located() {
        let (text, _) = message(b"{\"a\": 1,\n \"b\": }");
        assert!(text.contains("line 2"), "{text}");
        assert!(message(b"[1]").0.contains("must be a JSON object"));
        assert!(message(b"  ").0.contains("empty"));
        let (text, _) = message(b"{\"a\": \"\n\xff\"}");
        assert!(text.contains("not UTF-8: byte 8 (line 2)"), "{text}");
    }

    #[test]
    fn nan_and_infinity_name_their_field() {
        for value in ["NaN", "Infinity", "-Infinity", ".5", "+1"] {
            let body = format!("{{\"model\":\"auto\",\n\"temperature\" : {value}, \"x\": 1}}");
            let (text, param) = message(body.as_bytes());
            assert_eq!(param.as_deref(), Some("temperature"), "{value}: {text}");
            assert!(text.contains("temperature"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_crash_it(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_broken_json_crashes_it(text in "[{\"a:,é \n}\\[\\]N-]{0,40}") {
            let _ = parse(text.as_bytes());
        }
    }
}
