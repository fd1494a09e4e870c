//! Multiple choice: a question, its choices and which is right, by index or letter. The fields may be called as
//! HellaSwag, TruthfulQA and MMLU have them.

use std::sync::Arc;

use serde_json::Value;

use super::Format;
use crate::checks::choice::{ChoiceCheck, LETTERS};
use crate::rows::{Expected, FieldError, Fields, Row};

/// The format.
pub const FORMAT: Format = Format {
    name: "choices",
    what: "question, choices, answer",
    detect: |fields| first(fields, QUESTIONS).is_some() && first(fields, CHOICES).is_some(),
    read,
};

/// What the question may be called.
const QUESTIONS: &[&str] = &["question", "ctx"];
/// What the choices may be called.
const CHOICES: &[&str] = &["choices", "endings", "options"];
/// What the right one may be called.
const ANSWERS: &[&str] = &["answer", "expected_index", "answer_index", "label", "gold"];
/// What the kind of question may be called.
const TASKS: &[&str] = &["task", "subject", "source", "category"];

/// Which of the names this row has.
fn first(fields: Fields, names: &[&'static str]) -> Option<&'static str> {
    names.iter().copied().find(|name| fields.has(name))
}

fn read(fields: Fields, name: String) -> Result<Row, FieldError> {
    let of = |names: &[&'static str]| {
        first(fields, names).ok_or_else(|| {
            fields.wrong(names[0], format!("is missing; it may be called {}", names.join(", ")))
        })
    };
    let (question_field, choices_field, answer_field) = (of(QUESTIONS)?, of(CHOICES)?, of(ANSWERS)?);
    let question = fields.text(question_field)?;
    let choices: Vec<String> = fields.required(choices_field, "a list of texts")?;
    if !(2..=LETTERS.len()).contains(&choices.len()) {
        return Err(fields.wrong(choices_field, format!("must have 2 to {} entries", LETTERS.len())));
    }
    let answer = fields.get(answer_field).and_then(|value| index(value, choices.len()));
    let answer = answer.ok_or_else(|| {
        fields.wrong(answer_field, format!("must be an index in 0..{} or its letter", choices.len()))
    })?;
    let listed: Vec<String> =
        choices.iter().zip(LETTERS).map(|(choice, letter)| format!("{letter}. {}", choice.trim())).collect();
    let ask = if question_field == "ctx" { "How does it go on?\n\n" } else { "" };
    let prompt = format!(
        "{ask}{}\n\n{}\n\nReply with the letter of the right answer only.",
        question.trim(),
        listed.join("\n")
    );
    let id = fields.name("id")?.unwrap_or(name);
    let task = first(fields, TASKS).map(|field| fields.name(field)).transpose()?.flatten();
    let check = ChoiceCheck::new(answer, choices);
    let row = Row::asking(id, prompt, Expected::Check(Arc::new(check)));
    Ok(Row { task: task.unwrap_or_else(|| FORMAT.name.to_owned()), ..row })
}

/// An index, a letter, or an index as text.
fn index(value: &Value, choices: usize) -> Option<usize> {
    let index = match value {
        Value::Number(number) => usize::try_from(number.as_u64()?).ok()?,
        Value::String(text) => {
            let text = text.trim();
            let letter =
                LETTERS.iter().position(|letter| text.eq_ignore_ascii_case(letter.encode_utf8(&mut [0; 4])));
            letter.or_else(|| text.parse().ok())?
        }
        _ => return None,
    };
    (index < choices).then_some(index)
}

#[cfg(test)]
mod tests {
    use crate::tasks::read;

    #[test]
    fn the_known_spellings_are_read() {
        for text in [
            r#"{"id":"1","question":"Sky?","choices":["blue","red"],"expected_index":0,"source":"s"}"#,
            r#"{"question":"Sky?","subject":"s","choices":["blue","red"],"answer":"A"}"#,
            r#"{"ctx":"Sky?","source":"s","endings":["blue","red"],"label":"0"}"#,
        ] {
            let rows = read(text.as_bytes(), None).unwrap();
            assert_eq!(rows[0].task, "s");
            let prompt = rows[0].messages[0].content.as_ref().unwrap();
            assert!(prompt.contains("Sky?\n\nA. blue\nB. red"), "{prompt}");
        }
        for (text, words) in [
            (r#"{"question":"?","choices":["x"],"answer":0}"#, "`choices` must have 2 to 10"),
            (r#"{"question":"?","choices":["x","y"],"answer":2}"#, "`answer` must be an index in 0..2"),
            (r#"{"question":"?","choices":["x","y"]}"#, "`answer` is missing"),
        ] {
            let error = read(text.as_bytes(), None).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
