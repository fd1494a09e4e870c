//! What is hidden in base64, hexadecimal or percent-encoding: the run is decoded and looked into.

use std::ops::RangeInclusive;

use super::text::{Text, alnum};
use crate::guards::canonical::folded;

/// Lengths of the runs that are decoded, bytes.
const RUN_BYTES: RangeInclusive<usize> = 24..=RUN_BYTES_MAX;
/// Longest run that is decoded, bytes.
pub const RUN_BYTES_MAX: usize = 4096;

fn is_base64(byte: u8) -> bool {
    alnum(byte) || b"+/_-".contains(&byte)
}

/// A run to be looked into.
pub enum Run {
    /// There is none.
    None,
    /// What follows decides.
    More,
    /// It ends there and says this, folded.
    Hidden {
        /// Its end.
        end: usize,
        /// The text.
        text: String,
    },
}

/// The run that begins at `start`, decoded, if it is text.
pub fn run_at(text: &Text<'_>, start: usize) -> Run {
    if text.follows(start, |byte| is_base64(byte) || byte == b'=') || !text.byte(start).is_some_and(alnum) {
        return Run::None;
    }
    let end = text.run(start, is_base64, RUN_BYTES.end() + 1);
    if end - start > *RUN_BYTES.end() {
        return Run::None;
    }
    let padded = text.run(end, |byte| byte == b'=', 2);
    if text.is_open(padded) && padded - end < 2 {
        return Run::More;
    }
    let run = text.bytes.get(start..end).unwrap_or_default();
    match decoded(run) {
        Some(hidden) => Run::Hidden { end: padded, text: folded(&hidden).into_owned() },
        None => Run::None,
    }
}

/// Bytes of a run before its first `%`, at most.
pub const PERCENT_LEAD_BYTES_MAX: usize = 64;

/// Bytes of what is percent-encoded: those that RFC 3986 leaves as they are, `%`, and `+` for a space.
pub fn is_percent(byte: u8) -> bool {
    alnum(byte) || b"-._~%+".contains(&byte)
}

/// The percent-encoded run that begins at `start`, decoded, if it is text.
pub fn percent_run_at(text: &Text<'_>, start: usize) -> Run {
    if text.follows(start, is_percent) || !text.byte(start).is_some_and(is_percent) {
        return Run::None;
    }
    let lead = text.run(start, |byte| is_percent(byte) && byte != b'%', PERCENT_LEAD_BYTES_MAX + 1);
    if lead - start > PERCENT_LEAD_BYTES_MAX {
        return Run::None;
    }
    if text.is_open(lead) {
        return Run::More;
    }
    if text.byte(lead) != Some(b'%') {
        return Run::None;
    }
    let end = text.run(start, is_percent, RUN_BYTES_MAX + 1);
    if end - start > RUN_BYTES_MAX {
        return Run::None;
    }
    if text.is_open(end) {
        return Run::More;
    }
    match percent(text.bytes.get(start..end).unwrap_or_default()) {
        Some(hidden) => Run::Hidden { end, text: folded(&hidden).into_owned() },
        None => Run::None,
    }
}

/// The text that a run stands for; `None` if nothing in it is encoded, or that is no text.
fn percent(run: &[u8]) -> Option<String> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at, mut count) = (Vec::with_capacity(run.len()), 0, 0);
    while let Some(byte) = run.get(at) {
        let pair = (*byte == b'%').then(|| Some(digit(run.get(at + 1))? * 16 + digit(run.get(at + 2))?));
        match pair.flatten().and_then(|value| u8::try_from(value).ok()) {
            Some(value) => {
                decoded.push(value);
                (at, count) = (at + 3, count + 1);
            }
            None => {
                decoded.push(if *byte == b'+' { b' ' } else { *byte });
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok().filter(|_| count > 0)
}

/// The text that a run of hexadecimal or base64 without padding stands for, if it is one.
pub fn decoded(run: &[u8]) -> Option<String> {
    if !RUN_BYTES.contains(&run.len()) {
        return None;
    }
    let decoded = [hex(run), base64(run)].into_iter().flatten();
    decoded.filter_map(|bytes| String::from_utf8(bytes).ok()).next()
}

fn hex(run: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = run.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

/// Both alphabets, without the padding.
fn base64(run: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(run.len() * 3 / 4);
    for group in run.chunks(4) {
        let mut word = 0u32;
        for place in 0..4 {
            let value = group.get(place).map_or(Some(0), |byte| base64_value(*byte))?;
            word = word << 6 | u32::from(value);
        }
        let [_, decoded @ ..] = word.to_be_bytes();
        match group.len() {
            4 => bytes.extend(decoded),
            count @ (2 | 3) => bytes.extend(decoded.iter().take(count - 1)),
            _ => return None,
        }
    }
    Some(bytes)
}

fn base64_value(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}
