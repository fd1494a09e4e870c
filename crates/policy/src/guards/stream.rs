//! Guarding text while it is written: [`Window`] holds back what may still become a match, and nothing else.
//!
//! What leaves is, whatever the pieces, what [`Window`] makes of the whole text at once. Ordinary prose is held
//! back up to the last space or so; a match that has begun, until it is decided. The bounds: a number, address or
//! word 2 KiB, a run of base64 or hexadecimal 4 KiB, a token of three parts 12 KiB, a private key 16 KiB, an expression of
//! the user's [`MATCH_BYTES_MAX`](super::pattern::MATCH_BYTES_MAX) bytes.

use super::canonical::{Canonical, folded};
use super::pattern::{CONTEXT_BYTES, Scanner, Span, Text, join_two};

/// Bytes of folded text that are kept before they are forgotten in one go.
const KEPT_BYTES_MAX: usize = 4096;

/// What leaves a window, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text without a match.
    Clean(String),
    /// A match: what it is, and the original's bytes.
    Match {
        /// What it is, how sure, and where it is in all that was pushed, bytes of the original.
        span: Span,
        /// The text.
        value: String,
    },
}

/// Text on its way through a scanner.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// The original, from `forgotten` on.
    original: String,
    canonical: Canonical,
    /// Bytes of the original that were forgotten.
    forgotten: usize,
    /// The first byte of `canonical` that is not decided.
    decided: usize,
    /// The first byte of `original` that has not left.
    left: usize,
    /// Matches that are not closed: a later one may overlap them. In bytes of `canonical`.
    open: Vec<Span>,
}

impl Window {
    /// For a piece of JSON's text, whose escapes are seen as what they stand for, and never cut in two.
    pub fn of_json() -> Self {
        Window { canonical: Canonical::of_json(), ..Window::default() }
    }

    /// Takes a piece in; gives what may leave.
    pub fn push(&mut self, piece: &str, scanner: &Scanner) -> Vec<Piece> {
        self.original.push_str(piece);
        self.canonical.push(piece);
        let out = self.advance(scanner, false);
        self.forget();
        out
    }

    /// Gives the rest. Afterwards the window is at its beginning again.
    pub fn finish(&mut self, scanner: &Scanner) -> Vec<Piece> {
        self.canonical.finish();
        let out = self.advance(scanner, true);
        *self = Window { canonical: self.canonical.anew(), ..Window::default() };
        out
    }

    /// Bytes that are held back.
    pub fn held_bytes(&self) -> usize {
        self.original.len() - self.left
    }

    fn advance(&mut self, scanner: &Scanner, is_end: bool) -> Vec<Piece> {
        let mut out = Vec::new();
        let length = self.canonical.text().len();
        let mut found = Vec::new();
        while self.decided < length {
            let text = Text { bytes: self.canonical.text().as_bytes(), is_end };
            found.clear();
            if scanner.at(&text, self.decided, &mut found) {
                break;
            }
            found.sort_by_key(|span| std::cmp::Reverse(span.end));
            for span in found.drain(..) {
                self.add(span);
            }
            self.decided += 1;
            self.close(&mut out, false);
        }
        self.close(&mut out, is_end);
        let undecided = if is_end && self.decided >= length {
            self.original.len()
        } else {
            self.canonical.origin(self.decided)
        };
        let clean =
            self.open.first().map_or(undecided, |span| self.canonical.origin(span.start).min(undecided));
        self.leave(clean, &mut out);
        out
    }

    /// Adds a match; they come in the order of their starts.
    fn add(&mut self, span: Span) {
        let rest = match self.open.last_mut() {
            Some(last) if span.start < last.end => join_two(last, span),
            _ => Some(span),
        };
        self.open.extend(rest);
    }

    /// Lets go of matches that no later one can overlap.
    fn close(&mut self, out: &mut Vec<Piece>, is_end: bool) {
        while let Some(first) = self.open.first()
            && (is_end || first.end <= self.decided)
        {
            let span = self.open.remove(0);
            let range = self.canonical.span(&self.original, span.start..span.end);
            self.leave(range.start, out);
            // Two matches never share a character, but may touch within what folded to several.
            let start = range.start.max(self.left);
            let value = self.original.get(start..range.end).unwrap_or_default().to_owned();
            self.left = range.end.max(self.left);
            let (start, end) = (start + self.forgotten, range.end + self.forgotten);
            out.push(Piece::Match { span: Span { start, end, ..span }, value });
        }
    }

    /// Lets clean text leave up to byte `end` of `original`.
    fn leave(&mut self, end: usize, out: &mut Vec<Piece>) {
        let text = self.original.get(self.left..end).unwrap_or_default();
        if text.is_empty() {
            return;
        }
        match out.last_mut() {
            Some(Piece::Clean(before)) => before.push_str(text),
            _ => out.push(Piece::Clean(text.to_owned())),
        }
        self.left = end;
    }

    /// Drops what has left, but for what bears on the next match.
    fn forget(&mut self) {
        let decided = self.open.first().map_or(self.decided, |span| span.start.min(self.decided));
        let mut bytes = decided.saturating_sub(CONTEXT_BYTES);
        if bytes < KEPT_BYTES_MAX {
            return;
        }
        while !self.canonical.text().is_char_boundary(bytes) {
            bytes -= 1;
        }
        let gone = self.canonical.forget(bytes);
        self.original.drain(..gone);
        self.forgotten += gone;
        self.left -= gone;
        self.decided -= bytes;
        for span in &mut self.open {
            span.start -= bytes;
            span.end -= bytes;
        }
    }
}

/// The matches of a whole text, in bytes of the original: the fast way to what a [`Window`] finds.
pub fn scan(scanner: &Scanner, original: &str) -> Vec<Span> {
    if original.is_ascii() {
        return scanner.scan(original);
    }
    // Most texts hold nothing, and then no way back is needed.
    if scanner.scan(&folded(original)).is_empty() {
        return Vec::new();
    }
    let mut canonical = Canonical::default();
    canonical.push(original);
    let mut spans = scanner.scan(canonical.text());
    for span in &mut spans {
        let range = canonical.span(original, span.range());
        (span.start, span.end) = (range.start, range.end);
    }
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scanner() -> Scanner {
        let patterns = ["k+".to_owned(), r"\bEMP-\d+\b".to_owned()];
        let entities: Vec<String> =
            crate::guards::pattern::known_entities().iter().map(|name| (*name).to_owned()).collect();
        Scanner::new(&entities, (&patterns, &["geheim".to_owned()]), 0.5).unwrap()
    }

    fn builtin() -> Scanner {
        Scanner::new(&[], (&[], &[]), 0.5).unwrap()
    }

    /// Neighbouring clean pieces joined.
    fn normal(pieces: Vec<Piece>) -> Vec<Piece> {
        let mut normal: Vec<Piece> = Vec::new();
        for piece in pieces {
            match (normal.last_mut(), piece) {
                (Some(Piece::Clean(before)), Piece::Clean(text)) => before.push_str(&text),
                (_, piece) => normal.push(piece),
            }
        }
        normal
    }

    /// The twin: the whole text at once.
    fn whole(scanner: &Scanner, text: &str) -> Vec<Piece> {
        let (mut pieces, mut from) = (Vec::new(), 0);
        for span in scan(scanner, text) {
            pieces.push(Piece::Clean(text[from..span.start].to_owned()));
            from = span.end;
            pieces.push(Piece::Match { value: text[span.range()].to_owned(), span });
        }
        pieces.push(Piece::Clean(text[from..].to_owned()));
        pieces.retain(|piece| *piece != Piece::Clean(String::new()));
        normal(pieces)
    }

    fn streamed(scanner: &Scanner, text: &str, cuts: &[usize]) -> Vec<Piece> {
        let (mut window, mut pieces, mut rest) = (Window::default(), Vec::new(), text);
        for cut in cuts.iter().cycle() {
            let cut = rest.char_indices().map(|(at, _)| at).nth(*cut).unwrap_or(rest.len());
            let (piece, after) = rest.split_at(cut);
            pieces.extend(window.push(piece, scanner));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        pieces.extend(window.finish(scanner));
        normal(pieces)
    }

    #[test]
    fn prose_is_held_back_by_a_word() {
        let (scanner, mut window) = (builtin(), Window::default());
        let text =
            "The quick brown fox jumps over the lazy dog, and then (slowly) it turns around. ".repeat(200);
        for letter in text.chars() {
            window.push(letter.encode_utf8(&mut [0; 4]), &scanner);
            assert!(window.held_bytes() <= 8, "{} bytes are held back", window.held_bytes());
            assert!(window.original.len() <= 2 * KEPT_BYTES_MAX);
        }
    }

    #[test]
    fn a_private_key_is_held_back_whole_and_one_without_end_to_the_limit() {
        let (scanner, mut window) = (builtin(), Window::default());
        let frame = "see -----BEGIN PRIVATE KEY-----\n";
        let mut pieces = window.push(frame, &scanner);
        for _ in 0..3000 {
            pieces.extend(window.push("aAbBcCdD ", &scanner));
        }
        pieces.extend(window.finish(&scanner));
        let first = normal(pieces).into_iter().nth(1);
        assert!(
            matches!(first, Some(Piece::Match { ref value, .. }) if value.len() == 16 << 10),
            "{first:?}"
        );
    }

    fn confetti() -> impl Strategy<Value = String> {
        let pieces = vec![
            "jane@example",
            ".org",
            "4111 1111",
            " 1111 1111",
            "-",
            "+49 30",
            " 901820",
            " ",
            "call ",
            "192.168.0.1",
            "-----BEGIN PRIVATE KEY-----",
            "-----END PRIVATE KEY-----",
            "k",
            "geheim",
            "GEHEIM",
            "\u{200B}",
            "ｊ",
            "о",
            "eyJhbGciOiJIUzI1NiJ9",
            ".",
            "d3JpdGUgdG8gamFuZUBleGFtcGxlLm9yZyBub3c=",
            "EMP-1",
            "https://",
            "x.de",
            "é",
            "AKIAIOSFODNN7EXAMPLE",
            "DE89 3704 0044 0532 0130 00",
            "١",
            "536-90-4399",
            "\n",
            "jane%40example.org",
            "%40",
            "%2",
            "%",
        ];
        let piece =
            prop_oneof![5 => proptest::sample::select(pieces).prop_map(str::to_owned), 1 => "\\PC{0,3}"];
        proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_pieces_give_what_the_whole_gives(
            text in confetti(), cuts in proptest::collection::vec(1usize..9, 1..8), filler in 0usize..3,
        ) {
            let scanner = scanner();
            let text = format!("{}{text}", "lorem ipsum dolor ".repeat(filler * 150));
            let streamed = streamed(&scanner, &text, &cuts);
            prop_assert_eq!(&streamed, &whole(&scanner, &text), "{}", text);
        }

        #[test]
        fn json_in_pieces_is_what_the_whole_is(
            text in confetti(), escapes in proptest::collection::vec(0usize..9, 1..9),
            cuts in proptest::collection::vec(1usize..5, 1..8), tail in "(\\\\u?[0-9]{0,3})?",
        ) {
            let scanner = scanner();
            // Some characters are written as escapes.
            let mut json = String::new();
            for (letter, escape) in text.chars().zip(escapes.iter().cycle()) {
                let mut units = [0; 2];
                match escape {
                    0..=2 => letter.encode_utf16(&mut units).iter().for_each(|unit| json += &format!("\\u{unit:04x}")),
                    _ if letter == '\n' => json += "\\n",
                    _ => json.push(letter),
                }
            }
            json += &tail;
            let (mut window, mut pieces, mut rest) = (Window::of_json(), Vec::new(), json.as_str());
            for cut in cuts.iter().cycle() {
                let cut = rest.char_indices().map(|(at, _)| at).nth(*cut).unwrap_or(rest.len());
                let (piece, after) = rest.split_at(cut);
                pieces.extend(window.push(piece, &scanner));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            pieces.extend(window.finish(&scanner));
            let (mut expected, mut from) = (Vec::new(), 0);
            for span in crate::guards::json_text::scan_json(&scanner, &json) {
                expected.push(Piece::Clean(json[from..span.start].to_owned()));
                from = span.end;
                expected.push(Piece::Match { value: json[span.range()].to_owned(), span });
            }
            expected.push(Piece::Clean(json[from..].to_owned()));
            expected.retain(|piece| *piece != Piece::Clean(String::new()));
            prop_assert_eq!(normal(pieces), normal(expected), "{}", json);
        }

        #[test]
        fn nothing_of_a_match_leaves_before_it_is_known(text in confetti(), cuts in proptest::collection::vec(1usize..5, 1..8)) {
            let scanner = scanner();
            let clean: String = streamed(&scanner, &text, &cuts).iter().map(|piece| match piece {
                Piece::Clean(text) => text.as_str(),
                Piece::Match { .. } => "\u{FFFC}",
            }).collect();
            let expected: String = whole(&scanner, &text).iter().map(|piece| match piece {
                Piece::Clean(text) => text.as_str(),
                Piece::Match { .. } => "\u{FFFC}",
            }).collect();
            prop_assert_eq!(clean, expected);
        }
    }
}
