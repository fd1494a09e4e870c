//! The answer of `/v1/chat/completions`: [`Chat`].

use contract::{Delta, FinishReason, TokenLogprob};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Collected, Envelope, Head, Shape, finite};
use crate::flow::Outcome;

const OBJECT: &str = "chat.completion";
const CHUNK_OBJECT: &str = "chat.completion.chunk";

/// Writes a chat answer.
pub(crate) struct Chat {
    head: Head,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<FinishReason>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: DeltaBody<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<FinishReason>,
}

#[derive(Default, Serialize)]
struct DeltaBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    tool_calls: &'a [Value],
}

#[derive(Serialize)]
struct Logprobs<'a> {
    content: Vec<Token<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct Token<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
    top_logprobs: Vec<Top<'a>>,
}

#[derive(Serialize)]
struct Top<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
}

fn logprobs(tokens: &[TokenLogprob]) -> Logprobs<'_> {
    let top = |(token, bytes, logprob)| Top { token, bytes, logprob: finite(logprob) };
    let content = tokens.iter().map(|token| Token {
        token: &token.token,
        logprob: finite(token.logprob),
        bytes: &token.bytes,
        top_logprobs: token
            .top
            .iter()
            .map(|(token, bytes, logprob)| top((token.as_str(), bytes.as_slice(), *logprob)))
            .collect(),
    });
    Logprobs { content: content.collect(), refusal: None }
}

impl Chat {
    pub(crate) fn new(head: Head) -> Self {
        Chat { head }
    }

    fn chunk(&self, delta: DeltaBody<'_>, tokens: Option<&[TokenLogprob]>) -> String {
        let choice = ChunkChoice { index: 0, delta, logprobs: tokens.map(logprobs), finish_reason: None };
        Envelope::chunk(&self.head, CHUNK_OBJECT, choice).json()
    }
}

impl Shape for Chat {
    fn set_model(&mut self, model: String) {
        self.head.model = model;
    }

    fn opening(&mut self) -> Option<String> {
        let delta = DeltaBody { role: Some("assistant"), content: Some(""), tool_calls: &[] };
        Some(self.chunk(delta, None))
    }

    fn piece(&mut self, delta: &Delta) -> Option<String> {
        let tokens = Some(delta.tokens.as_slice()).filter(|tokens| self.head.logprobs && !tokens.is_empty());
        if delta.text.is_empty() && delta.tool_calls.is_empty() && tokens.is_none() {
            return None;
        }
        let text = Some(delta.text.as_str()).filter(|text| !text.is_empty() || tokens.is_some());
        Some(self.chunk(DeltaBody { role: None, content: text, tool_calls: &delta.tool_calls }, tokens))
    }

    fn closing(&mut self, outcome: &Outcome) -> Vec<String> {
        let choice = ChunkChoice {
            index: 0,
            delta: DeltaBody::default(),
            logprobs: None,
            finish_reason: outcome.finish,
        };
        Envelope::last(&self.head, CHUNK_OBJECT, choice, outcome)
    }

    fn whole(&mut self, answer: &Collected, outcome: &Outcome) -> String {
        let tool_calls = merge_tool_calls(&answer.tool_calls);
        let only_tools = answer.text.is_empty() && !tool_calls.is_empty();
        let message = Message {
            role: "assistant",
            content: (!only_tools).then_some(&answer.text),
            refusal: None,
            tool_calls,
        };
        let choice = Choice {
            index: 0,
            message,
            logprobs: self.head.logprobs.then(|| logprobs(&answer.tokens)),
            finish_reason: outcome.finish,
        };
        Envelope::whole(&self.head, OBJECT, choice, outcome).json()
    }
}

/// Joins streamed fragments of tool calls: those with one `index` are one call, whose arguments are
/// concatenated. Fragments without an index are calls of their own.
fn merge_tool_calls(fragments: &[Value]) -> Vec<Value> {
    let mut calls: Vec<(Option<u64>, Map<String, Value>)> = Vec::new();
    for fragment in fragments.iter().filter_map(Value::as_object) {
        let index = fragment.get("index").and_then(Value::as_u64);
        let known = index.and_then(|index| calls.iter_mut().find(|(other, _)| *other == Some(index)));
        match known {
            Some((_, call)) => append(call, fragment),
            None => {
                let mut call = fragment.clone();
                call.shift_remove("index");
                calls.push((index, call));
            }
        }
    }
    calls.into_iter().map(|(_, call)| Value::Object(call)).collect()
}

fn append(call: &mut Map<String, Value>, fragment: &Map<String, Value>) {
    for (key, value) in fragment.iter().filter(|(key, value)| *key != "index" && !value.is_null()) {
        match (call.get_mut(key), value) {
            (Some(Value::Object(function)), Value::Object(more)) => append(function, more),
            (Some(Value::String(text)), Value::String(more)) if key == "arguments" => text.push_str(more),
            (Some(known), _) if !known.is_null() => {}
            _ => {
                call.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tool_call_fragments_become_whole_calls() {
        let fragments = [
            json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
            json!({"index": 0, "function": {"arguments": "{\"x\""}}),
            json!({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
            json!({"index": 0, "function": {"arguments": ":1}"}}),
        ];
        let expected = [
            json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}),
            json!({"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
        ];
        assert_eq!(merge_tool_calls(&fragments), expected);
    }

    #[test]
    fn an_impossible_token_is_still_json() {
        let token = TokenLogprob {
            token: "x".into(),
            bytes: vec![120],
            logprob: f32::NEG_INFINITY,
            top: vec![("y".into(), vec![121], -0.5)],
            entropy: None,
        };
        let json = serde_json::to_value(logprobs(&[token])).unwrap();
        assert_eq!(json["content"][0]["logprob"], json!(-9999.0));
        assert_eq!(
            json["content"][0]["top_logprobs"][0],
            json!({"token": "y", "logprob": -0.5, "bytes": [121]})
        );
    }
}
