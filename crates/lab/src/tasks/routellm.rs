//! Labels without answers, as RouteLLM's evaluation has them: `prompt`, `small_correct`, `large_correct`, and
//! maybe `subject`.

use std::collections::BTreeMap;

use super::Format;
use crate::rows::{Expected, FieldError, Fields, Row};

/// The format.
pub const FORMAT: Format = Format {
    name: "routellm",
    what: "prompt, small_correct, large_correct",
    detect: |fields| fields.has("small_correct") && fields.has("large_correct"),
    read,
};

fn read(fields: Fields, name: String) -> Result<Row, FieldError> {
    let label = |field| fields.required::<bool>(field, "true or false");
    let expected = Expected::Labels { small: label("small_correct")?, large: label("large_correct")? };
    let id = fields.name("id")?.unwrap_or(name);
    let subject = fields.name("subject")?;
    let slices: BTreeMap<String, String> =
        subject.iter().map(|subject| ("subject".to_owned(), subject.clone())).collect();
    let task = subject.unwrap_or_else(|| FORMAT.name.to_owned());
    Ok(Row { task, slices, ..Row::asking(id, fields.text("prompt")?, expected) })
}

#[cfg(test)]
mod tests {
    use contract::Role;

    use crate::tasks::read;

    #[test]
    fn labels_are_all_that_is_known() {
        let rows =
            read(br#"{"subject":"law","prompt":"?","small_correct":false,"large_correct":true}"#, None)
                .unwrap();
        let label = |role| rows[0].expected.label(role);
        assert_eq!((label(Role::Small), label(Role::Large)), (Some(false), Some(true)));
        assert_eq!((rows[0].task.as_str(), rows[0].slices["subject"].as_str()), ("law", "law"));
        let error = read(br#"{"prompt":"?","small_correct":1,"large_correct":true}"#, None).unwrap_err();
        assert!(error.to_string().contains("`small_correct` must be true or false"));
    }
}
