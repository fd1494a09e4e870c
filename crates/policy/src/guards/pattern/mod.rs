//! Structured personal data and secrets in text: [`Scanner`].
//!
//! A [`Recogniser`] says of one place whether an entity begins there. The scanner looks at every byte once, and
//! asks only at places that can be a beginning: digits, `@`, `:`, long words. Adding an entity is a recogniser in
//! a file here plus a line in [`REGISTRY`].

mod bank;
mod crypto;
mod custom;
mod email;
mod encoded;
mod host;
mod identity;
mod phone;
mod secrets;
mod text;

use std::ops::Range;

pub use custom::{Custom, ENTRIES_MAX, MATCH_BYTES_MAX};
pub use encoded::{RUN_BYTES_MAX, decoded as decoded_run};
pub use text::{CONTEXT_BYTES, Match, Text};

use super::GuardError;
use encoded::Run;
use text::{alnum, digit};

/// What a recogniser's matches have in them, and so where they can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    /// They begin with a digit, or with `+` or `(` before one.
    Digit,
    /// They begin a word of letters and digits that, with what is joined to it, has a digit.
    Word,
    /// A part that `email::is_local` describes, then `@`.
    At,
    /// Bytes of which IPv6 addresses are made, among them `:`.
    Colon,
    /// A host's name with a dot, or a scheme and `://`.
    Dot,
    /// They begin a word, or five dashes, in a long run of token bytes.
    Long,
}

const TRIGGERS: usize = 6;

/// Finds one kind of entity.
#[derive(Debug)]
pub struct Recogniser {
    /// Its name in settings and placeholders.
    pub entity: &'static str,
    /// What it finds, in a line.
    pub about: &'static str,
    trigger: Trigger,
    /// Whether it is looked for where no entities are named.
    pub is_default: bool,
    match_at: fn(&Text<'_>, usize) -> Match,
}

/// All there are. Of two matches that overlap and are equally sure, the earlier entry names the whole.
pub const REGISTRY: &[Recogniser] = &[
    secrets::PRIVATE_KEY,
    secrets::JWT,
    secrets::API_KEY,
    bank::CREDIT_CARD,
    bank::IBAN,
    crypto::CRYPTO,
    email::EMAIL,
    identity::US_SSN,
    host::IPV4,
    host::IPV6,
    phone::PHONE,
    identity::PASSPORT,
    identity::DRIVER_LICENSE,
    host::URL,
];

/// Longest span that overlapping matches are joined to, bytes.
pub const SPAN_BYTES_MAX: usize = 16 << 10;

/// Where something was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What it is.
    pub entity: &'static str,
    /// How sure that is, in 0..=1.
    pub score: f32,
}

impl Span {
    /// Its bytes.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Least length of a run of token bytes that may hold secrets.
const LONG_BYTES_MIN: usize = 16;
/// Least length of one that has five dashes, as PEM's frames begin.
const DASHES_BYTES_MIN: usize = 10;

/// Fewest digits of a number that a recogniser takes for something, but for IPv4 addresses.
const NUMBER_DIGITS_MIN: usize = 7;

const TOKEN: u8 = 1;
const DIGIT: u8 = 2;
const DOT: u8 = 4;
const AT: u8 = 8;
const COLON: u8 = 16;
const PERCENT: u8 = 32;

/// What each byte means to the scan.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        classes[byte] = match b {
            b'0'..=b'9' => TOKEN | DIGIT,
            b'.' => TOKEN | DOT,
            b'_' | b'-' | b'+' | b'/' | b'=' => TOKEN,
            b'@' => AT,
            b':' => COLON,
            b'%' => PERCENT,
            _ if b.is_ascii_alphabetic() => TOKEN,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// Looks for a chosen set of entities.
#[derive(Debug)]
pub struct Scanner {
    chosen: Vec<&'static Recogniser>,
    by_trigger: [Vec<&'static Recogniser>; TRIGGERS],
    customs: Vec<Custom>,
    /// Least score that counts.
    score_min: f32,
}

impl Scanner {
    /// Looks for `entities` (none: those that are looked for by default, unless there are patterns or words), the
    /// regular expressions `patterns` and the words `deny`; matches below `score_min` do not count.
    ///
    /// # Errors
    /// [`GuardError`] for an entity that does not exist, or an expression that can't be used.
    pub fn new(
        entities: &[String],
        (patterns, deny): (&[String], &[String]),
        score_min: f32,
    ) -> Result<Scanner, GuardError> {
        if patterns.len().max(deny.len()) > ENTRIES_MAX {
            return Err(GuardError::TooMany { limit: ENTRIES_MAX });
        }
        let is_known = |name: &&String| REGISTRY.iter().any(|entry| entry.entity == name.as_str());
        if let Some(unknown) = entities.iter().find(|name| !is_known(name)) {
            return Err(GuardError::UnknownEntity {
                entity: unknown.clone(),
                known: known_entities().join(", "),
            });
        }
        let by_default = entities.is_empty() && patterns.is_empty() && deny.is_empty();
        let is_chosen = |entry: &&Recogniser| {
            if by_default { entry.is_default } else { entities.iter().any(|name| name == entry.entity) }
        };
        let chosen: Vec<&'static Recogniser> = REGISTRY.iter().filter(is_chosen).collect();
        let mut by_trigger: [Vec<&'static Recogniser>; TRIGGERS] = Default::default();
        for recogniser in &chosen {
            by_trigger[recogniser.trigger as usize].push(recogniser);
        }
        let mut customs: Vec<Custom> =
            patterns.iter().map(|pattern| Custom::pattern(pattern)).collect::<Result<_, _>>()?;
        customs.extend(Custom::deny(deny)?);
        Ok(Scanner { chosen, by_trigger, customs, score_min })
    }

    /// All that is found in a whole folded text, in order, overlaps joined.
    pub fn scan(&self, text: &str) -> Vec<Span> {
        self.scan_whole(text, true)
    }

    /// The same; encoded runs are looked into if it `decodes`.
    fn scan_whole(&self, text: &str, decodes: bool) -> Vec<Span> {
        let mut pass = Pass {
            scanner: self,
            text: Text::whole(text),
            found: Vec::new(),
            decodes,
            tried: [usize::MAX; TRIGGERS],
            percent_end: 0,
        };
        pass.run();
        let mut found = pass.found;
        for custom in &self.customs {
            let mut from = 0;
            while let Some((start, end)) = custom.find(text, from) {
                found.push(Span { start, end, entity: custom.entity, score: 1.0 });
                from =
                    start + text.get(start..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
            }
        }
        join(found)
    }

    /// What begins at `at`, or `true` if more text is needed to say. The slow twin of [`Scanner::scan`], and what
    /// streams use.
    pub fn at(&self, text: &Text<'_>, at: usize, found: &mut Vec<Span>) -> bool {
        let before = found.len();
        let mut take = |verdict: Match, entity: &'static str| match verdict {
            Match::No => false,
            Match::More => true,
            Match::Yes { end, score } => {
                if score >= self.score_min {
                    found.push(Span { start: at, end, entity, score });
                }
                false
            }
        };
        let is_letter = text.byte(at).is_some_and(|byte| byte & 0xC0 != 0x80);
        let mut open = self.chosen.iter().any(|entry| take((entry.match_at)(text, at), entry.entity));
        open = open
            || (is_letter
                && self.customs.iter().any(|custom| take(custom.match_at(text, at), custom.entity)));
        for run_at in [encoded::run_at, encoded::percent_run_at] {
            if open {
                break;
            }
            match run_at(text, at) {
                Run::None => {}
                Run::More => open = true,
                Run::Hidden { end, text } => found.extend(self.hidden(at..end, &text)),
            }
        }
        if open {
            found.truncate(before);
        }
        open
    }

    /// The span of an encoded run in which something is found.
    fn hidden(&self, run: Range<usize>, text: &str) -> Option<Span> {
        let inner = self.scan_whole(text, false);
        let best = inner.into_iter().max_by(|a, b| a.score.total_cmp(&b.score))?;
        Some(Span { start: run.start, end: run.end, ..best })
    }
}

/// The names of all entities, none twice.
pub fn known_entities() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for entry in REGISTRY {
        if !names.contains(&entry.entity) {
            names.push(entry.entity);
        }
    }
    names
}

/// Joins spans that overlap; the surest one names the whole. Spans come in any order and leave in order. A span
/// that would make a joined one longer than [`SPAN_BYTES_MAX`] begins a new one where that ends.
pub fn join(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start < last.end => {
                join_two(last, span).into_iter().for_each(|s| joined.push(s))
            }
            _ => joined.push(span),
        }
    }
    joined
}

/// Joins `next` into `last`, which it overlaps and does not precede; gives back what is left over.
pub(super) fn join_two(last: &mut Span, mut next: Span) -> Option<Span> {
    if next.end <= last.end || next.end - last.start <= SPAN_BYTES_MAX {
        let rank = |span: &Span| REGISTRY.iter().position(|entry| entry.entity == span.entity);
        let is_surer = next.score > last.score || (next.score == last.score && rank(&next) < rank(last));
        if is_surer {
            (last.entity, last.score) = (next.entity, next.score);
        }
        last.end = last.end.max(next.end);
        return None;
    }
    next.start = last.end;
    Some(next)
}

/// One scan of a whole text.
struct Pass<'a> {
    scanner: &'a Scanner,
    text: Text<'a>,
    found: Vec<Span>,
    /// Whether encoded runs are looked into.
    decodes: bool,
    /// For each trigger, the beginning that was tried last: many places may lead back to the same one.
    tried: [usize; TRIGGERS],
    /// Where the last percent-encoded run ends.
    percent_end: usize,
}

impl Pass<'_> {
    fn run(&mut self) {
        let bytes = self.text.bytes;
        let (mut run, mut seen) = (0, 0);
        for (at, byte) in bytes.iter().enumerate() {
            let class = CLASSES[usize::from(*byte)];
            if class & TOKEN != 0 {
                seen |= class;
                continue;
            }
            self.token(run..at, seen);
            (run, seen) = (at + 1, 0);
            if class != 0 {
                self.sign(at, class);
            }
        }
        self.token(run..bytes.len(), seen);
    }

    /// A run of token bytes; `seen` are their classes.
    #[inline(always)]
    fn token(&mut self, run: Range<usize>, seen: u8) {
        if seen & (DIGIT | DOT) != 0 || run.len() >= DASHES_BYTES_MIN {
            self.telling_token(run, seen);
        }
    }

    #[cold]
    fn telling_token(&mut self, run: Range<usize>, seen: u8) {
        let bytes = self.text.bytes;
        let token = bytes.get(run.clone()).unwrap_or_default();
        let is_long = run.len() >= LONG_BYTES_MIN
            || (run.len() >= DASHES_BYTES_MIN && token.windows(5).any(|window| window == b"-----"));
        let has_hosts = seen & DOT != 0 && !self.scanner.by_trigger[Trigger::Dot as usize].is_empty();
        if seen & DIGIT == 0 && !has_hosts && !is_long {
            return;
        }
        for at in run {
            let byte = bytes[at];
            let before = at.checked_sub(1).map_or(b' ', |at| bytes[at]);
            if seen & DIGIT != 0 && digit(byte) && !digit(before) {
                self.number(at);
            }
            if has_hosts && byte == b'.' && bytes.get(at + 1).copied().is_some_and(alnum) {
                let start = self.back(at, host::is_host, 254);
                self.ask(Trigger::Dot, start);
            }
            if alnum(before) {
                continue;
            }
            if seen & DIGIT != 0 && alnum(byte) {
                self.ask(Trigger::Word, at);
            }
            if is_long {
                self.ask(Trigger::Long, at);
                self.decode(at);
            }
        }
    }

    /// A digit that none precedes.
    fn number(&mut self, at: usize) {
        if !self.may_be_number(at) {
            return;
        }
        let sign = |at: usize| self.text.follows(at, |byte| byte == b'+' || byte == b'(');
        let signs = usize::from(sign(at)) + usize::from(sign(at) && sign(at - 1));
        for start in at - signs..=at {
            self.ask(Trigger::Digit, start);
        }
    }

    /// Whether as much follows as any number that begins here has: seven digits, or three dots, among the signs that
    /// stand in numbers. Most numbers of a program or a table have not.
    fn may_be_number(&self, at: usize) -> bool {
        let (mut digits, mut dots) = (0, 0);
        for byte in self.text.bytes.iter().skip(at) {
            match byte {
                b'0'..=b'9' => digits += 1,
                b'.' => dots += 1,
                b' ' | b'-' | b'/' | b'(' | b')' | b'+' => {}
                _ => return false,
            }
            if digits >= NUMBER_DIGITS_MIN || dots >= 3 {
                return true;
            }
        }
        false
    }

    /// A byte between tokens that may mean something.
    fn sign(&mut self, at: usize, class: u8) {
        let bytes = self.text.bytes;
        if class == PERCENT {
            self.percent(at);
        } else if class == AT {
            let mut start = at;
            while start > 0 && at - start <= email::LOCAL_BYTES_MAX && email::is_local(bytes, start - 1) {
                start -= 1;
            }
            self.ask(Trigger::At, start);
        } else if bytes.get(at + 1..at + 3) == Some(b"//") {
            let start = self.back(at, |byte| byte.is_ascii_alphabetic(), 6);
            self.ask(Trigger::Dot, start);
        } else if bytes.get(at + 1).copied().is_some_and(host::is_ipv6) {
            let start = self.back(at, host::is_ipv6, 48);
            self.ask(Trigger::Colon, start);
        }
    }

    /// The run around a `%`, once.
    fn percent(&mut self, at: usize) {
        if !self.decodes || at < self.percent_end {
            return;
        }
        let start = self.back(at, encoded::is_percent, encoded::PERCENT_LEAD_BYTES_MAX + 1);
        self.percent_end = self.text.run(at, encoded::is_percent, usize::MAX);
        if let Run::Hidden { end, text } = encoded::percent_run_at(&self.text, start) {
            self.found.extend(self.scanner.hidden(start..end, &text));
        }
    }

    /// Where the run of bytes that satisfy `is` before `at` begins.
    fn back(&self, at: usize, is: fn(u8) -> bool, bytes_max: usize) -> usize {
        let before = self.text.bytes.get(at.saturating_sub(bytes_max)..at).unwrap_or_default();
        at - before.iter().rev().take_while(|byte| is(**byte)).count()
    }

    fn ask(&mut self, trigger: Trigger, at: usize) {
        if std::mem::replace(&mut self.tried[trigger as usize], at) == at {
            return;
        }
        let scanner = self.scanner;
        for recogniser in &scanner.by_trigger[trigger as usize] {
            if let Match::Yes { end, score } = (recogniser.match_at)(&self.text, at)
                && score >= scanner.score_min
            {
                self.found.push(Span { start: at, end, entity: recogniser.entity, score });
            }
        }
    }

    fn decode(&mut self, at: usize) {
        if self.decodes
            && let Run::Hidden { end, text } = encoded::run_at(&self.text, at)
        {
            self.found.extend(self.scanner.hidden(at..end, &text));
        }
    }
}

#[cfg(test)]
mod tests;
