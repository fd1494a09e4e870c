//! Addresses of machines: IP addresses, URLs and names of hosts.

use super::text::{Match, Text, alnum, digit};
use super::{Recogniser, Trigger};

/// IPv4 addresses.
pub const IPV4: Recogniser = Recogniser {
    entity: "ip_address",
    about: "IPv4 addresses",
    trigger: Trigger::Digit,
    is_default: true,
    match_at: ipv4_at,
};

/// IPv6 addresses.
pub const IPV6: Recogniser = Recogniser {
    entity: "ip_address",
    about: "IPv6 addresses",
    trigger: Trigger::Colon,
    is_default: true,
    match_at: ipv6_at,
};

/// URLs, and host names under well-known top-level domains.
pub const URL: Recogniser = Recogniser {
    entity: "url",
    about: "URLs, and host names under well-known top-level domains",
    trigger: Trigger::Dot,
    is_default: false,
    match_at: url_at,
};

const IPV6_BYTES_MAX: usize = 45;
const SCHEMES: &[&[u8]] = &[b"http://", b"https://", b"ftp://", b"ws://", b"wss://"];
const HOST_BYTES_MAX: usize = 253;
const URL_BYTES_MAX: usize = 2048;

fn ipv4_at(text: &Text<'_>, start: usize) -> Match {
    let is_inside = text.follows(start, |byte| alnum(byte) || byte == b'.' || byte == b'_');
    if is_inside || !text.byte(start).is_some_and(digit) {
        return Match::No;
    }
    let mut at = start;
    for part in 0..4 {
        let end = text.run(at, digit, 4);
        if text.is_open(end) && end - at <= 3 {
            return Match::More;
        }
        let digits = text.bytes.get(at..end).unwrap_or_default();
        let value = digits.iter().fold(0u32, |sum, byte| sum * 10 + u32::from(byte - b'0'));
        if digits.is_empty() || digits.len() > 3 || value > 255 || (digits.len() > 1 && digits[0] == b'0') {
            return Match::No;
        }
        at = end;
        if part < 3 {
            if text.byte(at) != Some(b'.') {
                return Match::No;
            }
            at += 1;
        }
    }
    if text.byte(at) == Some(b'.') {
        // A full stop, unless a number goes on.
        return match text.ending(at + 1, 0.9, digit) {
            Match::Yes { score, .. } => Match::Yes { end: at, score },
            other => other,
        };
    }
    let is_version = text.mentions(start, &["version"]);
    text.ending(at, if is_version { 0.3 } else { 0.9 }, |byte| alnum(byte) || byte == b'_')
}

/// Bytes of which IPv6 addresses are made.
pub(super) fn is_ipv6(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || byte == b':' || byte == b'.'
}

fn ipv6_at(text: &Text<'_>, start: usize) -> Match {
    let is_inside = text.follows(start, |byte| alnum(byte) || b":._".contains(&byte));
    if is_inside || !text.byte(start).is_some_and(is_ipv6) {
        return Match::No;
    }
    let mut end = text.run(start, is_ipv6, IPV6_BYTES_MAX + 2);
    if text.is_open(end) && end - start < IPV6_BYTES_MAX + 2 {
        return Match::More;
    }
    // A sentence's full stop or colon.
    while end > start
        && !text.bytes.get(start..end).is_some_and(|run| run.ends_with(b"::"))
        && text.follows(end, |byte| byte == b'.' || byte == b':')
    {
        end -= 1;
    }
    let run = text.bytes.get(start..end).unwrap_or_default();
    let groups = run.split(|byte| *byte == b':').filter(|group| !group.is_empty()).count();
    let telling = groups >= 4 || (groups >= 1 && run.iter().any(|byte| digit(*byte)));
    match is_ipv6_address(run) {
        true if telling => text.ending(end, 0.9, |byte| alnum(byte) || byte == b'_'),
        _ => Match::No,
    }
}

/// Eight groups of up to four hexadecimal digits, of which `::` stands for one or more that are 0; the last two may be
/// an IPv4 address.
fn is_ipv6_address(run: &[u8]) -> bool {
    let Ok(run) = std::str::from_utf8(run) else { return false };
    let groups = |side: &str| -> Option<usize> {
        if side.is_empty() {
            return Some(0);
        }
        let parts: Vec<&str> = side.split(':').collect();
        let is_group =
            |part: &&str| (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        match parts.split_last()? {
            (last, rest) if last.contains('.') => {
                let whole = ipv4_at(&Text::whole(last), 0) == Match::Yes { end: last.len(), score: 0.9 };
                (whole && rest.iter().all(is_group)).then_some(rest.len() + 2)
            }
            _ => parts.iter().all(is_group).then_some(parts.len()),
        }
    };
    match run.split_once("::") {
        None => groups(run) == Some(8),
        Some((head, _)) if head.contains('.') => false,
        Some((head, tail)) => groups(head).zip(groups(tail)).is_some_and(|(head, tail)| head + tail <= 7),
    }
}

/// Bytes of which names of hosts are made.
pub(super) fn is_host(byte: u8) -> bool {
    alnum(byte) || byte == b'.' || byte == b'-'
}

fn is_path(byte: u8) -> bool {
    byte > b' ' && byte < 0x7F && !b"<>\"`{}|\\^".contains(&byte)
}

fn url_at(text: &Text<'_>, start: usize) -> Match {
    if text.follows(start, |byte| is_host(byte) || b"_@/".contains(&byte)) {
        return Match::No;
    }
    let here = text.bytes.get(start..).unwrap_or_default();
    let mut host_start = start;
    let starts_with =
        |scheme: &[u8]| here.get(..scheme.len()).is_some_and(|h| h.eq_ignore_ascii_case(scheme));
    for scheme in SCHEMES {
        if starts_with(scheme) {
            host_start = start + scheme.len();
        } else if !text.is_end && here.len() < scheme.len() && scheme[..here.len()].eq_ignore_ascii_case(here)
        {
            return Match::More;
        }
    }
    let end = text.run(host_start, is_host, HOST_BYTES_MAX + 1);
    if end - host_start > HOST_BYTES_MAX {
        return Match::No;
    }
    if text.is_open(end) {
        return Match::More;
    }
    let host = text.bytes.get(host_start..end).unwrap_or_default();
    let host = &host[..host.len() - host.iter().rev().take_while(|byte| !alnum(**byte)).count()];
    if host_start == start && !is_known_host(host) {
        return Match::No;
    }
    if host.is_empty() || (host_start == start && text.byte(end) == Some(b'@')) {
        return Match::No;
    }
    path(text, host_start + host.len())
}

/// The rest of a URL: port, path, query, without the sentence's punctuation.
fn path(text: &Text<'_>, host_end: usize) -> Match {
    let Some(next) = text.byte(host_end) else { return Match::Yes { end: host_end, score: 0.9 } };
    if !b"/:?#".contains(&next) {
        return Match::Yes { end: host_end, score: 0.9 };
    }
    let mut end = text.run(host_end, is_path, URL_BYTES_MAX);
    if text.is_open(end) && end - host_end < URL_BYTES_MAX {
        return Match::More;
    }
    while end > host_end && text.follows(end, |byte| b".,;:!?)]'".contains(&byte)) {
        end -= 1;
    }
    Match::Yes { end, score: 0.9 }
}

/// Top-level domains whose names are taken for hosts without `http://`. Those that are also common endings of
/// file names are not here.
const TOP_LEVELS: &[&str] = &[
    "com", "org", "net", "edu", "gov", "mil", "int", "info", "biz", "name", "pro", "io", "ai", "app", "dev",
    "co", "me", "tv", "xyz", "online", "site", "shop", "store", "tech", "cloud", "blog", "club", "top", "eu",
    "us", "uk", "ca", "au", "nz", "ie", "de", "at", "ch", "fr", "be", "nl", "lu", "es", "pt", "it", "gr",
    "se", "no", "dk", "fi", "is", "pl", "cz", "sk", "hu", "ro", "bg", "hr", "si", "ee", "lv", "lt", "ru",
    "ua", "by", "tr", "il", "ae", "sa", "ir", "in", "pk", "bd", "lk", "cn", "hk", "tw", "jp", "kr", "th",
    "vn", "my", "sg", "ph", "id", "br", "ar", "mx", "cl", "co", "pe", "ve", "uy", "za", "ng", "ke", "eg",
    "ma", "gl", "cy", "mt", "li",
];

fn is_known_host(host: &[u8]) -> bool {
    let labels: Vec<&[u8]> = host.split(|byte| *byte == b'.').collect();
    let label = |label: &&[u8]| !label.is_empty() && label.len() <= 63 && !label.starts_with(b"-");
    let Some((last, rest)) = labels.split_last() else { return false };
    let known = TOP_LEVELS.iter().any(|top| last.eq_ignore_ascii_case(top.as_bytes()));
    known && !rest.is_empty() && labels.iter().all(label) && rest.iter().any(|label| label.len() > 1)
}
