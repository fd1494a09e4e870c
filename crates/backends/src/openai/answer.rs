//! Reads an upstream's JSON, streamed in chunks or whole, into deltas, an end and usage: [`Answer`].
//!
//! Lenient about what is missing or of an odd type (servers differ widely), since nothing here is
//! trusted beyond being text and numbers; the caller decides whether enough arrived.

use contract::{Delta, FinishReason, TokenLogprob, Usage};
use serde_json::Value;

/// What has arrived of one answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Why it ended, once the upstream said so.
    pub(super) finish: Option<FinishReason>,
    /// What the upstream counted, once it said so.
    pub(super) usage: Option<Usage>,
    /// The upstream ended it because of a fault of its own (`abort`, `error`).
    pub(super) aborted: bool,
    /// Alternatives per token that are kept.
    top: usize,
    tells_logprobs: bool,
    tokens: u64,
    deltas: u64,
}

impl Answer {
    /// An answer of which log-probabilities are kept if `tells_logprobs`, each with `top` alternatives.
    pub(super) fn new(tells_logprobs: bool, top: usize) -> Self {
        Answer { finish: None, usage: None, aborted: false, top, tells_logprobs, tokens: 0, deltas: 0 }
    }

    /// Takes one chunk, or the whole answer; gives what is new in it, if anything.
    pub(super) fn take(&mut self, chunk: &Value) -> Option<Delta> {
        if let Some(usage) = chunk.get("usage").and_then(usage) {
            self.usage = Some(usage);
        }
        let choices = chunk.get("choices")?.as_array()?;
        let is_first = |choice: &&Value| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0;
        let choice = choices.iter().find(is_first)?;
        // Some servers put usage into the choice.
        if let (None, Some(usage)) = (self.usage, choice.get("usage").and_then(usage)) {
            self.usage = Some(usage);
        }
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            self.finish = Some(finish_reason(reason));
            self.aborted |= matches!(reason, "abort" | "error");
        }
        self.delta(choice)
    }

    /// Completion tokens as counted here, for upstreams that tell no usage: the tokens with
    /// log-probabilities, or else one per delta.
    pub(super) fn completion_tokens_estimate(&self) -> u64 {
        self.tokens.max(self.deltas)
    }

    fn delta(&mut self, choice: &Value) -> Option<Delta> {
        // `delta` when streamed, `message` when whole, `text` in the choice itself for completions.
        let part = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(choice);
        let text = text(part);
        let tool_calls = tool_calls(part);
        // The tokens of a chunk that holds only hidden reasoning are not of the answer.
        let is_reasoning = text.is_empty()
            && ["reasoning_content", "reasoning"]
                .iter()
                .any(|field| part.get(field).is_some_and(|v| !v.is_null()));
        let mut tokens = Vec::new();
        if let Some(logprobs) = choice.get("logprobs").filter(|_| !is_reasoning) {
            tokens = token_logprobs(logprobs, self.top);
        }
        self.tokens += tokens.len() as u64;
        self.deltas += u64::from(!text.is_empty() || !tool_calls.is_empty());
        if !self.tells_logprobs {
            tokens.clear();
        }
        let delta = Delta { text, tokens, tool_calls, ..Delta::default() };
        (delta != Delta::default()).then_some(delta)
    }
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "length" | "max_tokens" => FinishReason::Length,
        "tool_calls" | "function_call" | "tool_use" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    }
}

/// The visible text: `text`, `content` (a string, or parts with a `text` each), or `refusal`.
fn text(part: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let parts = |value: &Value| {
        let parts = value.as_array()?.iter().filter_map(|part| part.get("text")?.as_str());
        Some(parts.collect::<String>())
    };
    let content = part.get("content").and_then(|content| text(content).or_else(|| parts(content)));
    let content = content.or_else(|| part.get("text").and_then(text));
    content.or_else(|| part.get("refusal").and_then(text)).unwrap_or_default()
}

/// The tool calls; those of a whole message get the `index` that streamed fragments carry.
fn tool_calls(part: &Value) -> Vec<Value> {
    let mut calls = part.get("tool_calls").and_then(Value::as_array).cloned().unwrap_or_default();
    for (index, call) in calls.iter_mut().enumerate() {
        if let Some(call) = call.as_object_mut() {
            call.entry("index").or_insert_with(|| index.into());
        }
    }
    calls
}

/// Log-probabilities in chat's shape (`content`), which some servers use for completions too, or in
/// completions' (`tokens`, `token_logprobs`, `top_logprobs`).
fn token_logprobs(logprobs: &Value, top: usize) -> Vec<TokenLogprob> {
    if let Some(content) = logprobs.get("content").and_then(Value::as_array) {
        return content.iter().filter_map(|entry| chat_token(entry, top)).collect();
    }
    let list = |field: &str| logprobs.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let alternatives = list("top_logprobs");
    let pairs = list("tokens").iter().zip(list("token_logprobs")).enumerate();
    let token = |(index, (token, logprob)): (usize, (&Value, &Value))| {
        let (token, logprob) = (token.as_str()?.to_owned(), natural_log(logprob)?);
        let named = alternatives.get(index).and_then(Value::as_object).into_iter().flatten();
        let named = named.filter_map(|(token, logprob)| {
            Some((token.clone(), token.clone().into_bytes(), natural_log(logprob)?))
        });
        let bytes = token.clone().into_bytes();
        Some(TokenLogprob { token, bytes, logprob, top: likeliest(named.collect(), top), entropy: None })
    };
    pairs.filter_map(token).collect()
}

fn chat_token(entry: &Value, top: usize) -> Option<TokenLogprob> {
    let (token, bytes, logprob) = chat_entry(entry)?;
    let named = entry.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
    let top = likeliest(named.filter_map(chat_entry).collect(), top);
    Some(TokenLogprob { token, bytes, logprob, top, entropy: None })
}

/// `token`, `bytes` and `logprob` of one entry; without `bytes`, the token's own.
fn chat_entry(entry: &Value) -> Option<(String, Vec<u8>, f32)> {
    let token = entry.get("token")?.as_str()?.to_owned();
    let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let bytes =
        entry.get("bytes").and_then(Value::as_array).and_then(|bytes| bytes.iter().map(byte).collect());
    let logprob = natural_log(entry.get("logprob")?)?;
    let bytes = bytes.unwrap_or_else(|| token.clone().into_bytes());
    Some((token, bytes, logprob))
}

/// A finite number of at most 0; rounding can push a sure token's above it.
fn natural_log(value: &Value) -> Option<f32> {
    Some(value.as_f64()?.clamp(f64::from(f32::MIN), 0.0) as f32)
}

fn likeliest(mut tokens: Vec<(String, Vec<u8>, f32)>, top: usize) -> Vec<(String, Vec<u8>, f32)> {
    tokens.sort_by(|a, b| b.2.total_cmp(&a.2));
    tokens.truncate(top);
    tokens
}

/// Reads usage with the common names for cached tokens; `None` if it counts nothing.
fn usage(usage: &Value) -> Option<Usage> {
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
    let prompt_tokens = count("/prompt_tokens")?;
    // OpenAI, vLLM, SGLang, llama-server; DeepSeek; Moonshot; those who pass Anthropic's name on.
    let cached = count("/prompt_tokens_details/cached_tokens")
        .or_else(|| count("/prompt_cache_hit_tokens"))
        .or_else(|| count("/cached_tokens"))
        .or_else(|| count("/cache_read_input_tokens"));
    Some(Usage {
        prompt_tokens,
        cached_tokens: cached.unwrap_or(0).min(prompt_tokens),
        completion_tokens: count("/completion_tokens").unwrap_or(0),
        accepted_prediction_tokens: count("/completion_tokens_details/accepted_prediction_tokens")
            .unwrap_or(0),
        rejected_prediction_tokens: count("/completion_tokens_details/rejected_prediction_tokens")
            .unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn take(choice: Value) -> Option<Delta> {
        Answer::new(true, 1).take(&json!({ "choices": [choice] }))
    }

    #[test]
    fn text_is_found_in_every_shape() {
        for choice in [
            json!({"delta": {"content": "Hi"}}),
            json!({"message": {"role": "assistant", "content": "Hi"}}),
            json!({"text": "Hi", "index": 0}),
            json!({"delta": {"content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}}),
            json!({"message": {"content": null, "refusal": "Hi"}}),
        ] {
            assert_eq!(take(choice.clone()).map(|delta| delta.text).as_deref(), Some("Hi"), "{choice}");
        }
        for choice in [
            json!({"delta": {"role": "assistant", "content": null}}),
            json!({"delta": {"reasoning_content": "hm"}, "logprobs": {"content": [{"token": "hm", "logprob": -1}]}}),
            json!({"delta": {"content": "second answer"}, "index": 1}),
            json!({"delta": {"content": 7}}),
        ] {
            assert_eq!(take(choice.clone()), None, "{choice}");
        }
    }

    #[test]
    fn chat_and_completion_logprobs_read_the_same() {
        let chat = json!({"text": "é", "logprobs": {"content": [{"token": "é", "bytes": [195, 169], "logprob": -0.5,
            "top_logprobs": [{"token": "b", "logprob": -2.0}, {"token": "é", "logprob": -0.5}]}]}});
        let completion = json!({"text": "é", "logprobs": {"tokens": ["é"], "token_logprobs": [-0.5],
            "top_logprobs": [{"b": -2.0, "é": -0.5}]}});
        let expected = TokenLogprob {
            token: "é".into(),
            bytes: vec![195, 169],
            logprob: -0.5,
            top: vec![("é".into(), vec![195, 169], -0.5)],
            entropy: None,
        };
        for choice in [chat, completion] {
            assert_eq!(take(choice).unwrap().tokens, std::slice::from_ref(&expected));
        }
        let unknown = json!({"text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": [null], "top_logprobs": null}});
        assert!(take(unknown).unwrap().tokens.is_empty());
    }

    #[test]
    fn unasked_logprobs_are_counted_but_not_told() {
        let mut answer = Answer::new(false, 0);
        let chunk = json!({"choices": [{"text": "ab", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1, -1]}}]});
        assert!(answer.take(&chunk).unwrap().tokens.is_empty());
        assert_eq!(answer.completion_tokens_estimate(), 2);
    }

    #[test]
    fn whole_tool_calls_get_the_index_of_fragments() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let delta = take(json!({"message": {"content": null, "tool_calls": [call, call]}})).unwrap();
        assert_eq!((&delta.tool_calls[0]["index"], &delta.tool_calls[1]["index"]), (&json!(0), &json!(1)));
    }

    #[test]
    fn usage_is_read_with_its_variants() {
        for (details, cached) in [
            (json!({"prompt_tokens_details": {"cached_tokens": 4}}), 4),
            (json!({"prompt_tokens_details": null, "prompt_cache_hit_tokens": 5}), 5),
            (json!({"cached_tokens": 6}), 6),
            (json!({"cached_tokens": 99}), 10),
            (json!({}), 0),
        ] {
            let mut value = details.clone();
            value["prompt_tokens"] = json!(10);
            value["completion_tokens"] = json!(3);
            let usage = usage(&value).unwrap();
            assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), (10, cached, 3));
        }
        let speculative = json!({"prompt_tokens": 1, "completion_tokens_details":
            {"accepted_prediction_tokens": 7, "rejected_prediction_tokens": 2}});
        let usage = usage(&speculative).unwrap();
        assert_eq!((usage.accepted_prediction_tokens, usage.rejected_prediction_tokens), (7, 2));
        let mut answer = Answer::new(false, 0);
        assert_eq!(answer.take(&json!({"choices": [], "usage": null})), None);
        assert_eq!(answer.usage, None);
    }

    #[test]
    fn every_end_has_a_reason() {
        for (reason, expected, aborted) in [
            ("stop", FinishReason::Stop, false),
            ("length", FinishReason::Length, false),
            ("tool_calls", FinishReason::ToolCalls, false),
            ("content_filter", FinishReason::ContentFilter, false),
            ("eos_token", FinishReason::Stop, false),
            ("abort", FinishReason::Stop, true),
        ] {
            let mut answer = Answer::new(false, 0);
            answer.take(&json!({"choices": [{"delta": {}, "finish_reason": reason}]}));
            assert_eq!((answer.finish, answer.aborted), (Some(expected), aborted), "{reason}");
        }
    }

    /// JSON in which the field names that are looked for hold anything.
    fn odd_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        let name = prop::sample::select(vec![
            "choices",
            "index",
            "delta",
            "message",
            "text",
            "content",
            "logprobs",
            "tokens",
            "usage",
            "token_logprobs",
            "top_logprobs",
            "token",
            "bytes",
            "logprob",
            "prompt_tokens",
            "tool_calls",
            "prompt_tokens_details",
            "cached_tokens",
            "finish_reason",
        ]);
        leaf.prop_recursive(6, 60, 6, move |inner| {
            let fields = prop::collection::vec((name.clone(), inner.clone()), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                fields.prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_panics_or_gives_an_impossible_logprob(value in odd_json()) {
            let mut answer = Answer::new(true, 3);
            let deltas = [answer.take(&value), answer.take(&json!({"choices": [value]}))];
            let mut tokens = deltas.iter().flatten().flat_map(|delta| &delta.tokens);
            prop_assert!(tokens.all(|token| token.logprob <= 0.0 && token.logprob.is_finite() && token.top.len() <= 3));
        }
    }
}
