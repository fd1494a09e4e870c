//! Reading JSON lines, golden ones and our own: fields by name, with errors that say what is missing.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The lines of a golden file whose `model` is this one.
///
/// # Errors
/// If the file can't be read or has no such line.
pub fn lines(file: &Path, model: &str) -> Result<Vec<Value>, String> {
    let named = |problem: String| format!("{}: {problem}", file.display());
    let text = fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let value: Value =
            serde_json::from_str(line).map_err(|error| named(format!("line {}: {error}", number + 1)))?;
        if value["model"] == model {
            found.push(value);
        }
    }
    if found.is_empty() { Err(named(format!("no line is about {model}"))) } else { Ok(found) }
}

/// The field as a list.
///
/// # Errors
/// If it is none.
pub fn list<'a>(line: &'a Value, field: &str) -> Result<&'a [Value], String> {
    line[field].as_array().map(Vec::as_slice).ok_or_else(|| wrong(line, field, "a list"))
}

/// The field as token ids.
///
/// # Errors
/// If it is something else.
pub fn ids(line: &Value, field: &str) -> Result<Vec<u32>, String> {
    ids_of(&line[field]).ok_or_else(|| wrong(line, field, "a list of token ids"))
}

/// A list of token ids.
pub fn ids_of(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array()?.iter().map(id).collect()
}

/// The field as numbers.
///
/// # Errors
/// If it is something else.
pub fn numbers(line: &Value, field: &str) -> Result<Vec<f64>, String> {
    let numbers = list(line, field)?.iter().map(Value::as_f64).collect::<Option<_>>();
    numbers.ok_or_else(|| wrong(line, field, "a list of numbers"))
}

/// The field as a number.
///
/// # Errors
/// If it is something else.
pub fn number(line: &Value, field: &str) -> Result<f64, String> {
    line[field].as_f64().ok_or_else(|| wrong(line, field, "a number"))
}

/// The field as text.
///
/// # Errors
/// If it is something else.
pub fn text<'a>(line: &'a Value, field: &str) -> Result<&'a str, String> {
    line[field].as_str().ok_or_else(|| wrong(line, field, "a text"))
}

fn wrong(line: &Value, field: &str, wanted: &str) -> String {
    let shown: String = line.to_string().chars().take(200).collect();
    format!("`{field}` is not {wanted} in {shown}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_another_kind_are_named() {
        let line = json!({"ids": [1, 2], "n": 0.5, "s": "x", "negative": [-1]});
        assert_eq!(ids(&line, "ids").unwrap(), [1, 2]);
        assert_eq!(numbers(&line, "ids").unwrap(), [1.0, 2.0]);
        assert_eq!((number(&line, "n").unwrap(), text(&line, "s").unwrap()), (0.5, "x"));
        for problem in [
            ids(&line, "negative").unwrap_err(),
            numbers(&line, "s").unwrap_err(),
            number(&line, "missing").unwrap_err(),
            text(&line, "n").unwrap_err(),
        ] {
            assert!(problem.starts_with('`'), "{problem}");
        }
    }

    #[test]
    fn every_model_has_golden_lines() {
        let folder = crate::root().join("tests/golden");
        for model in super::super::options::MODELS {
            for file in ["tokenize.jsonl", "logits.jsonl", "logits_f32.jsonl", "greedy.jsonl"] {
                assert!(!lines(&folder.join(file), model).unwrap().is_empty(), "{file} {model}");
            }
        }
        assert!(lines(&folder.join("greedy.jsonl"), "no-such-model").is_err());
    }
}
