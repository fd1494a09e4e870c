//! Telephone numbers: international ones, North American ones, and others where the text speaks of a telephone.

use super::bank::is_number_tail;
use super::text::{Groups, Match, Text, alnum, digit};
use super::{Recogniser, Trigger};

/// Telephone numbers.
pub const PHONE: Recogniser = Recogniser {
    entity: "phone",
    about: "telephone numbers: international, North American, or national where a telephone is spoken of",
    trigger: Trigger::Digit,
    is_default: true,
    match_at,
};

/// Digits of the longest number by E.164, and of the international prefix 00.
const DIGITS_MAX: usize = 17;
/// Digits of the longest extension.
const EXTENSION_DIGITS_MAX: usize = 6;

/// Words before a number that make it a telephone number.
const CONTEXT: &[&str] = &[
    "phone",
    "call",
    "tel:",
    "tel.",
    "tel ",
    "tele",
    "registered",
    "mobile",
    "cell",
    "fax",
    "contact",
    "reach",
    "dial",
    "whatsapp",
    "messages to",
    "text me",
    "ring me",
    "answering at",
    "desk:",
    "office:",
    "rufnummer",
    "móvil",
    "numéro",
];

fn match_at(text: &Text<'_>, start: usize) -> Match {
    let opens = text.byte(start).is_some_and(|byte| digit(byte) || byte == b'+' || byte == b'(');
    let is_inside = is_number_tail(text, start)
        || match text.before(start) {
            Some(b'+') => true,
            // The bracket belongs to the number, unless that begins with a sign itself: `(+44) 20…`.
            Some(b'(') => text.byte(start).is_some_and(digit),
            _ => false,
        };
    if !opens || is_inside {
        return Match::No;
    }
    let Some(number) = Number::read(text, start) else {
        return if text.is_open(start + 1) || text.is_open(start + 2) { Match::More } else { Match::No };
    };
    if number.groups.is_open {
        return Match::More;
    }
    // The longest run of groups that is a number: what follows may be another one.
    let counts = (1..=number.groups.ends.len()).rev();
    let found = counts.filter_map(|count| Some((number.end(count)?, number.score(text, count)?)));
    let ends =
        |(end, _): &(usize, f32)| !text.byte(*end).is_some_and(|byte| alnum(byte) && byte | 32 != b'x');
    match found.into_iter().find(ends) {
        Some((end, score)) => extension(text, end, score),
        None => Match::No,
    }
}

/// A run of digit groups.
struct Number {
    start: usize,
    is_international: bool,
    has_bracket: bool,
    groups: Groups,
}

impl Number {
    /// Reads what may be a number: `+`, an area code in brackets, groups between single separators or a closing
    /// bracket and a space.
    fn read(text: &Text<'_>, start: usize) -> Option<Number> {
        let mut at = start;
        let is_international = text.byte(at) == Some(b'+');
        at += usize::from(is_international);
        let has_bracket = text.byte(at) == Some(b'(');
        at += usize::from(has_bracket);
        text.byte(at).filter(|byte| digit(*byte))?;
        let mut groups = Groups::read(text, at, b" .-/", DIGITS_MAX);
        // One bracket more, as in `(212) 555…` and `+44 (0)20…`.
        let end = groups.ends.last().map_or(at, |(_, end)| *end);
        let mut bracketed = has_bracket || text.before(start) == Some(b'(');
        let mut resume = None;
        if bracketed && text.byte(end) == Some(b')') {
            resume = Some(end + 1);
        } else if let Some(open) = open_bracket(text, end).filter(|_| !has_bracket) {
            bracketed = true;
            let inner = Groups::read(text, open + 1, b"", 4);
            let close = inner.ends.last().map_or(open + 1, |(_, end)| *end);
            match text.byte(close) {
                None if !text.is_end => groups.is_open = true,
                Some(b')') if !inner.ends.is_empty() => {
                    append(&mut groups, inner);
                    resume = Some(close + 1);
                }
                _ => {}
            }
        }
        if let Some(mut at) = resume {
            let separated = text.byte(at).is_some_and(|byte| b" .-".contains(&byte));
            at += usize::from(separated);
            if text.is_open(at) {
                groups.is_open = true;
            } else {
                let left = DIGITS_MAX.saturating_sub(groups.digits.len());
                append(&mut groups, Groups::read(text, at, b" .-/", left));
            }
        }
        Some(Number { start, is_international, has_bracket: bracketed, groups })
    }

    fn end(&self, count: usize) -> Option<usize> {
        self.groups.ends.get(count - 1).map(|(_, end)| *end)
    }

    /// How likely the first `count` groups are a telephone number.
    fn score(&self, text: &Text<'_>, count: usize) -> Option<f32> {
        let (total, _) = *self.groups.ends.get(count - 1)?;
        let digits = self.groups.digits.get(..total)?;
        let sizes = self.groups.sizes();
        let sizes = sizes.get(..count)?;
        if self.is_international {
            return ((8..=15).contains(&total) && is_country(digits)).then_some(1.0);
        }
        let goes_on = text.follows(self.start, |byte| byte == b' ')
            && self.start.checked_sub(1).is_some_and(|space| text.follows(space, digit));
        if let Some(rest) = digits.strip_prefix(&[0, 0])
            && !goes_on
            && (8..=15).contains(&rest.len())
            && is_country(rest)
            && sizes != [total]
        {
            return Some(0.8);
        }
        // Area codes in brackets, and pairs as in France.
        let has_trunk = digits.first() == Some(&0) && !goes_on;
        if has_trunk && (9..=12).contains(&total) && (self.opens_bracket(text) || sizes == [2; 5]) {
            return Some(0.7);
        }
        let (national, sizes) = match digits.split_first() {
            Some((1, rest)) if total == 11 && sizes.first() == Some(&1) => (rest, sizes.get(1..)?),
            _ => (digits, sizes),
        };
        let written = sizes == [3, 3, 4] || sizes == [3, 7] && self.has_bracket;
        let area = national.first().is_some_and(|d| *d >= 2) && national.get(3).is_some_and(|d| *d >= 2);
        if national.len() == 10 && written && area {
            return Some(0.9);
        }
        let may_be = (7..=15).contains(&total) && !self.is_other(sizes);
        (may_be && text.mentions(self.start, CONTEXT)).then_some(0.7)
    }

    /// Whether the number begins with a bracket.
    fn opens_bracket(&self, text: &Text<'_>) -> bool {
        text.byte(self.start) == Some(b'(')
    }

    /// Whether the groups look like a date or an IP address.
    fn is_other(&self, sizes: &[usize]) -> bool {
        let by = |separator: u8| self.groups.separators.iter().take(sizes.len() - 1).all(|s| *s == separator);
        let is_date = matches!(sizes, [4, 2, 2] | [2, 2, 4] | [1, 2, 4] | [2, 1, 4] | [1, 1, 4]);
        is_date || (sizes.len() == 4 && by(b'.') && sizes.iter().all(|size| *size <= 3))
    }
}

/// Where a bracket opens, at `end` or after one space.
fn open_bracket(text: &Text<'_>, end: usize) -> Option<usize> {
    let at = if text.byte(end) == Some(b' ') || text.byte(end) == Some(b'-') { end + 1 } else { end };
    (text.byte(at) == Some(b'(')).then_some(at)
}

fn append(groups: &mut Groups, more: Groups) {
    let before = groups.digits.len();
    if !more.ends.is_empty() {
        groups.separators.push(b')');
    }
    groups.digits.extend(more.digits);
    groups.ends.extend(more.ends.into_iter().map(|(count, end)| (count + before, end)));
    groups.separators.extend(more.separators);
    groups.is_open |= more.is_open;
}

/// Takes an extension in, such as `x123` or ` ext. 4`.
fn extension(text: &Text<'_>, end: usize, score: f32) -> Match {
    for word in [&b" ext. "[..], b" ext ", b" x", b"x", b"ext"] {
        let after = end + word.len();
        let there = text.bytes.get(end..after.min(text.bytes.len())).unwrap_or_default();
        if there.len() < word.len() {
            if !text.is_end && there.eq_ignore_ascii_case(&word[..there.len()]) {
                return Match::More;
            }
            continue;
        }
        if !there.eq_ignore_ascii_case(word) {
            continue;
        }
        let stop = text.run(after, digit, EXTENSION_DIGITS_MAX);
        if text.is_open(stop) {
            return Match::More;
        }
        if stop > after {
            return text.ending(stop, score, alnum);
        }
    }
    text.ending(end, score, alnum)
}

/// Whether the digits begin with a country code that is in use.
fn is_country(digits: &[u8]) -> bool {
    let &[first, second, third, ..] = digits else { return false };
    let three = u16::from(first) * 100 + u16::from(second) * 10 + u16::from(third);
    match (first, second) {
        (1 | 7, _) | (2, 0 | 7) => true,
        (3, 0..=4 | 6 | 9) | (4, 0 | 1 | 3..=9) | (5, 1..=8) => true,
        (6, 0..=6) | (8, 1 | 2 | 4 | 6) | (9, 0..=5 | 8) => true,
        (2, 1..=6 | 9) => !matches!(three, 210 | 214 | 215 | 217 | 219 | 259 | 292..=296),
        (3, 5 | 7 | 8) => !matches!(three, 384 | 388),
        (4, 2) => matches!(three, 420 | 421 | 423),
        (5, 0 | 9) => true,
        (6, 7..=9) => !matches!(three, 671 | 684 | 693..=699),
        (8, 0 | 5 | 7 | 8) => {
            matches!(three, 800 | 808 | 850 | 852 | 853 | 855 | 856 | 870 | 878 | 880..=883 | 886 | 888)
        }
        (9, 6 | 7 | 9) => !matches!(three, 969 | 978 | 990 | 991 | 997 | 999),
        _ => false,
    }
}
