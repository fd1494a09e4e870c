//! JSON into and out of templates: values as templates see them, and `tojson` as Python's
//! `json.dumps` writes.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::{INPUT_DEPTH_MAX, TemplateError};

/// A JSON value as a template's value; objects keep their order.
pub(super) fn to_template(json: &serde_json::Value) -> Result<Value, TemplateError> {
    convert(json, INPUT_DEPTH_MAX)
}

fn convert(json: &serde_json::Value, depth_left: usize) -> Result<Value, TemplateError> {
    let depth_left = depth_left.checked_sub(1).ok_or(TemplateError::InputTooDeep)?;
    Ok(match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) => Value::from(value),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| convert(item, depth_left)).collect();
            Value::from(items?)
        }
        serde_json::Value::Object(fields) => {
            let fields: Result<Vec<_>, TemplateError> =
                fields.iter().map(|(key, value)| Ok((key.as_str(), convert(value, depth_left)?))).collect();
            Value::from_pairs(fields?)
        }
    })
}

/// `json.dumps(value, ensure_ascii=False, indent=…, separators=…, sort_keys=…)`.
pub(super) fn dumps(value: &Value, options: &Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(value)?.min(INDENT_MAX)),
        }),
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let [item, key] = match separators.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(invalid("tojson: separators must be two strings")),
        // Python leaves the space out where a line break follows.
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
    };
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Writer { out: String::new(), indent, item, key, ensure_ascii, sort_keys };
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// Spaces of `indent`, at most.
const INDENT_MAX: usize = 16;
/// Bytes of one `tojson`, at most.
const JSON_BYTES_MAX: usize = 16 << 20;

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

struct Writer {
    out: String,
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > INPUT_DEPTH_MAX || self.out.len() > JSON_BYTES_MAX {
            return Err(invalid("tojson: the value is too deep or too large"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&python_float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.object(value, depth)?,
            _ => return Err(invalid("tojson: the value is not JSON serializable")),
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.separate(&mut empty, depth + 1);
            self.value(&item, depth + 1)?;
        }
        self.close(']', empty, depth);
        Ok(())
    }

    fn object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        let mut empty = true;
        for key in keys {
            self.separate(&mut empty, depth + 1);
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                    self.out.push('"');
                    self.value(&key, depth + 1)?;
                    self.out.push('"');
                }
                _ => return Err(invalid("tojson: keys must be strings, numbers, booleans or none")),
            }
            self.out.push_str(&self.key);
            self.value(&value.get_item(&key)?, depth + 1)?;
        }
        self.close('}', empty, depth);
        Ok(())
    }

    fn separate(&mut self, first: &mut bool, depth: usize) {
        if !std::mem::take(first) {
            self.out.push_str(&self.item);
        }
        self.line_break(depth);
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.line_break(depth);
        }
        self.out.push(bracket);
    }

    fn line_break(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{C}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !matches!(c, ' '..='~' | '\u{7F}')) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits, with an exponent from 1e16 up and under 1e-4.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or_default() {
        exponent @ -4..16 => {
            let text = format!("{value}");
            if exponent >= 0 && !text.contains('.') { text + ".0" } else { text }
        }
        exponent => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(value: serde_json::Value, options: &[(&str, Value)]) -> String {
        let value = to_template(&value).unwrap();
        dumps(&value, &options.iter().map(|(k, v)| (*k, v.clone())).collect::<Kwargs>()).unwrap()
    }

    #[test]
    fn writes_like_python() {
        let value =
            serde_json::json!({"b": [1, -2.5, true, null], "a": "é\"\\\n\u{1}\u{7f}", "c": {}, "d": []});
        let plain =
            "{\"b\": [1, -2.5, true, null], \"a\": \"é\\\"\\\\\\n\\u0001\u{7f}\", \"c\": {}, \"d\": []}";
        assert_eq!(render(value.clone(), &[]), plain);
        let compact = Value::from(vec![",", ":"]);
        assert_eq!(
            render(value.clone(), &[("separators", compact), ("sort_keys", Value::from(true))]),
            "{\"a\":\"é\\\"\\\\\\n\\u0001\u{7f}\",\"b\":[1,-2.5,true,null],\"c\":{},\"d\":[]}"
        );
        let indented = "{\n  \"b\": [\n    1,\n    \"x\"\n  ],\n  \"c\": {}\n}";
        let value = serde_json::json!({"b": [1, "x"], "c": {}});
        assert_eq!(render(value, &[("indent", Value::from(2))]), indented);
        let ascii = render("é😀".into(), &[("ensure_ascii", Value::from(true))]);
        assert_eq!(ascii, "\"\\u00e9\\ud83d\\ude00\"");
    }

    #[test]
    fn floats_like_python() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e22, "1.5e+22"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (1e100, "1e+100"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        let none = Kwargs::from_iter::<[(&str, Value); 0]>([]);
        assert!(dumps(&Value::UNDEFINED, &none).is_err());
        let mut deep = Value::from(1);
        for _ in 0..=INPUT_DEPTH_MAX {
            deep = Value::from(vec![deep]);
        }
        assert!(dumps(&deep, &none).is_err());
    }
}
