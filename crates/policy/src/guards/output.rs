//! Guards on an answer that comes in pieces: [`OutputGuard`].

use std::collections::BTreeMap;
use std::sync::Arc;

use contract::{Channel, Delta, GuardAction, GuardRecord};
use serde_json::{Value, json};

use super::chain::{Add, Link};
use super::json_text::unescaped;
use super::redact::{Restorer, Vault};
use super::stream::{Piece, Window};

/// Most calls of tools in one answer that are guarded; an answer with more is blocked.
const TOOL_CALLS_MAX: usize = 256;

/// Guards one answer: its text, and the arguments of each tool's call.
#[derive(Debug)]
pub struct OutputGuard {
    links: Vec<Arc<Link>>,
    /// The request's values.
    vault: Arc<Vault>,
    /// What the answer's own values became.
    redacted: Vault,
    text: Lane,
    /// By the call's index.
    calls: BTreeMap<u64, Lane>,
    records: Vec<GuardRecord>,
    is_blocked: bool,
}

/// One text on its way out: a window per guard, then the values of the request are put back.
#[derive(Debug)]
struct Lane {
    windows: Vec<Window>,
    restorer: Restorer,
    is_json: bool,
}

impl Lane {
    fn new(guards: usize) -> Self {
        Lane { windows: vec![Window::default(); guards], restorer: Restorer::default(), is_json: false }
    }

    /// For the arguments of a tool's call.
    fn of_json(guards: usize) -> Self {
        Lane { windows: vec![Window::of_json(); guards], restorer: Restorer::in_json(), is_json: true }
    }
}

impl OutputGuard {
    pub(super) fn new(links: Vec<Arc<Link>>, vault: Arc<Vault>) -> Self {
        let text = Lane::new(links.len());
        let records = links.iter().map(|link| link.record(Channel::Output)).collect();
        OutputGuard {
            links,
            // Numbers go on where the request's end, so that no value of the answer's is taken for one of its.
            redacted: (*vault).clone(),
            vault,
            text,
            calls: BTreeMap::new(),
            records,
            is_blocked: false,
        }
    }

    /// Takes a piece of the answer in; gives what may leave, without the tokens behind it: they would tell what was
    /// redacted. After a block nothing leaves any more.
    pub fn push(&mut self, delta: Delta) -> Delta {
        if self.is_blocked {
            return Delta::default();
        }
        let mut text_lane = std::mem::replace(&mut self.text, Lane::new(0));
        let text = self.through(&mut text_lane, &delta.text, false);
        self.text = text_lane;
        let mut tool_calls = Vec::with_capacity(delta.tool_calls.len());
        for mut call in delta.tool_calls {
            if self.is_blocked {
                break;
            }
            self.call(&mut call);
            tool_calls.push(call);
        }
        if self.is_blocked {
            // A call with half its arguments is no call.
            tool_calls.clear();
        }
        Delta { text, tokens: Vec::new(), is_drafted: delta.is_drafted, tool_calls }
    }

    /// Gives what is left of a complete answer.
    pub fn finish(&mut self) -> Delta {
        let mut delta = Delta::default();
        if self.is_blocked {
            return delta;
        }
        let mut lane = std::mem::replace(&mut self.text, Lane::new(0));
        delta.text = self.through(&mut lane, "", true);
        for (index, mut lane) in std::mem::take(&mut self.calls) {
            if self.is_blocked {
                break;
            }
            let rest = self.through(&mut lane, "", true);
            if !rest.is_empty() && !self.is_blocked {
                delta.tool_calls.push(json!({"index": index, "function": {"arguments": rest}}));
            }
        }
        delta
    }

    /// Whether a guard ended the answer.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// What was found so far.
    pub fn records(&self) -> impl Iterator<Item = &GuardRecord> {
        self.records.iter().filter(|record| !record.entities.is_empty())
    }

    /// Guards a fragment of a tool's call in place.
    fn call(&mut self, call: &mut Value) {
        let index = call.get("index").and_then(Value::as_u64).unwrap_or(0);
        let Some(Value::String(arguments)) = call.pointer_mut("/function/arguments") else { return };
        if self.calls.len() >= TOOL_CALLS_MAX && !self.calls.contains_key(&index) {
            self.is_blocked = true;
            return;
        }
        let guards = self.links.len();
        let mut lane = self.calls.remove(&index).unwrap_or_else(|| Lane::of_json(guards));
        *arguments = self.through(&mut lane, arguments, false);
        self.calls.insert(index, lane);
    }

    /// A piece through all guards. What left one before it blocked is guarded by those after it.
    fn through(&mut self, lane: &mut Lane, piece: &str, is_end: bool) -> String {
        let (mut text, mut ends) = (piece.to_owned(), is_end);
        for ((window, link), record) in lane.windows.iter_mut().zip(&self.links).zip(&mut self.records) {
            let mut pieces = window.push(&text, &link.scanner);
            if ends {
                pieces.extend(window.finish(&link.scanner));
            }
            text.clear();
            for piece in pieces {
                let (span, value) = match piece {
                    Piece::Clean(clean) => {
                        text.push_str(&clean);
                        continue;
                    }
                    Piece::Match { span, value } => (span, value),
                };
                record.add(&span);
                match link.settings.action {
                    GuardAction::Block => {
                        (self.is_blocked, ends) = (true, true);
                        break;
                    }
                    GuardAction::Redact => {
                        let value = if lane.is_json { unescaped(&value) } else { value };
                        text.push_str(&self.redacted.placeholder(span.entity, &value, false));
                    }
                    GuardAction::Escalate | GuardAction::Flag => text.push_str(&value),
                }
            }
        }
        let mut out = lane.restorer.push(&text, &self.vault);
        if ends {
            out.push_str(&lane.restorer.finish(&self.vault));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use contract::{Input, Message, MessageRole, Request};
    use proptest::prelude::*;

    use super::*;
    use crate::guards::{Chain, GuardSettings};
    use crate::routing::testing::request;

    fn chain(guards: &[Value]) -> Chain {
        let settings: Vec<GuardSettings> =
            guards.iter().map(|guard| serde_json::from_value(guard.clone()).unwrap()).collect();
        Chain::new(&settings).unwrap()
    }

    fn guard(chain: &Chain, prompt: &str) -> (String, OutputGuard) {
        let messages = vec![Message::text(MessageRole::User, prompt)];
        let mut asked = Request { input: Input::Chat { messages, tools: Vec::new() }, ..request(true) };
        let vault = Arc::new(chain.input(&mut asked).vault);
        (asked.text(), chain.output(&vault).unwrap())
    }

    fn said(guard: &mut OutputGuard, text: &str, cut: usize) -> String {
        let letters: Vec<char> = text.chars().collect();
        let pieces = letters.chunks(cut.max(1)).map(|piece| piece.iter().collect::<String>());
        let mut out: String =
            pieces.map(|text| guard.push(Delta { text, ..Delta::default() }).text).collect();
        out.push_str(&guard.finish().text);
        out
    }

    fn pii() -> Value {
        json!({"name": "pii", "kind": "pattern", "action": "redact", "stage": "both", "restore": true})
    }

    #[test]
    fn the_answer_gets_the_values_of_the_request_back_and_no_others() {
        let chain = chain(&[pii()]);
        for cut in 1..9 {
            let (asked, mut guard) = guard(&chain, "I am jane@example.org");
            assert_eq!(asked, "I am <EMAIL_1>");
            let out = said(
                &mut guard,
                "Dear <EMAIL_1>, not <EMAIL_2> but boss@example.org or jane@example.org",
                cut,
            );
            assert_eq!(out, "Dear jane@example.org, not <EMAIL_2> but <EMAIL_2> or jane@example.org");
            assert_eq!(guard.records().next().map(|record| record.entities["email"]), Some(2));
        }
    }

    #[test]
    fn a_block_ends_the_answer_before_the_match_and_later_guards_still_see_what_leaves() {
        let block = json!({"name": "words", "kind": "pattern", "action": "block", "stage": "output", "deny": ["geheim"]});
        let chain = chain(&[block, pii()]);
        for cut in 1..30 {
            let (_, mut guard) = guard(&chain, "hello");
            assert_eq!(said(&mut guard, "Ask boss@example.org geheim and more", cut), "Ask <EMAIL_1> ");
            assert!(guard.is_blocked());
            assert_eq!(guard.push(Delta { text: "x".into(), ..Delta::default() }), Delta::default());
        }
    }

    #[test]
    fn arguments_of_tools_are_guarded_and_restored_too() {
        let chain = chain(&[pii()]);
        let (_, mut guard) = guard(&chain, "mail jane@example.org");
        let fragment = |text: &str| json!({"index": 2, "function": {"arguments": text}});
        let mut arguments = String::new();
        let mut take = |delta: Delta| {
            for call in &delta.tool_calls {
                assert_eq!(call["index"], 2);
                arguments.push_str(call["function"]["arguments"].as_str().unwrap());
            }
        };
        for piece in ["{\"to\":\"<EMA", "IL_1>\",\"cc\":\"boss@exa", "mple.org\"", "}"] {
            take(guard.push(Delta { tool_calls: vec![fragment(piece)], ..Delta::default() }));
        }
        take(guard.finish());
        assert_eq!(arguments, r#"{"to":"jane@example.org","cc":"<EMAIL_2>"}"#);
    }

    #[test]
    fn escapes_in_arguments_hide_nothing_however_they_are_cut() {
        let arguments = r#"{"to":"boss\u0040example.org","text":"a\nb \u00e9 \ud83d\ude00"}"#;
        for cut in 1..30 {
            let chain = chain(&[pii()]);
            let (_, mut guard) = guard(&chain, "I am boss@example.org");
            let mut out = String::new();
            let mut take = |delta: Delta| {
                out.extend(delta.tool_calls.iter().filter_map(|call| call["function"]["arguments"].as_str()));
            };
            for piece in arguments.as_bytes().chunks(cut) {
                let piece = String::from_utf8(piece.to_vec()).unwrap();
                let call = json!({"index": 0, "function": {"arguments": piece}});
                take(guard.push(Delta { tool_calls: vec![call], ..Delta::default() }));
            }
            take(guard.finish());
            // The value is the request's own, so it goes back.
            assert_eq!(out, r#"{"to":"boss@example.org","text":"a\nb \u00e9 \ud83d\ude00"}"#, "{cut}");
        }
    }

    #[test]
    fn an_answer_that_needs_no_guard_has_none() {
        let mut input = pii();
        input["stage"] = json!("input");
        assert!(chain(&[input]).output(&Arc::default()).is_none());
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_answer(text in "[a-c@. <>EMAIL_1-3\u{430}]{0,60}", cut in 1usize..20) {
            let chain = chain(&[pii()]);
            let (_, mut whole) = guard(&chain, "I am a@b.cc and b@a.bb");
            let (_, mut cuts) = guard(&chain, "I am a@b.cc and b@a.bb");
            prop_assert_eq!(said(&mut cuts, &text, cut), said(&mut whole, &text, usize::MAX));
        }
    }
}
