//! Typed placeholders in place of values, and back: [`Vault`] and [`Restorer`].
//!
//! A value gets the same placeholder wherever it stands in a conversation: numbers are given in the order of the
//! messages, so the next request, which repeats them, gives the same ones again, and nothing has to be kept.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::json_text::unescaped;
use super::pattern::Span;

/// Longest placeholder, bytes; what may become one is held back that far.
pub const PLACEHOLDER_BYTES_MAX: usize = 48;

/// The values that were replaced, and their placeholders.
#[derive(Clone, Debug, Default)]
pub struct Vault {
    /// Placeholder by entity and value.
    placeholders: HashMap<(&'static str, String), String>,
    /// How many values each entity has.
    counts: HashMap<&'static str, usize>,
    /// Value by placeholder, of those that may be restored.
    restorable: HashMap<String, String>,
    /// Placeholders that stand in the texts already: they are nobody's.
    taken: Vec<String>,
}

impl Vault {
    /// Notes placeholders that a text holds by itself, so that none is given to a value.
    pub fn avoid(&mut self, text: &str) {
        self.taken.extend(placeholders(text).map(|range| text[range].to_owned()));
    }

    /// The placeholder of a value; `restores`: whether it is put back in answers.
    pub fn placeholder(&mut self, entity: &'static str, value: &str, restores: bool) -> String {
        let key = (entity, value.to_owned());
        let placeholder = match self.placeholders.get(&key) {
            Some(placeholder) => placeholder.clone(),
            None => {
                let placeholder = self.next(entity);
                self.placeholders.insert(key, placeholder.clone());
                placeholder
            }
        };
        if restores {
            self.restorable.insert(placeholder.clone(), value.to_owned());
        }
        placeholder
    }

    fn next(&mut self, entity: &'static str) -> String {
        loop {
            let count = self.counts.entry(entity).or_default();
            *count += 1;
            let placeholder = format!("<{}_{count}>", entity.to_ascii_uppercase());
            if !self.taken.contains(&placeholder) {
                return placeholder;
            }
        }
    }

    /// `text` with placeholders in place of the spans, which are in order and do not overlap. `in_json`: the text is
    /// JSON, and values are what its escapes stand for.
    pub fn redact(
        &mut self,
        text: &str,
        spans: &[(Range<usize>, &'static str)],
        restores: bool,
        in_json: bool,
    ) -> String {
        let mut redacted = String::with_capacity(text.len());
        let mut from = 0;
        for (range, entity) in spans {
            redacted.push_str(text.get(from..range.start).unwrap_or_default());
            let value = text.get(range.clone()).unwrap_or_default();
            let value = if in_json { Cow::Owned(unescaped(value)) } else { Cow::Borrowed(value) };
            redacted.push_str(&self.placeholder(entity, &value, restores));
            from = range.end;
        }
        redacted.push_str(text.get(from..).unwrap_or_default());
        redacted
    }

    /// Whether answers may hold something to restore.
    pub fn has_restorable(&self) -> bool {
        !self.restorable.is_empty()
    }

    /// Whether anything was replaced.
    pub fn is_empty(&self) -> bool {
        self.placeholders.is_empty()
    }

    /// The value of a placeholder that was given out.
    fn value(&self, placeholder: &str) -> Option<&str> {
        self.restorable.get(placeholder).map(String::as_str)
    }
}

/// Spans of one text as [`Vault::redact`] takes them.
pub fn ranges(spans: &[Span]) -> Vec<(Range<usize>, &'static str)> {
    spans.iter().map(|span| (span.range(), span.entity)).collect()
}

/// Where placeholders stand in a text, anybody's.
pub fn placeholders(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices('<').filter_map(|(at, _)| Some(at..placeholder_end(text, at)?))
}

/// Where the placeholder ends that begins at `at`: `<`, capitals, digits and underscores, `>`.
fn placeholder_end(text: &str, at: usize) -> Option<usize> {
    let rest = text.get(at + 1..)?;
    let name = rest.bytes().take(PLACEHOLDER_BYTES_MAX).take_while(|byte| is_name(*byte)).count();
    (name > 0 && rest.as_bytes().get(name) == Some(&b'>')).then_some(at + name + 2)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'
}

/// Puts values back into an answer that comes in pieces. Placeholders that were not given out stay.
#[derive(Clone, Debug, Default)]
pub struct Restorer {
    pending: String,
    /// Whether values go into a JSON string.
    in_json: bool,
}

impl Restorer {
    /// For text that is a piece of a JSON string, such as the arguments of a tool's call.
    pub fn in_json() -> Self {
        Restorer { pending: String::new(), in_json: true }
    }

    /// Takes a piece in; gives what may leave.
    pub fn push(&mut self, piece: &str, vault: &Vault) -> String {
        self.pending.push_str(piece);
        self.advance(vault, false)
    }

    /// Gives the rest.
    pub fn finish(&mut self, vault: &Vault) -> String {
        self.advance(vault, true)
    }

    fn advance(&mut self, vault: &Vault, is_end: bool) -> String {
        let mut out = String::with_capacity(self.pending.len());
        let mut from = 0;
        while let Some(offset) = self.pending[from..].find('<') {
            let at = from + offset;
            out.push_str(&self.pending[from..at]);
            from = at;
            if let Some(end) = placeholder_end(&self.pending, at) {
                let placeholder = &self.pending[at..end];
                match vault.value(placeholder) {
                    Some(value) if self.in_json => out.push_str(&escaped(value)),
                    value => out.push_str(value.unwrap_or(placeholder)),
                }
                from = end;
            } else if !is_end && may_become_placeholder(&self.pending[at..]) {
                break;
            } else {
                out.push('<');
                from = at + 1;
            }
        }
        if !self.pending[from..].starts_with('<') {
            out.push_str(&self.pending[from..]);
            from = self.pending.len();
        }
        self.pending.drain(..from);
        out
    }
}

fn may_become_placeholder(rest: &str) -> bool {
    rest.len() < PLACEHOLDER_BYTES_MAX && rest.bytes().skip(1).all(is_name)
}

/// As it stands in a JSON string.
fn escaped(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_has_one_placeholder_and_a_placeholder_one_value() {
        let mut vault = Vault::default();
        let text = "mail a@b.org and c@d.org and a@b.org";
        let spans: Vec<_> = [5..12, 17..24, 29..36].into_iter().map(|range| (range, "email")).collect();
        assert_eq!(vault.redact(text, &spans, true, false), "mail <EMAIL_1> and <EMAIL_2> and <EMAIL_1>");
        assert_eq!(vault.placeholder("phone", "a@b.org", true), "<PHONE_1>");
        let mut restorer = Restorer::default();
        assert_eq!(restorer.push("<EMAIL_2> or <EMAIL_3>, 1 < 2 <", &vault), "c@d.org or <EMAIL_3>, 1 < 2 ");
        assert_eq!(restorer.finish(&vault), "<");
    }

    #[test]
    fn placeholders_that_stand_in_a_text_are_given_to_nobody() {
        let mut vault = Vault::default();
        vault.avoid("what does <EMAIL_1> mean? <b>");
        assert_eq!(vault.placeholder("email", "a@b.org", true), "<EMAIL_2>");
        assert_eq!(Restorer::default().push("<EMAIL_1><EMAIL_2>", &vault), "<EMAIL_1>a@b.org");
    }

    #[test]
    fn what_is_not_to_be_restored_stays_away() {
        let mut vault = Vault::default();
        vault.placeholder("email", "a@b.org", false);
        assert!(!vault.has_restorable() && !vault.is_empty());
        assert_eq!(Restorer::default().push("<EMAIL_1>.", &vault), "<EMAIL_1>.");
    }

    #[test]
    fn values_in_json_are_escaped() {
        let mut vault = Vault::default();
        vault.placeholder("pattern", "a\"b\n", true);
        assert_eq!(Restorer::in_json().push("{\"to\":\"<PATTERN_1>\"}", &vault), r#"{"to":"a\"b\n"}"#);
    }

    proptest! {
        #[test]
        fn redacting_and_restoring_gives_the_text_back(
            words in proptest::collection::vec("[a-z<>_A-Z0-9]{1,6}", 1..8),
            secret in proptest::collection::vec(any::<bool>(), 8), cuts in proptest::collection::vec(1usize..5, 0..60),
        ) {
            let mut vault = Vault::default();
            vault.avoid(&words.join(" "));
            let (mut text, mut spans) = (String::new(), Vec::new());
            for (word, secret) in words.iter().zip(&secret) {
                let from = text.len();
                text.push_str(word);
                if *secret {
                    spans.push((from..text.len(), "email"));
                }
                text.push(' ');
            }
            let redacted = vault.redact(&text, &spans, true, false);
            let (mut restorer, mut restored, mut rest) = (Restorer::default(), String::new(), redacted.as_str());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                restored.push_str(&restorer.push(piece, &vault));
                rest = after;
            }
            restored.push_str(&restorer.push(rest, &vault));
            restored.push_str(&restorer.finish(&vault));
            prop_assert_eq!(restored, text);
        }
    }
}
