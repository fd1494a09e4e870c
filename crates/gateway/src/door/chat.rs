//! The body of `/v1/chat/completions`: [`accept`].

use contract::{Input, Request};
use serde_json::{Map, Value};

use super::{Accepted, Door, Fields, messages, options};
use crate::wire::ApiError;

/// Most alternatives per token, as with OpenAI.
const TOP_LOGPROBS_MAX: u64 = 20;

/// Fields read here rather than in `options`.
const OWN: &[&str] = &["messages", "tools", "logprobs", "top_logprobs"];

/// Validates a chat request.
///
/// # Errors
/// [`ApiError`] with status 400, or 404 for a model that does not exist, and the field's name.
pub fn accept(door: &Door<'_>, body: &Map<String, Value>) -> Result<Accepted, ApiError> {
    let fields = Fields::new(body, "");
    let options = options::read(door, fields, OWN)?;
    text_only(fields)?;
    let input = Input::Chat { messages: messages::read(fields)?, tools: tools(fields)? };
    let request = Request {
        id: door.id.clone(),
        input,
        target: options.target,
        sampling: options.sampling,
        max_tokens: options.max_tokens,
        stop: options.stop,
        top_logprobs: top_logprobs(fields)?,
        stream: options.stream,
        deadline_ms: door.deadline_ms,
        options: options.options,
        passthrough: options.passthrough,
        continues: None,
    };
    Ok(Accepted { request, include_usage: options.include_usage, ignored: options.ignored })
}

fn text_only(fields: Fields<'_>) -> Result<(), ApiError> {
    let modalities = fields.list("modalities")?.unwrap_or_default();
    if modalities.iter().any(|modality| modality.as_str() != Some("text")) {
        return Err(fields.wrong("modalities", "[\"text\"]: this server answers in text only"));
    }
    Ok(())
}

fn top_logprobs(fields: Fields<'_>) -> Result<Option<u8>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX)?;
    match (wanted, top) {
        (false, Some(1..)) => {
            Err(ApiError::field("top_logprobs", "top_logprobs is only allowed when logprobs is true"))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(u8::try_from(top.unwrap_or(0)).unwrap_or(u8::MAX))),
    }
}

fn tools(fields: Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let tools = fields.list("tools")?.unwrap_or_default();
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tools[{index}]");
        let name = tool.pointer("/function/name").and_then(Value::as_str);
        if tool.get("type").and_then(Value::as_str) != Some("function") || name.is_none_or(str::is_empty) {
            let message = format!(
                "{path} must be {{\"type\": \"function\", \"function\": {{\"name\": …, \"parameters\": …}}}}"
            );
            return Err(ApiError::field(path, message));
        }
    }
    Ok(tools.to_vec())
}
