//! JSON as text for checks: escapes stand for what they mean, so that `\u0040` is found as `@`, and nothing that is
//! replaced cuts one in two.

use std::ops::Range;

use super::canonical::Canonical;
use super::pattern::{Scanner, Span};
use super::stream::scan;

/// JSON with its escapes decoded, and the way back.
pub struct Unescaped {
    /// What it stands for.
    pub text: String,
    /// For each byte of `text`, where what it stands for begins.
    origins: Vec<usize>,
    /// Bytes of the JSON.
    bytes: usize,
}

/// The matches in JSON, in its bytes, as if its escapes were what they stand for.
pub fn scan_json(scanner: &Scanner, json: &str) -> Vec<Span> {
    if !json.contains('\\') {
        return scan(scanner, json);
    }
    let mut canonical = Canonical::of_json();
    canonical.push(json);
    canonical.finish();
    let mut spans = scanner.scan(canonical.text());
    for span in &mut spans {
        let range = canonical.span(json, span.range());
        (span.start, span.end) = (range.start, range.end);
    }
    spans
}

/// What a piece of JSON's text stands for.
pub fn unescaped(json: &str) -> String {
    Unescaped::new(json).text
}

impl Unescaped {
    /// Of a piece of JSON's text.
    pub fn new(json: &str) -> Self {
        let mut all =
            Unescaped { text: String::with_capacity(json.len()), origins: Vec::new(), bytes: json.len() };
        let mut at = 0;
        while let Some(letter) = json.get(at..).and_then(|rest| rest.chars().next()) {
            let (meant, width) = match letter {
                '\\' => escape(&json[at..]),
                letter => (letter, letter.len_utf8()),
            };
            all.text.push(meant);
            all.origins.resize(all.text.len(), at);
            at += width;
        }
        all
    }

    /// Where a span of the text is in the JSON, whole escapes.
    pub fn origin(&self, span: Range<usize>) -> Range<usize> {
        let origin = |at: usize| self.origins.get(at).copied().unwrap_or(self.bytes);
        origin(span.start)..origin(span.end)
    }
}

/// What the escape at the beginning of `json` stands for, and its length. What is none stands for itself.
pub(super) fn escape(json: &str) -> (char, usize) {
    let letter = match json.as_bytes().get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(letter @ (b'"' | b'\\' | b'/')) => char::from(*letter),
        Some(b'u') => return unicode(json).unwrap_or(('\\', 1)),
        _ => return ('\\', 1),
    };
    (letter, 2)
}

/// Whether what follows decides what the escape at the beginning of `json` stands for.
pub(super) fn may_go_on(json: &str) -> bool {
    let digits = match json.as_bytes() {
        [b'\\'] => return true,
        [b'\\', b'u', digits @ ..] => digits,
        _ => return false,
    };
    let known = digits.iter().take(4).take_while(|byte| byte.is_ascii_hexdigit()).count();
    if known < 4 {
        return known == digits.len();
    }
    let first = json.get(2..6).and_then(|unit| u16::from_str_radix(unit, 16).ok());
    let rest = digits.get(4..).unwrap_or_default();
    let fits = |(place, byte): (usize, &u8)| match place {
        0 => *byte == b'\\',
        1 => *byte == b'u',
        _ => byte.is_ascii_hexdigit(),
    };
    // Two units may be one character.
    first.is_some_and(|unit| (0xD800..0xDC00).contains(&unit))
        && rest.len() < 6
        && rest.iter().enumerate().all(fits)
}

/// `\u` with four digits, or two of them that are one character together.
fn unicode(json: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
    };
    let first = unit(0)?;
    if let Some(letter) = char::from_u32(first.into()) {
        return Some((letter, 6));
    }
    let pair = char::decode_utf16([first, unit(6)?]).next()?.ok()?;
    Some((pair, 12))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scanner() -> Scanner {
        Scanner::new(&[], (&[], &[]), 0.5).unwrap()
    }

    #[test]
    fn escapes_are_seen_through_and_stay_whole() {
        for (json, found) in [
            (r#"{"to":"jane\u0040example.org"}"#, r"jane\u0040example.org"),
            (r#"{"text":"Hi\njane@example.org\nbye"}"#, "jane@example.org"),
            (r#"{"iban":"DE89\u00203704 0044 0532 0130 00"}"#, r"DE89\u00203704 0044 0532 0130 00"),
            (r#"{"to":"\u006a@b.org"}"#, r"\u006a@b.org"),
        ] {
            let spans = scan_json(&scanner(), json);
            assert_eq!(spans.iter().map(|span| &json[span.range()]).collect::<Vec<_>>(), [found], "{json}");
        }
        assert_eq!(unescaped(r"a\u0040b\n\ud83d\ude00\\ \x \u12"), "a@b\n😀\\ \\x \\u12");
    }

    proptest! {
        #[test]
        fn what_is_written_as_json_is_read_back(text in "\\PC{0,20}[\\n\"\\\\]{0,3}\\PC{0,9}") {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(unescaped(&json[1..json.len() - 1]), text);
        }

        #[test]
        fn any_text_can_be_scanned(json in "([a-c@.{}\":]|\\\\[a-z\"\\\\]?|\\\\u[0-9a-fd]{0,4}|é){0,30}") {
            let spans = scan_json(&scanner(), &json);
            prop_assert!(spans.iter().all(|span| json.get(span.range()).is_some_and(|found| !found.is_empty())));
        }
    }
}
