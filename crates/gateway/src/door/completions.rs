//! The body of `/v1/completions`: [`accept`].

use contract::{Input, Request};
use serde_json::{Map, Value};

use super::{Accepted, Door, Fields, options};
use crate::wire::ApiError;

/// Most alternatives per token, as with OpenAI.
const LOGPROBS_MAX: u64 = 5;

/// Fields read here rather than in `options`.
const OWN: &[&str] = &["prompt", "logprobs", "echo", "suffix", "best_of"];

/// Validates a completion request.
///
/// # Errors
/// [`ApiError`] with status 400, or 404 for a model that does not exist, and the field's name.
pub fn accept(door: &Door<'_>, body: &Map<String, Value>) -> Result<Accepted, ApiError> {
    let fields = Fields::new(body, "");
    let options = options::read(door, fields, OWN)?;
    unsupported(fields)?;
    let top_logprobs = fields.integer("logprobs", 0, LOGPROBS_MAX)?;
    let request = Request {
        id: door.id.clone(),
        input: Input::Completion { prompt: prompt(fields)? },
        target: options.target,
        sampling: options.sampling,
        max_tokens: options.max_tokens,
        stop: options.stop,
        top_logprobs: top_logprobs.map(|top| u8::try_from(top).unwrap_or(u8::MAX)),
        stream: options.stream,
        deadline_ms: door.deadline_ms,
        options: options.options,
        passthrough: options.passthrough,
        continues: None,
    };
    Ok(Accepted { request, include_usage: options.include_usage, ignored: options.ignored })
}

/// Old fields of OpenAI's that change the answer: better refused than silently ignored.
fn unsupported(fields: Fields<'_>) -> Result<(), ApiError> {
    if fields.boolean("echo")? == Some(true) {
        return Err(fields.wrong("echo", "false: the prompt is not echoed"));
    }
    if fields.string("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(fields.wrong("suffix", "absent: inserting text is not supported"));
    }
    match fields.integer("best_of", 0, 20)? {
        None | Some(0 | 1) => Ok(()),
        Some(_) => Err(fields.wrong("best_of", "1: one answer is drawn")),
    }
}

fn prompt(fields: Fields<'_>) -> Result<String, ApiError> {
    let allowed = "a string, or a list of one string (token ids and several prompts are not supported)";
    match fields.get("prompt") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(items)) => match items.as_slice() {
            [Value::String(text)] => Ok(text.clone()),
            _ => Err(fields.wrong("prompt", allowed)),
        },
        _ => Err(fields.wrong("prompt", allowed)),
    }
}
