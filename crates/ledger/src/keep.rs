//! What may enter the ledger: texts as [`KeepText`] says, numbers that every database can hold.

use std::collections::HashSet;

use contract::{Attempt, AttemptStatus, Input, Request, Signals, Step};
use sha2::{Digest, Sha256};

use crate::{KeepText, RequestRow};

/// Stands where words were left out.
const WITHHELD: &str = "(not kept: ledger.keep_text is not full)";

/// A message that shares this many bytes in a row with a text quotes it.
const QUOTE_BYTES: usize = 20;

/// So does one that shares a word of this many bytes, if it is no ordinary lower-case word.
const TELLING_WORD_BYTES: usize = 6;

/// Most tokens one attempt can count; an upstream that reports more is wrong, and sums must not overflow.
const TOKENS_MAX: u64 = 1 << 40;

/// A row as it may be stored.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) row: RequestRow,
    pub(crate) prompt_sha256: Option<String>,
    pub(crate) answers_sha256: Vec<Option<String>>,
    /// Whether `row` still holds its texts.
    pub(crate) texts: bool,
}

/// Drops or hashes the texts of `row` and puts its numbers in range.
pub(crate) fn apply(mut row: RequestRow, keep_text: KeepText) -> Kept {
    let hash = |text: &str| (keep_text != KeepText::None).then(|| sha256(text));
    let prompt_sha256 = hash(&row.request.text());
    let answers_sha256 = row.attempts.iter().map(|attempt| hash(&attempt.text)).collect();
    if keep_text != KeepText::Full {
        strip(&mut row);
    }
    into_range(&mut row);
    Kept { row, prompt_sha256, answers_sha256, texts: keep_text == KeepText::Full }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes every text out. A decision's reason stays, unless it quotes one.
fn strip(row: &mut RequestRow) {
    let mut texts = texts_of(&row.request);
    texts.extend(row.attempts.iter().map(|attempt| attempt.text.clone()));
    for decision in &mut row.decisions {
        withhold_quotes(&mut decision.reason, &texts);
        if let Step::Refuse(refusal) = &mut decision.step {
            withhold_quotes(&mut refusal.message, &texts);
            withhold_quotes(&mut refusal.code, &texts);
        }
    }
    for attempt in &mut row.attempts {
        // A backend's words may quote the prompt in any form; its kind of failure says enough.
        if let AttemptStatus::Failed(error) = &mut attempt.status {
            texts.push(std::mem::replace(&mut error.message, WITHHELD.to_owned()));
        }
        attempt.text.clear();
    }
    if let Some(error) = &mut row.error {
        withhold_quotes(error, &texts);
    }
    strip_request(&mut row.request);
}

/// All that the client wrote.
fn texts_of(request: &Request) -> Vec<String> {
    let mut texts = request.stop.clone();
    texts.extend(request.passthrough.iter().map(|(key, value)| format!("{key} {value}")));
    match &request.input {
        Input::Completion { prompt } => texts.push(prompt.clone()),
        Input::Chat { messages, tools } => {
            texts.extend(tools.iter().map(ToString::to_string));
            for message in messages {
                texts.extend(message.content.clone());
                texts.extend(message.name.clone());
                texts.extend(message.tool_calls.iter().map(|call| call.function.to_string()));
            }
        }
    }
    texts
}

/// Leaves the shape: who spoke, and how the answer was to be drawn.
fn strip_request(request: &mut Request) {
    request.stop.clear();
    request.passthrough.clear();
    match &mut request.input {
        Input::Completion { prompt } => prompt.clear(),
        Input::Chat { messages, tools } => {
            tools.clear();
            for message in messages {
                message.content = None;
                message.name = None;
                message.tool_calls.clear();
                message.tool_call_id = None;
            }
        }
    }
}

fn withhold_quotes(message: &mut String, texts: &[String]) {
    if quotes(message, texts) {
        WITHHELD.clone_into(message);
    }
}

/// Whether `message` repeats a piece of a text: a run of bytes long enough to be no coincidence, or
/// a word that is no ordinary one (a name, a number with letters, another script).
fn quotes(message: &str, texts: &[String]) -> bool {
    let runs = Runs::of(message);
    let words: HashSet<&str> = telling_words(message).collect();
    texts.iter().any(|text| {
        runs.occur_in(text) || (!words.is_empty() && telling_words(text).any(|word| words.contains(word)))
    })
}

/// All runs of [`QUOTE_BYTES`] bytes of a message. A text may be long, so most of its places are
/// ruled out by the first bytes alone.
struct Runs<'a> {
    runs: HashSet<&'a [u8]>,
    heads: Vec<bool>,
}

/// Slots of [`Runs::heads`]; as many as [`head`] tells apart.
const HEADS: usize = 1 << 16;

impl<'a> Runs<'a> {
    fn of(message: &'a str) -> Self {
        let runs: HashSet<&[u8]> = message.as_bytes().windows(QUOTE_BYTES).collect();
        let mut heads = vec![false; HEADS];
        for run in &runs {
            heads[head(run)] = true;
        }
        Runs { runs, heads }
    }

    fn occur_in(&self, text: &str) -> bool {
        let mut places = text.as_bytes().windows(QUOTE_BYTES);
        places.any(|place| self.heads[head(place)] && self.runs.contains(place))
    }
}

/// A run's slot, from its first four bytes (multiplicative hashing).
fn head(run: &[u8]) -> usize {
    let first = run.iter().take(4).fold(0u32, |word, byte| word << 8 | u32::from(*byte));
    (first.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

fn telling_words(text: &str) -> impl Iterator<Item = &str> {
    let words =
        text.split(|letter: char| !(letter.is_alphanumeric() || matches!(letter, '-' | '_' | '@' | '.')));
    words.map(|word| word.trim_matches(['-', '_', '.'])).filter(|word| {
        word.len() >= TELLING_WORD_BYTES
            && !word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && !word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// Numbers that are no numbers become 0 (signals: unknown), counts are capped.
fn into_range(row: &mut RequestRow) {
    for value in [&mut row.cost_usd, &mut row.saved_usd, &mut row.overhead_ms, &mut row.total_ms] {
        *value = finite(*value);
    }
    row.first_token_ms = row.first_token_ms.filter(|value| value.is_finite());
    row.confidence = row.confidence.filter(|value| value.is_finite());
    for decision in &mut row.decisions {
        decision.confidence = decision.confidence.filter(|value| value.is_finite());
    }
    for attempt in &mut row.attempts {
        attempt_into_range(attempt);
    }
}

fn attempt_into_range(attempt: &mut Attempt) {
    let timings = &mut attempt.timings;
    for value in
        [&mut attempt.cost_usd, &mut timings.queue_ms, &mut timings.prompt_ms, &mut timings.decode_ms]
    {
        *value = finite(*value);
    }
    if !(attempt.signals.logprob_sum.is_finite() && attempt.signals.logprob_min.is_finite()) {
        attempt.signals = Signals::default();
    }
    let usage = &mut attempt.usage;
    for count in [
        &mut usage.prompt_tokens,
        &mut usage.cached_tokens,
        &mut usage.completion_tokens,
        &mut usage.accepted_prediction_tokens,
        &mut usage.rejected_prediction_tokens,
    ] {
        *count = (*count).min(TOKENS_MAX);
    }
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(message: &str, text: &str) -> bool {
        quotes(message, &[text.to_owned()])
    }

    #[test]
    fn a_phrase_or_a_telling_word_is_a_quote() {
        let text = "please tell me about the treaty that Ms Quillfeather signed, by mail to q@example.org";
        for message in [
            "failed at: tell me about the treaty",
            "the name Quillfeather was seen",
            "blocked for q@example.org.",
        ] {
            assert!(quoted(message, text), "{message}");
        }
        assert!(quoted("das Wort \"Übermütig\" stand da", "ein Übermütig-er Satz, Übermütig"));
    }

    #[test]
    fn a_policys_own_words_are_none() {
        let text = "what is the mean probability that the small model answers? confidence 0.93, please";
        let reason = "small's first 24 tokens have mean probability 0.93 and lowest 0.41: small answers";
        // These two share "mean probability" and plain words, but no run of 20 bytes.
        assert!(!quoted(reason, text));
        assert!(!quoted("", text) && !quoted(reason, ""));
    }

    proptest! {
        #[test]
        fn a_run_is_found_wherever_it_stands(
            text in "[a-z ]{20,60}", before in "[0-9]{0,30}", after in "[0-9]{0,30}", at in 0usize..40,
        ) {
            let at = at.min(text.len() - QUOTE_BYTES);
            let message = format!("{before}{}{after}", &text[at..at + QUOTE_BYTES]);
            prop_assert!(Runs::of(&message).occur_in(&text));
            let shorter = format!("{before}{}{after}", &text[at..at + QUOTE_BYTES - 1]);
            prop_assert!(!Runs::of(&shorter).occur_in(&text));
        }
    }
}
