//! E-mail addresses.

use super::text::{Match, Text, alnum};
use super::{Recogniser, Trigger};

/// E-mail addresses, also with letters beyond ASCII.
pub const EMAIL: Recogniser = Recogniser {
    entity: "email",
    about: "e-mail addresses",
    trigger: Trigger::At,
    is_default: true,
    match_at,
};

/// Longest part before the `@`, bytes.
pub const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 255;

/// Whether the byte at `at` belongs to a letter or digit of a script with spaces between words: ASCII, or two
/// bytes in UTF-8. Other scripts would join an address to the sentence before it.
fn is_word(bytes: &[u8], at: usize) -> bool {
    let is_lead = |byte: u8| (0xC3..0xE0).contains(&byte);
    match bytes.get(at) {
        Some(0x80..0xC0) => at > 0 && bytes.get(at - 1).is_some_and(|byte| is_lead(*byte)),
        Some(byte) => alnum(*byte) || is_lead(*byte),
        None => false,
    }
}

/// Whether the byte at `at` may stand before the `@`. An apostrophe may, within a word: not one that quotes.
pub fn is_local(bytes: &[u8], at: usize) -> bool {
    match bytes.get(at) {
        Some(b'\'') => at > 0 && is_word(bytes, at - 1),
        Some(b'.' | b'_' | b'%' | b'+' | b'-') => true,
        _ => is_word(bytes, at),
    }
}

fn is_label(bytes: &[u8], at: usize) -> bool {
    is_word(bytes, at) || matches!(bytes.get(at), Some(b'-' | b'_'))
}

fn match_at(text: &Text<'_>, start: usize) -> Match {
    if !is_local(text.bytes, start) || (start > 0 && is_local(text.bytes, start - 1)) {
        return Match::No;
    }
    let local = (start..start + LOCAL_BYTES_MAX + 1).take_while(|at| is_local(text.bytes, *at)).count();
    let at = start + local;
    match text.byte(at) {
        _ if local > LOCAL_BYTES_MAX => Match::No,
        None if !text.is_end => Match::More,
        Some(b'@') => domain(text, at + 1),
        _ => Match::No,
    }
}

/// The longest run of labels that ends in a top-level domain.
fn domain(text: &Text<'_>, start: usize) -> Match {
    let (mut at, mut labels, mut good) = (start, 0, None);
    loop {
        let end = at + (at..at + DOMAIN_BYTES_MAX).take_while(|at| is_label(text.bytes, *at)).count();
        if end - start > DOMAIN_BYTES_MAX {
            break;
        }
        if text.is_open(end) {
            return Match::More;
        }
        let Some(label) = text.bytes.get(at..end).filter(|label| !label.is_empty()) else { break };
        labels += 1;
        if labels > 1 && is_top_level(label) {
            good = Some(end);
        }
        if text.byte(end) != Some(b'.') {
            break;
        }
        at = end + 1;
    }
    good.map_or(Match::No, |end| Match::Yes { end, score: 1.0 })
}

fn is_top_level(label: &[u8]) -> bool {
    let letters = label.iter().all(|byte| byte.is_ascii_alphabetic() || !byte.is_ascii());
    (label.len() >= 2 && letters) || label.starts_with(b"xn--")
}
