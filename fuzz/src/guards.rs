//! Guards over a stream of text: nothing panics, and however the text is cut, what leaves is what the whole text
//! would have become.

use std::sync::LazyLock;

use policy::guards::pattern::{Scanner, known_entities};
use policy::guards::stream::{Piece, Window, scan};

use crate::{Seed, Target};

/// The target. An input is a byte that says how to cut, and the text.
pub const TARGET: Target = Target {
    name: "guards",
    run,
    seeds: &[
        Seed::Bytes(
            "\u{1}mail jane.o'neil@example.org, call +49 (0)30 901820, card 4111 1111 1111 1111".as_bytes(),
        ),
        Seed::Bytes(
            b"\x02DE89 3704 0044 0532 0130 00 192.168.0.1 fe80::1 https://example.org/x?y 536-90-4399",
        ),
        Seed::Bytes(
            b"\x03-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY----- AKIAIOSFODNN7EXAMPLE geheim",
        ),
        Seed::Bytes("\u{4}d3JpdGUgdG8gamFuZUBleGFtcGxlLm9yZyBub3c= j\u{200B}ohn＠ехаmple.org".as_bytes()),
    ],
    words: &[
        b"@",
        b".",
        b":",
        b"::",
        b"//",
        b"+",
        b"(",
        b")",
        b"-----",
        b"-----BEGIN ",
        b"PRIVATE KEY",
        b"eyJ",
        b"sk-",
        b"=",
        b"x12",
        b" ext. 3",
        b"phone ",
        b"passport ",
        b"\xc2\xad",
        b"\xe2\x80\x8b",
        b"\xef\xbc\xa0",
        b"geheim",
        b"bc1",
    ],
};

static SCANNER: LazyLock<Option<Scanner>> = LazyLock::new(|| {
    let entities: Vec<String> = known_entities().into_iter().map(str::to_owned).collect();
    Scanner::new(&entities, (&["a+b".to_owned()], &["geheim".to_owned()]), 0.5).ok()
});

fn run(data: &[u8]) {
    let (rest, pieces) = crate::cut(data);
    let text = String::from_utf8_lossy(rest);
    let scanner = SCANNER.as_ref().expect("the scanner's settings are right");
    let mut window = Window::default();
    let mut left = Vec::new();
    let mut unread: &str = &text;
    for length in pieces.iter().map(|piece| piece.len()).chain([usize::MAX]) {
        let mut end = length.min(unread.len());
        while !unread.is_char_boundary(end) {
            end += 1;
        }
        let (piece, after) = unread.split_at(end);
        left.extend(window.push(piece, scanner));
        unread = after;
    }
    left.extend(window.finish(scanner));
    let spans = left.iter().filter_map(|piece| match piece {
        Piece::Match { span, .. } => Some(span.clone()),
        Piece::Clean(_) => None,
    });
    assert_eq!(spans.collect::<Vec<_>>(), scan(scanner, &text));
    let whole = left.iter().map(|piece| match piece {
        Piece::Match { value, .. } => value.as_str(),
        Piece::Clean(text) => text.as_str(),
    });
    assert_eq!(whole.collect::<String>(), text);
}
