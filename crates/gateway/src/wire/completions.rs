//! The answer of `/v1/completions`: [`Completion`].

use contract::{Delta, FinishReason, TokenLogprob};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Collected, Envelope, Head, Shape, finite};
use crate::flow::Outcome;

const OBJECT: &str = "text_completion";

/// Writes a completion.
pub(crate) struct Completion {
    head: Head,
    /// Characters of the answer whose tokens were already written.
    offset_chars: usize,
}

#[derive(Serialize)]
struct Choice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<FinishReason>,
}

#[derive(Default, Serialize)]
struct Logprobs<'a> {
    tokens: Vec<&'a str>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    /// Where each token begins, in characters from the start of the answer.
    text_offset: Vec<usize>,
}

impl Completion {
    pub(crate) fn new(head: Head) -> Self {
        Completion { head, offset_chars: 0 }
    }

    fn logprobs<'a>(&mut self, tokens: &'a [TokenLogprob]) -> Logprobs<'a> {
        let mut logprobs = Logprobs::default();
        for token in tokens {
            logprobs.tokens.push(&token.token);
            logprobs.token_logprobs.push(finite(token.logprob));
            let top = token
                .top
                .iter()
                .map(|(text, bytes, logprob)| (key(text, bytes), Value::from(f64::from(finite(*logprob)))));
            logprobs.top_logprobs.push(top.collect());
            logprobs.text_offset.push(self.offset_chars);
            self.offset_chars += token.token.chars().count();
        }
        logprobs
    }
}

/// Tokens that are no text would share the key U+FFFD; OpenAI names them by their bytes.
fn key(text: &str, bytes: &[u8]) -> String {
    if text.as_bytes() == bytes {
        return text.to_owned();
    }
    let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("bytes:{escaped}")
}

impl Shape for Completion {
    fn set_model(&mut self, model: String) {
        self.head.model = model;
    }

    fn opening(&mut self) -> Option<String> {
        None
    }

    fn piece(&mut self, delta: &Delta) -> Option<String> {
        let wants_tokens = self.head.logprobs && !delta.tokens.is_empty();
        if delta.text.is_empty() && !wants_tokens {
            return None;
        }
        let logprobs = wants_tokens.then(|| self.logprobs(&delta.tokens));
        let choice = Choice { text: &delta.text, index: 0, logprobs, finish_reason: None };
        Some(Envelope::chunk(&self.head, OBJECT, choice).json())
    }

    fn closing(&mut self, outcome: &Outcome) -> Vec<String> {
        let choice = Choice { text: "", index: 0, logprobs: None, finish_reason: outcome.finish };
        Envelope::last(&self.head, OBJECT, choice, outcome)
    }

    fn whole(&mut self, answer: &Collected, outcome: &Outcome) -> String {
        let logprobs = self.head.logprobs.then(|| self.logprobs(&answer.tokens));
        let choice = Choice { text: &answer.text, index: 0, logprobs, finish_reason: outcome.finish };
        Envelope::whole(&self.head, OBJECT, choice, outcome).json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_are_no_text_keep_apart() {
        assert_eq!(key("é", "é".as_bytes()), "é");
        assert_eq!(key("\u{fffd}", &[0xe4]), "bytes:\\xe4");
    }

    #[test]
    fn offsets_count_characters_of_the_answer() {
        let head = Head {
            id: "cmpl-1".into(),
            created: 0,
            model: "m".into(),
            logprobs: true,
            include_usage: false,
            explain: false,
        };
        let token = |text: &str| TokenLogprob {
            token: text.into(),
            bytes: text.as_bytes().to_vec(),
            logprob: -1.0,
            ..TokenLogprob::default()
        };
        let mut completion = Completion::new(head);
        assert_eq!(completion.logprobs(&[token("né"), token(" b")]).text_offset, [0, 2]);
        assert_eq!(completion.logprobs(&[token("c")]).text_offset, [4]);
    }
}
