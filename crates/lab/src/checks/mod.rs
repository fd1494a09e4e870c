//! How answers are judged: one file per kind of check, and one line in [`KINDS`].

pub mod choice;
pub mod contains;
pub mod exact;
pub mod judge;
pub mod number;
pub mod python_tests;
pub mod regex;
pub mod sandbox;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use contract::{Backend, Message};
use serde_json::{Map, Value};

use crate::rows::{FieldError, Fields};
use sandbox::Sandbox;

/// A kind of check.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name in rows.
    pub name: &'static str,
    /// What it takes for right, in a few words.
    pub what: &'static str,
    /// Makes a check of a row's `check` object.
    read: fn(Fields) -> Result<Arc<dyn Check>, FieldError>,
}

/// Every kind.
pub const KINDS: &[Kind] =
    &[number::KIND, choice::KIND, exact::KIND, contains::KIND, regex::KIND, python_tests::KIND, judge::KIND];

/// Why an answer could not be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(pub String);

/// What a check gives.
pub type Verdict<'a> = Pin<Box<dyn Future<Output = Result<bool, CheckError>> + Send + 'a>>;

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// What was asked.
    pub messages: &'a [Message],
    /// What was answered.
    pub answer: &'a str,
}

/// What some checks need beside the answer.
#[derive(Clone, Default)]
pub struct Tools {
    /// Who judges what no rule can.
    pub judge: Option<Arc<dyn Backend>>,
    /// Where programs are run.
    pub sandbox: Option<Arc<Sandbox>>,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}

/// Tells right answers from wrong ones.
pub trait Check: Send + Sync + fmt::Debug {
    /// Whether the answer is right.
    fn judge<'a>(&'a self, judged: Judged<'a>, tools: &'a Tools) -> Verdict<'a>;
    /// Whether a model must judge.
    fn needs_judge(&self) -> bool {
        false
    }
    /// Whether programs must be run.
    fn needs_sandbox(&self) -> bool {
        false
    }
}

/// A verdict that is there at once.
fn at_once<'a>(is_right: bool) -> Verdict<'a> {
    Box::pin(std::future::ready(Ok(is_right)))
}

/// Makes the check that a row's `check` object describes.
///
/// # Errors
/// [`FieldError`] naming the field.
pub fn read(check: &Map<String, Value>) -> Result<Arc<dyn Check>, FieldError> {
    let fields = Fields::new(check, "check.");
    let name = fields.text("kind")?;
    let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        fields.wrong("kind", format!("must be one of {}", known.join(", ")))
    })?;
    (kind.read)(fields)
}

/// What follows the last mark by which answers announce their result, up to the line's end, without
/// decoration: after `####`, after `answer:` or `answer is`, or inside of `\boxed{}`.
pub fn announced(answer: &str) -> Option<&str> {
    // Lower-casing ASCII only keeps the places of bytes.
    let lower = answer.to_ascii_lowercase();
    let end_of = |mark: &str| lower.rfind(mark).map(|at| at + mark.len());
    let marks = ["####", "answer:", "answer is", "answer is:", "answer:**", "\\boxed{"];
    let at = marks.into_iter().filter_map(end_of).max()?;
    let after = answer[at..].trim_start_matches(|c: char| c.is_whitespace() || "*_:".contains(c));
    let line = after.lines().next().unwrap_or_default();
    let line = if lower[..at].ends_with("\\boxed{") { line.split('}').next().unwrap_or(line) } else { line };
    let line = line.trim();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges without tools.
    pub fn is_right(check: &str, answer: &str) -> bool {
        let check = read(&serde_json::from_str(check).unwrap()).unwrap();
        let judged = Judged { messages: &[], answer };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check.judge(judged, &Tools::default())).unwrap()
    }

    #[test]
    fn results_are_announced_in_several_ways() {
        for (answer, result) in [
            ("2+3=5\n#### 5", Some("5")),
            ("Answer: 7 apples\nThanks.", Some("7 apples")),
            ("So **Answer:** x", Some("x")),
            ("The answer is 3, no: the answer is: 4.", Some("4.")),
            ("Answer:\n12", Some("12")),
            ("hence \\boxed{9} dollars", Some("9")),
            ("no mark", None),
            ("Answer: ", None),
        ] {
            assert_eq!(announced(answer), result, "{answer}");
        }
    }

    #[test]
    fn kinds_are_found_by_name_and_refuse_unknown_fields() {
        for kind in KINDS {
            let text = format!(r#"{{"kind":"{}","answer":"1","tpyo":1}}"#, kind.name);
            let error = read(&serde_json::from_str(&text).unwrap()).unwrap_err();
            assert!(error.to_string().contains("`check.tpyo` is unknown"), "{}: {error}", kind.name);
            let none = format!(r#"{{"kind":"{}"}}"#, kind.name);
            let error = read(&serde_json::from_str(&none).unwrap()).unwrap_err();
            assert!(error.to_string().contains("`check.answer` is missing"), "{}: {error}", kind.name);
        }
    }
}
