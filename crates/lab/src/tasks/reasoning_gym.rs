//! Rows that reasoning-gym's generators make: `question`, `answer`, `metadata.source_dataset`. An answer that is
//! one number is compared as a number, every other one loosely as text.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Format;
use crate::checks::Check;
use crate::checks::exact::ExactCheck;
use crate::checks::number::NumberCheck;
use crate::rows::{Expected, FieldError, Fields, Row, plain};

/// The format.
pub const FORMAT: Format = Format {
    name: "reasoning-gym",
    what: "question, answer, metadata.source_dataset",
    detect: |fields| {
        let metadata = fields.get("metadata").and_then(Value::as_object);
        fields.has("question") && metadata.is_some_and(|metadata| metadata.contains_key("source_dataset"))
    },
    read,
};

/// How the answer is asked for.
const ASK: &str = "Think step by step in at most four short sentences first. Then end with a new line: Answer: followed by the result.";

fn read(fields: Fields, name: String) -> Result<Row, FieldError> {
    let question = fields.text("question")?;
    let answer = fields.answer("answer")?;
    let metadata: Map<String, Value> = fields.required("metadata", "an object")?;
    let metadata = Fields::new(&metadata, "metadata.");
    let task =
        metadata.name("source_dataset")?.ok_or_else(|| metadata.wrong("source_dataset", "is missing"))?;
    let index = metadata.get("source_index").and_then(plain);
    let id = match (fields.name("id")?, index) {
        (Some(id), _) => id,
        (None, Some(index)) => format!("{task}/{index}"),
        (None, None) => name,
    };
    let check: Arc<dyn Check> = match NumberCheck::new(&answer) {
        Some(number) => Arc::new(number),
        None => Arc::new(ExactCheck::loose(&answer).ok_or_else(|| fields.wrong("answer", "is empty"))?),
    };
    let row = Row::asking(id, format!("{}\n\n{ASK}", question.trim()), Expected::Check(check));
    Ok(Row { slices: BTreeMap::from([("task".to_owned(), task.clone())]), task, ..row })
}

#[cfg(test)]
mod tests {
    use crate::tasks::read;

    #[test]
    fn rows_are_named_after_their_generator() {
        let text = br#"{"question":"Reverse: ab","answer":"ba","metadata":{"source_dataset":"spell_backward","source_index":4}}"#;
        let rows = read(text, None).unwrap();
        assert_eq!((rows[0].id.as_str(), rows[0].task.as_str()), ("spell_backward/4", "spell_backward"));
        let error = read(br#"{"question":"?","answer":null,"metadata":{"source_dataset":"x"}}"#, None);
        assert!(error.unwrap_err().to_string().contains("`answer` is missing"));
    }
}
