//! `regex`: a pattern matches the answer somewhere. Matching takes time linear in the answer's length, so there
//! are neither look-around nor back-references.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::{Check, Judged, Kind, Tools, Verdict, at_once};
use crate::rows::{FieldError, Fields};

/// The kind.
pub const KIND: Kind = Kind { name: "regex", what: "what a pattern matches", read };

/// Bytes that a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
struct RegexCheck(Regex);

impl Check for RegexCheck {
    fn judge<'a>(&'a self, judged: Judged<'a>, _: &'a Tools) -> Verdict<'a> {
        at_once(self.0.is_match(judged.answer))
    }
}

fn read(fields: Fields) -> Result<Arc<dyn Check>, FieldError> {
    fields.only(&["kind", "answer", "ignore_case"])?;
    let pattern = fields.answer("answer")?;
    let ignores_case = fields.optional("ignore_case", "true or false")?.unwrap_or(false);
    let mut builder = RegexBuilder::new(&pattern);
    let built = builder.size_limit(PATTERN_BYTES_MAX).case_insensitive(ignores_case).build();
    // Its message takes several lines to point at the place.
    let line = |error: regex::Error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(Arc::new(RegexCheck(built.map_err(|error| fields.wrong("answer", line(error)))?)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::is_right;

    #[test]
    fn patterns_match_anywhere_and_wrong_ones_are_refused() {
        let check = r#"{"kind":"regex","answer":"(?m)^\\d{4}$"}"#;
        assert!(is_right(check, "In\n1999\n.") && !is_right(check, "In 1999."));
        assert!(is_right(r#"{"kind":"regex","answer":"yes","ignore_case":true}"#, "YES"));
        for pattern in ["(", "(?=a)", "(a{1000}){1000}"] {
            let object = serde_json::json!({"kind": "regex", "answer": pattern});
            let error = super::super::read(object.as_object().unwrap()).unwrap_err();
            assert!(error.to_string().starts_with("`check.answer`"), "{error}");
        }
    }
}
