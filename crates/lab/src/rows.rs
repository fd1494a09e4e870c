//! Rows to be evaluated: a [`Row`] says what is asked and how its answer is judged. Reading them from a file
//! is the work of [`crate::tasks`]; here are the row itself, its fields and the ways in which they can be wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use contract::{Message, MessageRole, Role};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::checks::Check;

/// Most tokens that a row may ask for.
pub const MAX_TOKENS_MAX: u32 = 1 << 20;
/// Bytes of an id, a task's name or a slice's value.
pub const NAME_BYTES_MAX: usize = 256;
/// Slices of a row.
pub const SLICES_MAX: usize = 32;

/// One question, and how its answer is judged.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name, the only one of it in a file.
    pub id: String,
    /// What is asked; never empty.
    pub messages: Vec<Message>,
    /// What is right.
    pub expected: Expected,
    /// The task that it belongs to.
    pub task: String,
    /// Other properties by which results are told apart.
    pub slices: BTreeMap<String, String>,
    /// Most tokens of its answer, if the row says so.
    pub max_tokens: Option<u32>,
}

impl Row {
    /// A row that asks one thing, without slices.
    pub fn asking(id: String, prompt: impl Into<String>, expected: Expected) -> Self {
        let messages = vec![Message::text(MessageRole::User, prompt)];
        Row { id, messages, expected, task: String::new(), slices: BTreeMap::new(), max_tokens: None }
    }
}

/// How it is known whether a row's answer is right.
#[derive(Clone, Debug)]
pub enum Expected {
    /// The answer is looked at.
    Check(Arc<dyn Check>),
    /// It is known without an answer: somebody else has asked.
    Labels {
        /// Whether the small model's is right.
        small: bool,
        /// Whether the large model's is.
        large: bool,
    },
}

impl Expected {
    /// What is known without an answer.
    pub fn label(&self, role: Role) -> Option<bool> {
        match (self, role) {
            (Expected::Check(_), _) => None,
            (Expected::Labels { small, .. }, Role::Small) => Some(*small),
            (Expected::Labels { large, .. }, Role::Large) => Some(*large),
        }
    }
}

/// A field that can't be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {what}")]
pub struct FieldError {
    /// Its name; inside of an object, with the object's and a dot.
    pub field: String,
    /// What is wrong, and what it should be.
    pub what: String,
}

impl FieldError {
    /// The error of a field.
    pub fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        FieldError { field: field.into(), what: what.into() }
    }
}

/// A JSON object whose fields are taken one by one.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Of the object itself, with a dot; empty at the top.
    prefix: &'static str,
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fields").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl<'a> Fields<'a> {
    /// The fields of an object; `prefix` is put before their names in errors.
    pub fn new(map: &'a Map<String, Value>, prefix: &'static str) -> Self {
        Fields { map, prefix }
    }

    /// The error of a field of this object.
    pub fn wrong(&self, field: &str, what: impl Into<String>) -> FieldError {
        FieldError::new(format!("{}{field}", self.prefix), what)
    }

    /// Whether there is such a field.
    pub fn has(&self, field: &str) -> bool {
        self.get(field).is_some()
    }

    /// A field, if it is there and not null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// A field of a type, if it is there.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn optional<T: DeserializeOwned>(&self, field: &str, kind: &str) -> Result<Option<T>, FieldError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        // The value itself may be long; its kind says enough.
        T::deserialize(value).map(Some).map_err(|_| self.wrong(field, format!("must be {kind}")))
    }

    /// A field of a type.
    ///
    /// # Errors
    /// If it is not there or of another type.
    pub fn required<T: DeserializeOwned>(&self, field: &str, kind: &str) -> Result<T, FieldError> {
        self.optional(field, kind)?.ok_or_else(|| self.wrong(field, format!("is missing; it must be {kind}")))
    }

    /// A text that may not be empty.
    ///
    /// # Errors
    /// If it is not there, no text, or empty.
    pub fn text(&self, field: &str) -> Result<String, FieldError> {
        let text: String = self.required(field, "text")?;
        if text.trim().is_empty() {
            return Err(self.wrong(field, "is empty"));
        }
        Ok(text)
    }

    /// A short text, or a number, as a name.
    ///
    /// # Errors
    /// If it is of another type, empty or longer than [`NAME_BYTES_MAX`].
    pub fn name(&self, field: &str) -> Result<Option<String>, FieldError> {
        let name = match self.get(field) {
            None => return Ok(None),
            Some(value) => plain(value).ok_or_else(|| self.wrong(field, "must be text or a number"))?,
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(self.wrong(field, format!("must have 1 to {NAME_BYTES_MAX} bytes")));
        }
        Ok(Some(name))
    }

    /// A text, or a number as it is written.
    ///
    /// # Errors
    /// If it is not there or something else.
    pub fn answer(&self, field: &str) -> Result<String, FieldError> {
        let value =
            self.get(field).ok_or_else(|| self.wrong(field, "is missing; it must be the right answer"))?;
        plain(value).ok_or_else(|| self.wrong(field, "must be text or a number"))
    }

    /// Refuses fields that nobody knows, most likely misspelt.
    ///
    /// # Errors
    /// For the first one.
    pub fn only(&self, known: &[&str]) -> Result<(), FieldError> {
        match self.map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.wrong(key, format!("is unknown here; known are {}", known.join(", ")))),
            None => Ok(()),
        }
    }
}

/// Text as it is, numbers and truth values as they are written.
pub fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
