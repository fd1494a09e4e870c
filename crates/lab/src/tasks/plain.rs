//! Tandem's own rows: `id`, `messages` or `prompt`, `check`, and optionally `task`, `slices`, `max_tokens`.

use std::collections::BTreeMap;

use contract::{Message, MessageRole};
use serde_json::{Map, Value};

use super::Format;
use crate::checks;
use crate::rows::{Expected, FieldError, Fields, MAX_TOKENS_MAX, Row, SLICES_MAX, plain};

/// The format.
pub const FORMAT: Format = Format {
    name: "rows",
    what: "id, messages or prompt, check",
    detect: |fields| fields.has("check"),
    read,
};

/// What a row may have.
const FIELDS: &[&str] = &["id", "messages", "prompt", "check", "task", "slices", "max_tokens"];

fn read(fields: Fields, _: String) -> Result<Row, FieldError> {
    fields.only(FIELDS)?;
    let id = fields.name("id")?.ok_or_else(|| fields.wrong("id", "is missing"))?;
    let check: Map<String, Value> = fields.required("check", "an object")?;
    let max_tokens = fields.optional::<u32>("max_tokens", "a whole number of tokens")?;
    if max_tokens.is_some_and(|tokens| tokens == 0 || tokens > MAX_TOKENS_MAX) {
        return Err(fields.wrong("max_tokens", format!("must be in 1..={MAX_TOKENS_MAX}")));
    }
    Ok(Row {
        id,
        messages: messages(fields)?,
        expected: Expected::Check(checks::read(&check)?),
        task: fields.name("task")?.unwrap_or_default(),
        slices: slices(fields)?,
        max_tokens,
    })
}

fn messages(fields: Fields) -> Result<Vec<Message>, FieldError> {
    if fields.has("messages") == fields.has("prompt") {
        return Err(fields.wrong("prompt", "or `messages` must be there, and not both"));
    }
    if fields.has("prompt") {
        return Ok(vec![Message::text(MessageRole::User, fields.text("prompt")?)]);
    }
    let messages: Vec<Message> = fields.required("messages", "a list of messages with role and content")?;
    if messages.is_empty() {
        return Err(fields.wrong("messages", "is empty"));
    }
    Ok(messages)
}

fn slices(fields: Fields) -> Result<BTreeMap<String, String>, FieldError> {
    let given: Map<String, Value> = fields.optional("slices", "an object")?.unwrap_or_default();
    if given.len() > SLICES_MAX {
        return Err(fields.wrong("slices", format!("has more than {SLICES_MAX} entries")));
    }
    let each = given.into_iter().map(|(name, value)| {
        let value = plain(&value).ok_or_else(|| {
            FieldError::new(format!("slices.{name}"), "must be text, a number or a truth value")
        })?;
        Ok((name, value))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use crate::tasks::read;

    const ROW: &str = r#"{"id":"a","prompt":"1+1?","check":{"kind":"number","answer":2}}"#;

    #[test]
    fn a_prompt_is_one_message_of_the_user() {
        let rows = read(ROW.as_bytes(), None).unwrap();
        assert_eq!(rows[0].messages[0].content.as_deref(), Some("1+1?"));
        assert_eq!((rows[0].id.as_str(), rows[0].task.as_str(), rows[0].max_tokens), ("a", "", None));
    }

    #[test]
    fn optional_fields_are_kept() {
        let text = r#"{"id":7,"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}],
            "check":{"kind":"exact","answer":"x"},"task":"t","slices":{"length":"short","n":3},"max_tokens":9}"#;
        let rows = read(text.replace('\n', " ").as_bytes(), Some("rows")).unwrap();
        let row = &rows[0];
        assert_eq!((row.id.as_str(), row.task.as_str(), row.max_tokens), ("7", "t", Some(9)));
        assert_eq!(
            (row.messages.len(), row.slices["length"].as_str(), row.slices["n"].as_str()),
            (2, "short", "3")
        );
    }

    #[test]
    fn wrong_rows_name_line_and_field() {
        let with = |more: &str| ROW.replace("{\"id\":\"a\"", &format!("{{\"id\":\"a\",{more}"));
        for (row, words) in [
            ("{\"check\":{}}".to_owned(), "line 2: `id` is missing"),
            ("[]".to_owned(), "line 2: not a JSON object"),
            ("{".to_owned(), "line 2: not a JSON object"),
            (ROW.replace("\"id\":\"a\",", "\"id\":[],"), "`id` must be text or a number"),
            (ROW.replace("\"prompt\"", "\"promt\""), "`promt` is unknown"),
            (ROW.replace("1+1?", " "), "`prompt` is empty"),
            (with("\"messages\":[]"), "not both"),
            (with("\"max_tokens\":0"), "`max_tokens` must be in 1..="),
            (with("\"slices\":{\"a\":[]}"), "`slices.a` must be text"),
            (ROW.replace("number", "numbre"), "`check.kind`"),
            (ROW.replace("\"answer\":2", "\"answer\":\"two\""), "`check.answer`"),
            (ROW.to_owned(), "line 2: the id \"a\" is that of line 1 already"),
        ] {
            let error = read(format!("{ROW}\n{row}\n").as_bytes(), Some("rows")).unwrap_err().to_string();
            assert!(error.contains(words) && error.starts_with("line 2"), "{row}: {error}");
        }
        assert!(read(b"\n \n", None).unwrap_err().to_string().contains("no row"));
    }
}
