//! Numbers of payment cards and bank accounts.

use super::text::{Groups, Match, Text, alnum, digit};
use super::{Recogniser, Trigger};

/// Payment cards of the big brands, with the check digit of Luhn.
pub const CREDIT_CARD: Recogniser = Recogniser {
    entity: "credit_card",
    about: "payment card numbers with a valid check digit",
    trigger: Trigger::Digit,
    is_default: true,
    match_at: card_at,
};

/// International bank account numbers, with the length of their country and the checksum of ISO 7064.
pub const IBAN: Recogniser = Recogniser {
    entity: "iban",
    about: "IBANs with a valid length and checksum",
    trigger: Trigger::Word,
    is_default: true,
    match_at: iban_at,
};

const CARD_DIGITS_MIN: usize = 12;
const CARD_DIGITS_MAX: usize = 19;

/// Whether a number that begins at `start` is the rest of a longer one.
pub(super) fn is_number_tail(text: &Text<'_>, start: usize) -> bool {
    let Some(before) = text.before(start) else { return false };
    alnum(before) || (b"-._/".contains(&before) && text.follows(start - 1, digit))
}

fn card_at(text: &Text<'_>, start: usize) -> Match {
    if !text.byte(start).is_some_and(digit) || is_number_tail(text, start) {
        return Match::No;
    }
    let groups = Groups::read(text, start, b" -", CARD_DIGITS_MAX);
    if groups.is_open {
        return Match::More;
    }
    let valid = |(count, end): &&(usize, usize)| {
        let digits = groups.digits.get(..*count).unwrap_or_default();
        let ends = !text.byte(*end).is_some_and(alnum);
        *count >= CARD_DIGITS_MIN && ends && is_brand(digits) && luhn(digits)
    };
    let found = groups.ends.iter().rev().find(valid);
    found.map_or(Match::No, |(_, end)| Match::Yes { end: *end, score: 1.0 })
}

/// Whether a brand has cards of this length that begin so.
fn is_brand(digits: &[u8]) -> bool {
    let prefix = |count: usize| digits.iter().take(count).fold(0u32, |sum, d| sum * 10 + u32::from(*d));
    let (two, three, four) = (prefix(2), prefix(3), prefix(4));
    match digits.len() {
        13 | 19 if two / 10 == 4 => true,
        14 => (300..=305).contains(&three) || matches!(two, 36 | 38 | 39),
        15 => matches!(two, 34 | 37) || matches!(four, 1800 | 2131),
        16 if two / 10 == 4 || (51..=55).contains(&two) || (2200..=2720).contains(&four) => true,
        16 if four == 6011 || (644..=659).contains(&three) || two == 35 => true,
        16..=19 if two == 62 || two == 81 || two == 65 => true,
        12..=19 => {
            matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 | 6390)
                || (56..=58).contains(&two)
        }
        _ => false,
    }
}

/// The check digit: from the right, every second digit counts double, crosswise.
fn luhn(digits: &[u8]) -> bool {
    let double = |digit: u8| if digit >= 5 { digit * 2 - 9 } else { digit * 2 };
    let worth =
        |(place, digit): (usize, &u8)| u32::from(if place % 2 == 1 { double(*digit) } else { *digit });
    digits.iter().rev().enumerate().map(worth).sum::<u32>() % 10 == 0 && digits.iter().any(|digit| *digit > 0)
}

/// Countries of the IBAN registry with their lengths.
const IBAN_LENGTHS: &str = "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28\
    EE20EG29ES24FI18FK18FO18FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32\
    LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24\
    SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20YE30";

fn iban_length(country: [u8; 2]) -> Option<usize> {
    let entry = IBAN_LENGTHS.as_bytes().chunks_exact(4).find(|entry| entry.starts_with(&country))?;
    Some(entry.iter().skip(2).fold(0, |sum, byte| sum * 10 + usize::from(byte - b'0')))
}

fn iban_at(text: &Text<'_>, start: usize) -> Match {
    if text.follows(start, alnum) || !text.byte(start).is_some_and(|byte| byte.is_ascii_alphabetic()) {
        return Match::No;
    }
    let mut letters: Vec<u8> = Vec::new();
    let mut at = start;
    let mut length = None;
    loop {
        if text.is_open(at) {
            return Match::More;
        }
        let separated = text.byte(at).is_some_and(|byte| byte == b' ' || byte == b'-') && letters.len() >= 4;
        if separated {
            at += 1;
            if text.is_open(at) {
                return Match::More;
            }
        }
        let Some(byte) = text.byte(at).filter(|byte| alnum(*byte)) else { return Match::No };
        letters.push(byte.to_ascii_uppercase());
        at += 1;
        match letters.len() {
            2 => {
                length = letters.first_chunk().and_then(|country| iban_length(*country));
                if length.is_none() {
                    return Match::No;
                }
            }
            3 | 4 if !digit(byte) => return Match::No,
            _ => {}
        }
        if Some(letters.len()) == length {
            let valid = is_iban(&letters);
            return if valid { text.ending(at, 1.0, alnum) } else { Match::No };
        }
    }
}

/// The first four go to the end, letters count from 10; the number leaves 1 of 97.
fn is_iban(letters: &[u8]) -> bool {
    let (head, tail) = letters.split_at(4.min(letters.len()));
    let remainder = tail.iter().chain(head).fold(0u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    remainder == 1
}
