//! What of an answer may leave before it is complete: [`Holdback`] keeps it until it has been judged.
//!
//! Where texts are cut depends on their bytes only, not on the pieces in which they come: so the same answer is
//! judged and released alike under any chunking.

use std::collections::VecDeque;

use contract::Delta;
use serde_json::Value;

use super::super::canonical::folded;
use super::texts::boundary;

/// What a token is taken for, bytes of text.
pub const TOKEN_BYTES: usize = 4;

/// An answer on its way out.
#[derive(Debug)]
pub struct Holdback {
    /// What is judged at once, bytes.
    step_bytes: usize,
    /// The text before what is to be judged next, to see it in context.
    context: String,
    /// Text that was not judged.
    pending: String,
    held: VecDeque<Piece>,
    /// Bytes that were judged of the first one held, which can't be split.
    judged_bytes: usize,
    is_closed: bool,
}

/// What is held back.
#[derive(Debug)]
enum Piece {
    Text {
        text: String,
        is_drafted: bool,
    },
    /// A fragment of a tool's call, with the bytes of its arguments.
    Call(Value, usize),
}

impl Holdback {
    /// Judges after every so many tokens, and at the end.
    pub fn new(window_tokens: u32) -> Self {
        Holdback {
            step_bytes: (window_tokens.max(1) as usize).saturating_mul(TOKEN_BYTES),
            context: String::new(),
            pending: String::new(),
            held: VecDeque::new(),
            judged_bytes: 0,
            is_closed: false,
        }
    }

    /// Takes a piece of the answer in. The tokens behind it are not kept: they would tell what is held back.
    pub fn push(&mut self, delta: Delta) {
        if !delta.text.is_empty() {
            self.pending.push_str(&delta.text);
            self.held.push_back(Piece::Text { text: delta.text, is_drafted: delta.is_drafted });
        }
        for call in delta.tool_calls {
            let arguments = call.pointer("/function/arguments").and_then(Value::as_str).unwrap_or_default();
            self.pending.push_str(arguments);
            let bytes = arguments.len();
            self.held.push_back(Piece::Call(call, bytes));
        }
    }

    /// Nothing more will come.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether everything has left.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is to be judged now, canonical: the next step's text after the one before. `None`: more is to come, or
    /// nothing is left.
    pub fn due(&self) -> Option<String> {
        let end = self.step_end()?;
        let text = [self.context.as_str(), &self.pending[..end]].concat();
        Some(folded(&text).into_owned())
    }

    /// Where the next step ends.
    fn step_end(&self) -> Option<usize> {
        if self.pending.len() >= self.step_bytes {
            // At least one character, however small the step.
            let end = boundary(&self.pending, self.step_bytes);
            return Some(if end > 0 { end } else { self.pending.chars().next().map_or(0, char::len_utf8) });
        }
        (self.is_closed && !self.held.is_empty()).then_some(self.pending.len())
    }

    /// What was due is good: gives what leaves with it.
    pub fn pass(&mut self) -> Vec<Delta> {
        let Some(end) = self.step_end() else { return Vec::new() };
        self.context = self.pending.drain(..end).collect();
        self.judged_bytes += end;
        let mut out = Vec::new();
        while let Some(piece) = self.held.pop_front() {
            match piece {
                Piece::Text { mut text, is_drafted } => {
                    let rest = text.split_off(self.judged_bytes.min(text.len()));
                    self.judged_bytes -= text.len();
                    if !text.is_empty() {
                        out.push(Delta { text, is_drafted, ..Delta::default() });
                    }
                    if !rest.is_empty() {
                        self.held.push_front(Piece::Text { text: rest, is_drafted });
                        break;
                    }
                }
                Piece::Call(call, bytes) if bytes <= self.judged_bytes => {
                    self.judged_bytes -= bytes;
                    out.push(Delta { tool_calls: vec![call], ..Delta::default() });
                }
                call @ Piece::Call(..) => {
                    self.held.push_front(call);
                    break;
                }
            }
        }
        out
    }

    /// What was due is not good: nothing leaves any more.
    pub fn stop(&mut self) {
        self.held.clear();
        self.pending.clear();
        self.is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Sends the answer through; what is judged bad ends it. Gives what left and what was judged.
    fn through(pieces: &[Delta], tokens: u32, is_bad: impl Fn(&str) -> bool) -> (String, Vec<String>) {
        let mut holdback = Holdback::new(tokens);
        let (mut out, mut judged) = (String::new(), Vec::new());
        for piece in pieces.iter().cloned().map(Some).chain([None]) {
            match piece {
                Some(delta) => holdback.push(delta),
                None => holdback.close(),
            }
            while let Some(due) = holdback.due() {
                let bad = is_bad(&due);
                judged.push(due);
                if bad {
                    holdback.stop();
                    return (out, judged);
                }
                for delta in holdback.pass() {
                    out += &delta.text;
                    out.extend(
                        delta.tool_calls.iter().filter_map(|call| call["function"]["arguments"].as_str()),
                    );
                }
            }
        }
        assert!(holdback.is_empty());
        (out, judged)
    }

    fn text(text: &str) -> Delta {
        Delta { text: text.to_owned(), ..Delta::default() }
    }

    #[test]
    fn each_step_is_judged_with_the_one_before() {
        let (out, judged) = through(&[text("abcdefghij")], 1, |_| false);
        assert_eq!(
            (out.as_str(), &judged[..]),
            ("abcdefghij", &["abcd".into(), "abcdefgh".into(), "efghij".into()][..])
        );
        let (out, _) = through(&[text("abcdefghij")], 1, |text| text.contains('f'));
        assert_eq!(out, "abcd");
    }

    #[test]
    fn calls_of_tools_wait_for_their_arguments_to_be_judged() {
        let call = |arguments: &str| Delta {
            tool_calls: vec![json!({"index": 0, "function": {"name": "f", "arguments": arguments}})],
            ..Delta::default()
        };
        let (out, judged) = through(&[text("ab"), call("{\"x\":"), call("1}")], 1, |_| false);
        assert_eq!((out.as_str(), judged.len()), ("ab{\"x\":1}", 3));
        let (out, _) = through(&[text("ab"), call("{\"x\":"), call("1}")], 1, |text| text.contains('x'));
        assert_eq!(out, "ab", "of a call nothing leaves before all of it was judged");
        // A call without arguments is something too.
        let (_, judged) = through(&[call("")], 1, |_| false);
        assert_eq!(judged, [""]);
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_a_judged_prefix_leaves(
            answer in "[a-fé\u{10348} ]{0,80}",
            cuts in proptest::collection::vec(1usize..9, 1..9),
            tokens in 1u32..6,
            bad in "[a-f]{1,2}",
        ) {
            let letters: Vec<char> = answer.chars().collect();
            let mut pieces = Vec::new();
            let (mut rest, mut sizes) = (&letters[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                pieces.push(text(&piece.iter().collect::<String>()));
                rest = after;
            }
            let is_bad = |text: &str| text.contains(&bad);
            let whole = through(&[text(&answer)], tokens, is_bad);
            let (out, judged) = through(&pieces, tokens, is_bad);
            prop_assert_eq!(&(out.clone(), judged.clone()), &whole);
            prop_assert!(answer.starts_with(&out));
            // What left was judged: good steps one after the other are what left, and the context that went before.
            let good: Vec<&String> = judged.iter().filter(|text| !is_bad(text)).collect();
            let mut rebuilt = String::new();
            let mut before = 0;
            for step in good {
                rebuilt.push_str(&step[before..]);
                before = step.len() - before;
            }
            prop_assert_eq!(&rebuilt, &out);
            if !is_bad(&answer) {
                prop_assert_eq!(&out, &answer);
            }
        }
    }
}
