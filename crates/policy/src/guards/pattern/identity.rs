//! Numbers of papers: social security, passports, driver's licences.

use super::bank::is_number_tail;
use super::text::{Groups, Match, Text, alnum, digit};
use super::{Recogniser, Trigger};

/// US social security numbers.
pub const US_SSN: Recogniser = Recogniser {
    entity: "us_ssn",
    about: "US social security numbers that can have been issued",
    trigger: Trigger::Digit,
    is_default: true,
    match_at: ssn_at,
};

/// Passport numbers, where the text speaks of a passport.
pub const PASSPORT: Recogniser = Recogniser {
    entity: "passport",
    about: "passport-like numbers where a passport is spoken of",
    trigger: Trigger::Word,
    is_default: true,
    match_at: |text, start| document_at(text, start, &PASSPORT_RULE),
};

/// Driver's licence numbers, where the text speaks of one.
pub const DRIVER_LICENSE: Recogniser = Recogniser {
    entity: "us_driver_license",
    about: "numbers where a driver's licence is spoken of",
    trigger: Trigger::Word,
    is_default: true,
    match_at: |text, start| document_at(text, start, &LICENSE_RULE),
};

/// What a document's number looks like.
struct Rule {
    context: &'static [&'static str],
    digits_min: usize,
    bytes_min: usize,
    bytes_max: usize,
}

const PASSPORT_RULE: Rule =
    Rule { context: &["passport", "reisepass", "pasaporte"], digits_min: 6, bytes_min: 7, bytes_max: 9 };
const LICENSE_RULE: Rule = Rule {
    context: &[
        "driver's license",
        "driver license",
        "drivers license",
        "driving licen",
        "driver's licen",
        "dl#",
    ],
    digits_min: 3,
    bytes_min: 5,
    bytes_max: 16,
};

fn ssn_at(text: &Text<'_>, start: usize) -> Match {
    if !text.byte(start).is_some_and(digit) || is_number_tail(text, start) {
        return Match::No;
    }
    let groups = Groups::read(text, start, b"- .", 10);
    if groups.is_open && groups.digits.len() < 10 {
        return Match::More;
    }
    let (count, score) = match groups.sizes().as_slice() {
        [3, 2, 4, ..] if groups.separators.first() == groups.separators.get(1) => (3, 0.95),
        [9, ..] if text.mentions(start, &["ssn", "social security", "social-security"]) => (1, 0.8),
        _ => return Match::No,
    };
    let (Some((_, end)), [a, b, c, d, e, f @ ..]) = (groups.ends.get(count - 1), groups.digits.as_slice())
    else {
        return Match::No;
    };
    let area = u16::from(*a) * 100 + u16::from(*b) * 10 + u16::from(*c);
    let issued = area != 0 && area != 666 && area < 900 && (*d, *e) != (0, 0);
    let serial = f.iter().take(4).any(|digit| *digit != 0);
    let goes_on = text.byte(*end) == Some(b'-') && groups.ends.len() > count;
    if issued && serial && !goes_on { text.ending(*end, score, alnum) } else { Match::No }
}

fn document_at(text: &Text<'_>, start: usize, rule: &Rule) -> Match {
    if !text.byte(start).is_some_and(alnum) || text.follows(start, |byte| alnum(byte) || byte == b'-') {
        return Match::No;
    }
    let end = text.run(start, |byte| alnum(byte) || byte == b'-', rule.bytes_max + 1);
    if text.is_open(end) && end - start <= rule.bytes_max {
        return Match::More;
    }
    let word = text.bytes.get(start..end).unwrap_or_default();
    let digits = word.iter().filter(|byte| digit(**byte)).count();
    let is_number = (rule.bytes_min..=rule.bytes_max).contains(&word.len()) && digits >= rule.digits_min;
    let shouts = word.iter().all(|byte| !byte.is_ascii_lowercase());
    if is_number && shouts && text.mentions(start, rule.context) {
        Match::Yes { end, score: 0.7 }
    } else {
        Match::No
    }
}
