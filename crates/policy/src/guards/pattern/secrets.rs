//! Secrets: API keys of common vendors, JSON web tokens, private keys.

use super::text::{Match, Text, alnum};
use super::{Recogniser, Trigger};

/// API keys, known by the prefixes that vendors give them.
pub const API_KEY: Recogniser = Recogniser {
    entity: "api_key",
    about: "API keys of common vendors",
    trigger: Trigger::Long,
    is_default: true,
    match_at: key_at,
};

/// JSON web tokens.
pub const JWT: Recogniser = Recogniser {
    entity: "jwt",
    about: "JSON web tokens",
    trigger: Trigger::Long,
    is_default: true,
    match_at: jwt_at,
};

/// Private keys in PEM's frame.
pub const PRIVATE_KEY: Recogniser = Recogniser {
    entity: "private_key",
    about: "private keys (PEM, OpenSSH, PGP)",
    trigger: Trigger::Long,
    is_default: true,
    match_at: pem_at,
};

/// Longest part of a token between dots, bytes.
const JWT_PART_BYTES_MAX: usize = 4096;
/// Longest private key with its frame, bytes; what is longer is cut here.
pub const PEM_BYTES_MAX: usize = 16 << 10;
const PEM_LABEL_BYTES_MAX: usize = 40;
/// Most bytes of a key after its prefix.
const KEY_BYTES_MAX: usize = 255;

/// A kind of key: what it begins with, how many letters follow, which besides letters and digits.
struct Key(&'static str, std::ops::RangeInclusive<usize>, &'static str);

/// Longer prefixes before their beginnings.
const KEYS: &[Key] = &[
    // Amazon.
    Key("AKIA", 16..=16, ""),
    Key("ASIA", 16..=16, ""),
    // GitHub, GitLab.
    Key("github_pat_", 40..=KEY_BYTES_MAX, "_"),
    Key("ghp_", 36..=KEY_BYTES_MAX, ""),
    Key("gho_", 36..=KEY_BYTES_MAX, ""),
    Key("ghu_", 36..=KEY_BYTES_MAX, ""),
    Key("ghs_", 36..=KEY_BYTES_MAX, ""),
    Key("ghr_", 36..=KEY_BYTES_MAX, ""),
    Key("glpat-", 20..=KEY_BYTES_MAX, "_-"),
    // Slack.
    Key("xoxb-", 10..=KEY_BYTES_MAX, "-"),
    Key("xoxp-", 10..=KEY_BYTES_MAX, "-"),
    Key("xoxa-", 10..=KEY_BYTES_MAX, "-"),
    Key("xoxr-", 10..=KEY_BYTES_MAX, "-"),
    Key("xoxs-", 10..=KEY_BYTES_MAX, "-"),
    Key("xapp-", 10..=KEY_BYTES_MAX, "-"),
    // Stripe.
    Key("sk_live_", 16..=KEY_BYTES_MAX, ""),
    Key("sk_test_", 16..=KEY_BYTES_MAX, ""),
    Key("rk_live_", 16..=KEY_BYTES_MAX, ""),
    Key("rk_test_", 16..=KEY_BYTES_MAX, ""),
    Key("whsec_", 24..=KEY_BYTES_MAX, "+/="),
    // Google.
    Key("AIza", 35..=35, "_-"),
    Key("GOCSPX-", 20..=40, "_-"),
    // Language models: OpenAI, Anthropic, Hugging Face, Groq, Replicate.
    Key("sk-ant-", 20..=KEY_BYTES_MAX, "_-"),
    Key("sk-proj-", 20..=KEY_BYTES_MAX, "_-"),
    Key("sk-svcacct-", 20..=KEY_BYTES_MAX, "_-"),
    Key("sk-", 32..=KEY_BYTES_MAX, ""),
    Key("hf_", 30..=KEY_BYTES_MAX, ""),
    Key("gsk_", 40..=KEY_BYTES_MAX, ""),
    Key("r8_", 36..=40, ""),
    // Registries and clouds.
    Key("npm_", 36..=36, ""),
    Key("pypi-AgE", 50..=KEY_BYTES_MAX, "_-"),
    Key("dop_v1_", 64..=64, ""),
    Key("shpat_", 32..=32, ""),
    Key("shpss_", 32..=32, ""),
    Key("SG.", 60..=70, "._-"),
    Key("key-", 32..=32, ""),
    Key("sq0atp-", 22..=22, "_-"),
    Key("dapi", 32..=34, ""),
    Key("PMAK-", 50..=70, "-"),
    Key("lin_api_", 32..=KEY_BYTES_MAX, ""),
];

fn key_at(text: &Text<'_>, start: usize) -> Match {
    if text.follows(start, |byte| alnum(byte) || byte == b'_') || !text.byte(start).is_some_and(alnum) {
        return Match::No;
    }
    let here = text.bytes.get(start..).unwrap_or_default();
    for Key(prefix, lengths, others) in KEYS {
        let prefix = prefix.as_bytes();
        if prefix.first() != here.first() {
            continue;
        }
        if !text.is_end && here.len() < prefix.len() && prefix.starts_with(here) {
            return Match::More;
        }
        if !here.starts_with(prefix) {
            continue;
        }
        let is_key = |byte: u8| alnum(byte) || others.as_bytes().contains(&byte);
        let from = start + prefix.len();
        let end = text.run(from, is_key, *lengths.end());
        if text.is_open(end) {
            return Match::More;
        }
        let letters = text.bytes.get(from..end).unwrap_or_default();
        let goes_on = text.byte(end).is_some_and(alnum);
        let is_random = letters.iter().any(u8::is_ascii_digit) && letters.iter().any(u8::is_ascii_alphabetic);
        if lengths.contains(&letters.len()) && !goes_on && is_random {
            return Match::Yes { end, score: 1.0 };
        }
    }
    Match::No
}

fn is_base64url(byte: u8) -> bool {
    alnum(byte) || byte == b'-' || byte == b'_'
}

/// `{"` in base64.
const JSON_START: &[u8] = b"eyJ";

fn jwt_at(text: &Text<'_>, start: usize) -> Match {
    if text.follows(start, is_base64url) || text.byte(start) != Some(b'e') {
        return Match::No;
    }
    let mut at = start;
    for part in 0..3 {
        let end = text.run(at, is_base64url, JWT_PART_BYTES_MAX);
        if text.is_open(end) {
            let there = text.bytes.get(at..end).unwrap_or_default();
            let may_be = part == 2 || JSON_START.starts_with(there) || there.starts_with(JSON_START);
            return if may_be { Match::More } else { Match::No };
        }
        let piece = text.bytes.get(at..end).unwrap_or_default();
        if piece.len() >= JWT_PART_BYTES_MAX || (part < 2 && !piece.starts_with(JSON_START)) {
            return Match::No;
        }
        if part < 2 && (text.byte(end) != Some(b'.') || (part == 0 && piece.len() < 12)) {
            return Match::No;
        }
        at = if part < 2 { end + 1 } else { end };
    }
    Match::Yes { end: at, score: 1.0 }
}

const PEM_START: &[u8] = b"-----BEGIN ";
const PEM_END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// From the frame's first line to its last. A key without an end goes on to the limit.
fn pem_at(text: &Text<'_>, start: usize) -> Match {
    let here = text.bytes.get(start..).unwrap_or_default();
    if text.follows(start, |byte| alnum(byte) || byte == b'-') || here.first() != Some(&b'-') {
        return Match::No;
    }
    if !text.is_end && here.len() < PEM_START.len() && PEM_START.starts_with(here) {
        return Match::More;
    }
    if !here.starts_with(PEM_START) {
        return Match::No;
    }
    let label_start = start + PEM_START.len();
    let label_end = text.run(label_start, |byte| alnum(byte) || byte == b' ', PEM_LABEL_BYTES_MAX);
    let rest = text.bytes.get(label_end..).unwrap_or_default();
    if !text.is_end && rest.len() < DASHES.len() && DASHES.starts_with(rest) {
        return Match::More;
    }
    let label = text.bytes.get(label_start..label_end).unwrap_or_default();
    if !label.windows(11).any(|window| window == b"PRIVATE KEY") || !rest.starts_with(DASHES) {
        return Match::No;
    }
    let mut limit = text.bytes.len().min(start + PEM_BYTES_MAX);
    while text.byte(limit).is_some_and(|byte| byte & 0xC0 == 0x80) {
        limit -= 1;
    }
    let body = text.bytes.get(label_end..limit).unwrap_or_default();
    let last_line = body.windows(PEM_END.len()).position(|window| window == PEM_END);
    let closing = last_line.and_then(|line| {
        let from = line + PEM_END.len();
        let dashes = body.get(from..)?.windows(DASHES.len()).position(|window| window == DASHES)?;
        Some(label_end + from + dashes + DASHES.len())
    });
    match closing {
        Some(end) => Match::Yes { end, score: 1.0 },
        None if text.bytes.len() >= start + PEM_BYTES_MAX || text.is_end => {
            Match::Yes { end: limit, score: 1.0 }
        }
        None => Match::More,
    }
}
