//! What is sent: a [`Call`] as OpenAI's JSON.

use contract::{BackendError, Call, FailureKind, Input, Request, Sampling};
use serde_json::{Map, Value, json};

use super::settings::{MaxTokensField, OpenaiSettings};

/// The request's JSON. Fails if the client wants what the upstream is said not to have.
///
/// `temperature` is always sent, since servers differ in their default; other sampling fields only
/// when they differ from OpenAI's defaults, since hosted models refuse those they do not know.
pub(super) fn body(call: &Call, settings: &OpenaiSettings) -> Result<Value, BackendError> {
    let request = &*call.request;
    let mut body = Map::new();
    body.insert("model".into(), json!(settings.model));
    match &request.input {
        Input::Chat { messages, tools } => {
            body.insert("messages".into(), json!(messages));
            if !tools.is_empty() {
                body.insert("tools".into(), json!(tools));
            }
        }
        Input::Completion { prompt } => {
            body.insert("prompt".into(), json!(prompt));
        }
    }
    if settings.stream {
        body.insert("stream".into(), json!(true));
        body.insert("stream_options".into(), json!({"include_usage": true}));
    } else {
        body.insert("stream".into(), json!(false));
    }
    limits(&mut body, request, settings.max_tokens_field);
    sampling(&mut body, &request.sampling);
    logprobs(&mut body, call, settings)?;
    for (name, value) in &request.passthrough {
        // A field that Tandem understands was validated and is set above.
        body.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(Value::Object(body))
}

fn limits(body: &mut Map<String, Value>, request: &Request, field: MaxTokensField) {
    if let Some(max_tokens) = request.max_tokens {
        let name = match (field, &request.input) {
            (MaxTokensField::MaxCompletionTokens, Input::Chat { .. }) => "max_completion_tokens",
            _ => "max_tokens",
        };
        body.insert(name.into(), json!(max_tokens));
    }
    if !request.stop.is_empty() {
        body.insert("stop".into(), json!(request.stop));
    }
}

fn sampling(body: &mut Map<String, Value>, sampling: &Sampling) {
    let usual = Sampling::default();
    body.insert("temperature".into(), decimal(sampling.temperature));
    for (name, value, default) in [
        ("top_p", sampling.top_p, usual.top_p),
        ("min_p", sampling.min_p, usual.min_p),
        ("repetition_penalty", sampling.repetition_penalty, usual.repetition_penalty),
        ("presence_penalty", sampling.presence_penalty, usual.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty, usual.frequency_penalty),
    ] {
        if value != default {
            body.insert(name.into(), decimal(value));
        }
    }
    if sampling.top_k != usual.top_k {
        body.insert("top_k".into(), json!(sampling.top_k));
    }
    if let Some(seed) = sampling.seed {
        // Upstreams read a signed number.
        body.insert("seed".into(), json!(seed & i64::MAX.unsigned_abs()));
    }
    if !sampling.logit_bias.is_empty() {
        let biases = sampling.logit_bias.iter().map(|(token, bias)| (token.to_string(), decimal(*bias)));
        body.insert("logit_bias".into(), Value::Object(biases.collect()));
    }
}

fn logprobs(
    body: &mut Map<String, Value>,
    call: &Call,
    settings: &OpenaiSettings,
) -> Result<(), BackendError> {
    let wanted = call.request.top_logprobs;
    if wanted.is_some() && !settings.logprobs {
        let model = &settings.model;
        let message = format!("the model `{model}` can't tell log-probabilities; leave `logprobs` out");
        return Err(BackendError::new(FailureKind::BadInput, message));
    }
    if !settings.logprobs || (wanted.is_none() && !call.signals) {
        return Ok(());
    }
    // 0 alternatives would do for OpenAI, but llama-server takes it for no log-probabilities at all;
    // what nobody asked for is dropped from the answer.
    let top = wanted.unwrap_or(0).max(1);
    match &call.request.input {
        Input::Chat { .. } => {
            body.insert("logprobs".into(), json!(true));
            body.insert("top_logprobs".into(), json!(top));
        }
        Input::Completion { .. } => {
            body.insert("logprobs".into(), json!(top));
        }
    }
    Ok(())
}

/// The number as it was written (0.7), not the nearest `f64` of an `f32` (0.699999988).
fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use contract::{Message, MessageRole};

    use super::*;

    fn request(input: Input) -> Request {
        Request::new("chatcmpl-1", input)
    }

    fn chat() -> Request {
        let messages = vec![Message::text(MessageRole::User, "Hi")];
        request(Input::Chat { messages, tools: Vec::new() })
    }

    fn sent(request: Request, signals: bool) -> Value {
        body(
            &Call { request: Arc::new(request), signals, tenant: None },
            &OpenaiSettings::new("http://x", "m"),
        )
        .unwrap()
    }

    #[test]
    fn a_plain_request_carries_nothing_that_was_not_asked_for() {
        let expected = json!({
            "model": "m", "messages": [{"role": "user", "content": "Hi"}],
            "stream": true, "stream_options": {"include_usage": true}, "temperature": 1.0,
        });
        assert_eq!(sent(chat(), false), expected);
    }

    #[test]
    fn everything_asked_for_is_sent_in_openais_words() {
        let mut asked = chat();
        asked.sampling = Sampling {
            temperature: 0.7,
            top_p: 0.9,
            top_k: 40,
            seed: Some(u64::MAX),
            logit_bias: vec![(5, -1.5)],
            ..Sampling::default()
        };
        asked.max_tokens = Some(9);
        asked.stop = vec!["END".into()];
        asked.top_logprobs = Some(3);
        asked.passthrough =
            json!({"user": "u", "temperature": 9, "n": 1}).as_object().cloned().unwrap_or_default();
        let body = sent(asked, false);
        for (field, expected) in [
            ("temperature", json!(0.7)),
            ("top_p", json!(0.9)),
            ("top_k", json!(40)),
            ("seed", json!(i64::MAX)),
            ("logit_bias", json!({"5": -1.5})),
            ("max_tokens", json!(9)),
            ("stop", json!(["END"])),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(3)),
            ("user", json!("u")),
        ] {
            assert_eq!(body[field], expected, "{field}");
        }
        assert!(body.get("min_p").is_none());
    }

    #[test]
    fn signals_alone_ask_for_logprobs_too() {
        let body = sent(chat(), true);
        assert_eq!((&body["logprobs"], &body["top_logprobs"]), (&json!(true), &json!(1)));
    }

    #[test]
    fn completions_have_their_own_logprobs() {
        let completion = request(Input::Completion { prompt: "Once".into() });
        let body = sent(completion.clone(), true);
        assert_eq!((&body["prompt"], &body["logprobs"]), (&json!("Once"), &json!(1)));
        assert!(sent(completion, false).get("logprobs").is_none());
    }

    #[test]
    fn settings_switch_fields() {
        let settings = OpenaiSettings {
            stream: false,
            logprobs: false,
            max_tokens_field: MaxTokensField::MaxCompletionTokens,
            ..OpenaiSettings::new("http://x", "m")
        };
        let mut asked = chat();
        asked.max_tokens = Some(9);
        let call = Call { request: Arc::new(asked.clone()), signals: true, tenant: None };
        let sent = body(&call, &settings).unwrap();
        assert_eq!((&sent["max_completion_tokens"], &sent["stream"]), (&json!(9), &json!(false)));
        assert!(sent.get("logprobs").is_none() && sent.get("stream_options").is_none());
        asked.top_logprobs = Some(0);
        let refused = body(&Call { request: Arc::new(asked), signals: false, tenant: None }, &settings);
        assert_eq!(refused.unwrap_err().kind, FailureKind::BadInput);
    }
}
