//! `python_tests`: the answer's Python code passes tests. HumanEval's form: tests define `check(candidate)`,
//! and `entry_point` names the function to be tested.

use std::sync::Arc;

use super::{Check, CheckError, Judged, Kind, Tools, Verdict};
use crate::rows::{FieldError, Fields};

/// The kind.
pub const KIND: Kind = Kind { name: "python_tests", what: "Python code that passes tests", read };

/// How far the body of a function is indented, if its answer lost that.
const INDENT: &str = "    ";

/// Runs tests against an answer's code.
#[derive(Clone, Debug)]
pub struct PythonTests {
    tests: String,
    entry_point: Option<String>,
    /// What the answer may go on from, and what its code may use.
    prompt: Option<String>,
}

impl PythonTests {
    /// Tests of code. With an `entry_point` the tests' function `check` is called with it; `prompt` is put
    /// before the code.
    ///
    /// # Errors
    /// If the entry point is no name, in words.
    pub fn new(tests: String, entry_point: Option<String>, prompt: Option<String>) -> Result<Self, String> {
        let is_name = |name: &String| {
            let is_first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            is_first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        match &entry_point {
            Some(name) if !is_name(name) => Err("must be the name of a Python function".to_owned()),
            _ => Ok(PythonTests { tests, entry_point, prompt }),
        }
    }

    /// The program that fails unless the answer is right.
    fn program(&self, answer: &str) -> String {
        let prompt = self.prompt.as_deref().unwrap_or_default();
        let define = self.entry_point.as_ref().map(|name| format!("def {name}"));
        let holds = |code: &str| define.as_ref().is_none_or(|define| code.contains(define));
        let blocks = blocks(answer);
        // The whole function, else what goes on from the prompt.
        let code = match blocks.iter().rev().find(|block| holds(block)) {
            Some(block) => format!("{prompt}\n{block}"),
            None if blocks.is_empty() && holds(answer) => format!("{prompt}\n{answer}"),
            None => {
                let body = blocks.first().map_or(answer, String::as_str);
                format!("{}\n{}", prompt.trim_end(), indented(body))
            }
        };
        let call = self.entry_point.as_ref().map_or(String::new(), |name| format!("check({name})\n"));
        format!("{code}\n\n{}\n\n{call}", self.tests)
    }
}

impl Check for PythonTests {
    fn judge<'a>(&'a self, judged: Judged<'a>, tools: &'a Tools) -> Verdict<'a> {
        Box::pin(async move {
            let sandbox =
                tools.sandbox.as_ref().ok_or_else(|| CheckError("there is no sandbox".to_owned()))?;
            sandbox.passes(&self.program(judged.answer)).await.map_err(|error| CheckError(error.to_string()))
        })
    }

    fn needs_sandbox(&self) -> bool {
        true
    }
}

fn read(fields: Fields) -> Result<Arc<dyn Check>, FieldError> {
    fields.only(&["kind", "answer", "entry_point", "prompt"])?;
    let text = |name| fields.optional::<String>(name, "text");
    let tests = PythonTests::new(fields.answer("answer")?, text("entry_point")?, text("prompt")?);
    Ok(Arc::new(tests.map_err(|what| fields.wrong("entry_point", what))?))
}

/// The code blocks of an answer between fences; the last one may have lost its end.
fn blocks(answer: &str) -> Vec<String> {
    let (mut blocks, mut open): (Vec<String>, Option<String>) = (Vec::new(), None);
    for line in answer.lines() {
        let is_fence = line.trim_start().starts_with("```");
        open = match (open, is_fence) {
            (None, true) => Some(String::new()),
            (None, false) => None,
            (Some(block), true) => {
                blocks.push(block);
                None
            }
            (Some(block), false) => Some(block + line + "\n"),
        };
    }
    blocks.extend(open);
    blocks
}

/// A function's body, indented if it is not.
fn indented(body: &str) -> String {
    let first = body.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with([' ', '\t']) {
        return body.to_owned();
    }
    // Models lose the first line's indentation only, as it follows the prompt's, or all of it.
    let rest_is_indented = body
        .lines()
        .filter(|line| !line.trim().is_empty())
        .skip(1)
        .all(|line| line.starts_with(INDENT) || line.starts_with('\t'));
    let opens_block = first.trim_end().ends_with(':');
    if rest_is_indented && !opens_block {
        return format!("{INDENT}{}", body.trim_start());
    }
    body.lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{INDENT}{line}\n") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::sandbox::tests::sandbox;
    use super::*;

    const PROMPT: &str =
        "import math\n\ndef helper(x):\n    return x\n\ndef double(x):\n    \"\"\"Twice x.\"\"\"\n";
    const TESTS: &str =
        "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n";

    async fn passes(answer: &str) -> bool {
        let check =
            PythonTests::new(TESTS.to_owned(), Some("double".to_owned()), Some(PROMPT.to_owned())).unwrap();
        let tools = Tools { judge: None, sandbox: Some(Arc::new(sandbox())) };
        check.judge(Judged { messages: &[], answer }, &tools).await.unwrap()
    }

    #[tokio::test]
    async fn code_is_found_in_answers_of_several_forms() {
        for answer in [
            "Here:\n```python\ndef double(x):\n    return helper(2 * x)\n```\nIt doubles.",
            "```\ndef double(x):\n    return x + x",
            "def double(x):\n    return x + x\n",
            "    return x + x\n",
            "return x + x",
            "y = x\nif y:\n    y = y + x\nreturn y",
            "y = x\n    return y + x",
            "```python\nreturn 2 * x\n```",
            "```python\nprint(double(2))\n```\n```python\ndef double(x):\n    return math.floor(2 * x)\n```",
        ] {
            assert!(passes(answer).await, "{answer}");
        }
        for answer in [
            "```python\ndef double(x):\n    return x * x\n```",
            "I can't.",
            "",
            "```python\ndef double(x): return 2 * x\nraise SystemExit(0)\n```",
            "```python\ndef double(x): while True: pass\n```",
        ] {
            assert!(!passes(answer).await, "{answer}");
        }
    }
}
