//! A call as the engine takes it: its prompt's tokens, how tokens are drawn, and the [`Job`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{BackendError, Call, Event, FailureKind, Input, Message, Request};
use engine::model::Model;
use engine::sampling::SamplingParams;
use engine::scheduler::{Job, Priority};
use engine::template::RenderInput;
use serde_json::Value;
use tokio::sync::mpsc;

use super::Channel;
use super::reading::Told;

/// The engine's job of a call with this prompt; `told`: who is told of its reading.
pub(super) fn job(
    (call, prompt): (&Call, Vec<u32>),
    model: Arc<Model>,
    (events, told): (&mpsc::UnboundedSender<Event>, Option<Told>),
) -> Job {
    let request = &call.request;
    let prompt_tokens = prompt.len() as u64;
    let wanted = request.top_logprobs.map(usize::from);
    let tells_tokens = call.signals || wanted.is_some();
    let sink = Channel { model, tells_tokens, prompt_tokens, cached_tokens: 0, told, events: events.clone() };
    let after = request.deadline_ms.map(Duration::from_millis);
    Job {
        prompt,
        max_tokens: request.max_tokens.map(|n| n as usize),
        stop: request.stop.clone(),
        sampling: sampling(request),
        // The policy's signals are the likeliest token's.
        top_logprobs: wanted.unwrap_or(0).max(usize::from(call.signals)),
        client: call.tenant.clone(),
        speculative: request.options.speculative.unwrap_or(true),
        priority: match request.options.priority {
            contract::Priority::Interactive => Priority::Interactive,
            contract::Priority::Background => Priority::Background,
        },
        reading: None,
        deadline: after.and_then(|after| Instant::now().checked_add(after)),
        sink: Box::new(sink),
    }
}

/// The prompt's tokens: the chat template's text with its special tokens, or the raw text.
pub(super) fn prompt_ids(model: &Model, name: &str, input: &Input) -> Result<Vec<u32>, BackendError> {
    let bad = |message: String| BackendError::new(FailureKind::BadInput, message);
    let tokenizer = model.tokenizer();
    let (messages, tools) = match input {
        Input::Completion { prompt } => return Ok(tokenizer.encode(prompt, true, false)),
        Input::Chat { messages, tools } => (messages, tools),
    };
    let Some(template) = model.template() else {
        return Err(bad(format!("{name} has no chat template (a base model): use /v1/completions")));
    };
    let messages = Value::Array(messages.iter().map(template_message).collect());
    let tools = Value::Array(tools.clone());
    let text = |id: Option<u32>| {
        id.map(|id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned()).unwrap_or_default()
    };
    let (bos_token, eos_token) = (text(tokenizer.bos()), text(tokenizer.eos()));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let rendered = template.render(&RenderInput {
        messages: &messages,
        tools: Some(&tools).filter(|t| t.as_array().is_some_and(|t| !t.is_empty())),
        add_generation_prompt: true,
        bos_token: &bos_token,
        eos_token: &eos_token,
        now_unix_s: i64::try_from(now.as_secs()).unwrap_or_default(),
    });
    let rendered = rendered.map_err(|error| bad(error.to_string()))?;
    Ok(tokenizer.encode(&rendered, false, true))
}

/// A message as templates expect it: text is never null, arguments are objects.
fn template_message(message: &Message) -> Value {
    let mut value = serde_json::to_value(message).unwrap_or_default();
    if message.content.is_none() {
        value["content"] = Value::String(String::new());
    }
    let calls = value.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let arguments = &mut call["function"]["arguments"];
        if let Some(parsed) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok()) {
            *arguments = parsed;
        }
    }
    value
}

fn sampling(request: &Request) -> SamplingParams {
    let s = &request.sampling;
    SamplingParams {
        temperature: s.temperature,
        top_k: s.top_k,
        top_p: s.top_p,
        min_p: s.min_p,
        repetition_penalty: s.repetition_penalty,
        presence_penalty: s.presence_penalty,
        frequency_penalty: s.frequency_penalty,
        logit_bias: s.logit_bias.clone(),
        seed: s.seed.unwrap_or_else(|| seed_of(&request.id)),
        // Who gives a seed wants its tokens again, whatever was drafted meanwhile.
        reproducible: s.seed.is_some(),
    }
}

/// FNV-1a over the id: requests without a seed differ, and a recorded one can be repeated.
fn seed_of(id: &str) -> u64 {
    id.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
