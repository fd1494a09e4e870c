//! GSM8K: `question`, and `answer`, whose number follows `####`.

use std::sync::Arc;

use super::Format;
use crate::checks::number::NumberCheck;
use crate::rows::{Expected, FieldError, Fields, Row};

/// The format.
pub const FORMAT: Format = Format {
    name: "gsm8k",
    what: "question, answer with ####",
    detect: |fields| {
        let answer = fields.get("answer").and_then(serde_json::Value::as_str);
        fields.has("question") && answer.is_some_and(|answer| answer.contains(MARK))
    },
    read,
};

/// Stands before the answer's number.
const MARK: &str = "####";

/// How the answer is asked for.
const ASK: &str = "Think step by step in two to four short sentences first. Then write the final number on the last line, after ####.";

fn read(fields: Fields, name: String) -> Result<Row, FieldError> {
    let question = fields.text("question")?;
    let answer = fields.text("answer")?;
    let number = answer
        .rsplit_once(MARK)
        .and_then(|(_, number)| NumberCheck::new(number.trim()))
        .ok_or_else(|| fields.wrong("answer", "must end with #### and a number"))?;
    let id = fields.name("id")?.unwrap_or(name);
    let row = Row::asking(id, format!("{}\n\n{ASK}", question.trim()), Expected::Check(Arc::new(number)));
    Ok(Row { task: FORMAT.name.to_owned(), ..row })
}

#[cfg(test)]
mod tests {
    use crate::tasks::read;

    #[test]
    fn the_number_after_the_mark_is_the_answer() {
        let rows = read(br#"{"question":"2 and 3?","answer":"2+3=<<2+3=5>>5\n#### 1,005"}"#, None).unwrap();
        assert_eq!((rows[0].id.as_str(), rows[0].task.as_str()), ("gsm8k/1", "gsm8k"));
        let error = read(br#"{"question":"?","answer":"five ####"}"#, None).unwrap_err().to_string();
        assert!(error.contains("line 1: `answer` must end with ####"), "{error}");
    }
}
