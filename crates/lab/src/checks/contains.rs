//! `contains`: the answer holds a given text somewhere, runs of white space counting as one space.

use std::sync::Arc;

use super::{Check, Judged, Kind, Tools, Verdict, at_once};
use crate::rows::{FieldError, Fields};

/// The kind.
pub const KIND: Kind = Kind { name: "contains", what: "a text that holds it", read };

#[derive(Clone, Debug)]
struct ContainsCheck {
    wanted: String,
    ignores_case: bool,
}

impl ContainsCheck {
    fn folded(&self, text: &str) -> String {
        let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if self.ignores_case { joined.to_lowercase() } else { joined }
    }
}

impl Check for ContainsCheck {
    fn judge<'a>(&'a self, judged: Judged<'a>, _: &'a Tools) -> Verdict<'a> {
        at_once(self.folded(judged.answer).contains(&self.wanted))
    }
}

fn read(fields: Fields) -> Result<Arc<dyn Check>, FieldError> {
    fields.only(&["kind", "answer", "ignore_case"])?;
    let ignores_case = fields.optional("ignore_case", "true or false")?.unwrap_or(false);
    let mut check = ContainsCheck { wanted: String::new(), ignores_case };
    check.wanted = check.folded(&fields.answer("answer")?);
    if check.wanted.is_empty() {
        return Err(fields.wrong("answer", "is empty"));
    }
    Ok(Arc::new(check))
}

#[cfg(test)]
mod tests {
    use super::super::tests::is_right;

    #[test]
    fn the_text_may_stand_anywhere() {
        let check = r#"{"kind":"contains","answer":"New  York"}"#;
        assert!(is_right(check, "It is New\nYork City."));
        assert!(!is_right(check, "It is new york."));
        assert!(is_right(r#"{"kind":"contains","answer":"New York","ignore_case":true}"#, "It is new york."));
    }
}
