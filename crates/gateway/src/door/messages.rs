//! The conversation of a chat request: [`read`].

use std::ops::Range;

use contract::{Message, MessageRole, ToolCall};
use serde_json::Value;

use super::Fields;
use crate::wire::ApiError;

/// Reads `messages`; there is at least one, and each has what its role needs. Whether the order of
/// roles suits the model, its template says.
pub(super) fn read(fields: Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let Some(list) = fields.list("messages")?.filter(|list| !list.is_empty()) else {
        return Err(fields.wrong("messages", "a list of at least one message"));
    };
    list.iter().enumerate().map(|(index, value)| message(index, value)).collect()
}

fn message(index: usize, value: &Value) -> Result<Message, ApiError> {
    let path = format!("messages[{index}].");
    let Some(map) = value.as_object() else {
        let path = path.trim_end_matches('.');
        let message = format!(
            "{path} is {}, but it must be an object with role and content",
            super::fields::shown(value)
        );
        return Err(ApiError::field(path, message));
    };
    let fields = Fields::new(map, &path);
    let role = role(fields)?;
    let tool_calls = tool_calls(fields, &path)?;
    let (content, retrieved) = content(fields, &path)?;
    if content.is_none() && (role != MessageRole::Assistant || tool_calls.is_empty()) {
        return Err(fields.wrong("content", "a string or a list of text parts"));
    }
    let tool_call_id = fields.string("tool_call_id")?.map(str::to_owned);
    if role == MessageRole::Tool && tool_call_id.is_none() {
        return Err(fields.wrong("tool_call_id", "the id of the tool call that this message answers"));
    }
    Ok(Message {
        role,
        content,
        name: fields.string("name")?.map(str::to_owned),
        tool_calls,
        tool_call_id,
        retrieved,
    })
}

fn role(fields: Fields<'_>) -> Result<MessageRole, ApiError> {
    match fields.string("role")? {
        Some("system" | "developer") => Ok(MessageRole::System),
        Some("user") => Ok(MessageRole::User),
        Some("assistant") => Ok(MessageRole::Assistant),
        Some("tool") => Ok(MessageRole::Tool),
        _ => Err(fields.wrong("role", "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"")),
    }
}

/// The text, and which parts of it are marked as retrieved.
fn content(fields: Fields<'_>, path: &str) -> Result<(Option<String>, Vec<Range<usize>>), ApiError> {
    let whole = is_retrieved(fields)?;
    match fields.get("content") {
        None => Ok((None, Vec::new())),
        Some(Value::String(text)) => {
            let marks = std::iter::once(0..text.len()).filter(|_| whole).collect();
            Ok((Some(text.clone()), marks))
        }
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let (mut content, mut marks) = (String::new(), Vec::new());
            for (index, part) in parts.iter().enumerate() {
                let from = content.len();
                content.push_str(text_part(part, path, index)?);
                let part_path = format!("{path}content[{index}].");
                let marked = part.as_object().map(|map| is_retrieved(Fields::new(map, &part_path)));
                if whole || marked.transpose()?.unwrap_or(false) {
                    marks.push(from..content.len());
                }
            }
            Ok((Some(content), marks))
        }
        Some(_) => Err(fields.wrong("content", "a string or a list of text parts")),
    }
}

/// Whether a message or a part is marked as brought by a tool, for guards.
fn is_retrieved(fields: Fields<'_>) -> Result<bool, ApiError> {
    match fields.string("tandem_channel")? {
        None | Some("user") => Ok(false),
        Some("tool") => Ok(true),
        Some(_) => Err(fields.wrong("tandem_channel", "\"user\" or \"tool\"")),
    }
}

fn text_part<'a>(part: &'a Value, path: &str, index: usize) -> Result<&'a str, ApiError> {
    let path = format!("{path}content[{index}]");
    let kind = part.get("type").and_then(Value::as_str);
    let text = match kind {
        Some("text") => part.get("text"),
        Some("refusal") => part.get("refusal"),
        Some(other) => {
            let message = format!("{path} is of type {other:?}, but only text is supported");
            return Err(ApiError::field(path, message));
        }
        None => None,
    };
    text.and_then(Value::as_str).ok_or_else(|| {
        let message = format!("{path} must be {{\"type\": \"text\", \"text\": \"…\"}}");
        ApiError::field(path, message)
    })
}

fn tool_calls(fields: Fields<'_>, path: &str) -> Result<Vec<ToolCall>, ApiError> {
    let calls = fields.list("tool_calls")?.unwrap_or_default();
    calls
        .iter()
        .enumerate()
        .map(|(index, call)| {
            let path = format!("{path}tool_calls[{index}]");
            let id = call.get("id").and_then(Value::as_str);
            let kind = call.get("type").and_then(Value::as_str).unwrap_or("function");
            let function = call.get("function").filter(|function| {
                function.get("name").is_some_and(Value::is_string)
                    && function.get("arguments").is_some_and(Value::is_string)
            });
            match (id, function) {
                (Some(id), Some(function)) => {
                    Ok(ToolCall { id: id.to_owned(), kind: kind.to_owned(), function: function.clone() })
                }
                _ => {
                    let message = format!(
                        "{path} must have an id and a function with a name and arguments, all of them strings"
                    );
                    Err(ApiError::field(path, message))
                }
            }
        })
        .collect()
}
