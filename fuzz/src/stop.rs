//! Stop strings over a stream of text: however it is cut, what leaves is what came before the stop
//! that is complete first.

use engine::stop::StopFilter;

use crate::{Seed, Target};

/// Stop strings taken from an input.
const STOPS_MAX: usize = 16;

/// The target. An input is a byte that says how to cut, stop strings separated by `|`, a line feed,
/// and the text.
pub const TARGET: Target = Target {
    name: "stop",
    run,
    seeds: &[
        Seed::Bytes(b"\x01aba|b|ab\nxabaxab"),
        Seed::Bytes(b"\x02###|\r\n\r\n|<|im_end|>\nA line\r\n## half ###rest"),
        Seed::Bytes("\u{3}é€|€😀\naé€é€😀".as_bytes()),
    ],
    words: &[b"|", b"\n", b"aba", b"ab", b"b", b"aa", b"\xc3\xa9", b"\xe2\x82", b"###"],
};

fn run(data: &[u8]) {
    let (rest, pieces) = crate::cut(data);
    let rest = String::from_utf8_lossy(rest);
    let (stops, text) = rest.split_once('\n').unwrap_or(("", &rest));
    let stops: Vec<String> = stops.split('|').take(STOPS_MAX).map(str::to_owned).collect();
    let expected = before_first_stop(text, &stops);
    let mut filter = StopFilter::new(&stops);
    let mut left = String::new();
    let mut unread = text;
    for length in pieces.iter().map(|piece| piece.len()).chain([usize::MAX]) {
        let mut end = length.min(unread.len());
        while !unread.is_char_boundary(end) {
            end += 1;
        }
        let (piece, after) = unread.split_at(end);
        left += &filter.push(piece);
        assert!(expected.unwrap_or(text).starts_with(&left), "text left that a stop string should hold");
        unread = after;
    }
    assert_eq!(filter.is_stopped(), expected.is_some());
    left += &filter.finish();
    assert_eq!(left, expected.unwrap_or(text));
}

/// What stands before the stop string that is complete first, read character by character; `None`
/// without one.
fn before_first_stop<'a>(text: &'a str, stops: &[String]) -> Option<&'a str> {
    let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
    let mut read = ends.map(|end| &text[..end]);
    read.find_map(|read| {
        let complete = stops.iter().filter(|stop| !stop.is_empty());
        complete.filter_map(|stop| read.strip_suffix(stop.as_str())).min_by_key(|before| before.len())
    })
}
