//! Typed reading of a JSON object's fields: [`Fields`]. `null` counts as absent, as with OpenAI.

use serde_json::{Map, Value};

use crate::wire::ApiError;

/// Longest piece of a client's value that an error repeats.
const SHOWN_CHARS_MAX: usize = 40;

/// An object and where it stands in the body.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// `""` or a path ending in a dot, such as `messages[0].`.
    path: &'a str,
}

/// An interval of numbers.
#[derive(Clone, Copy)]
pub(crate) struct Interval {
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Whether `min` itself is allowed.
    pub(crate) with_min: bool,
}

impl Interval {
    /// `min..=max`.
    pub(crate) const fn closed(min: f64, max: f64) -> Self {
        Interval { min, max, with_min: true }
    }

    /// `min..=max` without `min`.
    pub(crate) const fn above(min: f64, max: f64) -> Self {
        Interval { min, max, with_min: false }
    }

    fn holds(self, value: f64) -> bool {
        value.is_finite()
            && value <= self.max
            && if self.with_min { value >= self.min } else { value > self.min }
    }

    fn words(self) -> String {
        let least = if self.with_min { "from" } else { "above" };
        format!("a number {least} {} to {}", self.min, self.max)
    }
}

/// What a value is, for messages; long strings are cut.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.chars().count() > SHOWN_CHARS_MAX => {
            let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
            format!("{cut:?}…")
        }
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, path: &'a str) -> Self {
        Fields { map, path }
    }

    /// The full path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The names of all fields, null ones too.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// `allowed` completes "…, but it must be".
    pub(crate) fn wrong(&self, name: &str, allowed: &str) -> ApiError {
        let path = self.path(name);
        let value = self.map.get(name).map_or_else(|| "missing".to_owned(), shown);
        let message = format!("{path} is {value}, but it must be {allowed}");
        ApiError::field(path, message)
    }

    pub(crate) fn number(&self, name: &str, interval: Interval) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| interval.holds(*number));
        number.map(Some).ok_or_else(|| self.wrong(name, &interval.words()))
    }

    /// A number that is kept in single precision.
    pub(crate) fn float(&self, name: &str, interval: Interval) -> Result<Option<f32>, ApiError> {
        let Some(number) = self.number(name, interval)? else { return Ok(None) };
        // Rounding may leave the interval: the smallest numbers above 0 become 0.
        let float = Some(number as f32).filter(|float| interval.holds(f64::from(*float)));
        float.map(Some).ok_or_else(|| self.wrong(name, &interval.words()))
    }

    pub(crate) fn integer(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let integer = value.as_u64().filter(|integer| (min..=max).contains(integer));
        integer.map(Some).ok_or_else(|| self.wrong(name, &format!("an integer from {min} to {max}")))
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "true or false"))
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, "a string"))
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_array().map(|list| Some(list.as_slice())).ok_or_else(|| self.wrong(name, "a list"))
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.wrong(name, "an object"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn each_type_is_checked_and_null_is_absent() {
        let map = map(json!({"n": 3, "s": "x", "b": true, "l": [1], "o": {}, "z": null, "f": 2.5}));
        let fields = Fields::new(&map, "a.");
        assert_eq!(fields.integer("n", 0, 5).unwrap(), Some(3));
        assert_eq!(fields.integer("z", 0, 5).unwrap(), None);
        assert_eq!(fields.integer("absent", 0, 5).unwrap(), None);
        assert_eq!(fields.string("s").unwrap(), Some("x"));
        let error = fields.integer("f", 0, 5).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("a.f"));
        assert_eq!(error.message, "a.f is 2.5, but it must be an integer from 0 to 5");
        assert!(fields.boolean("s").is_err() && fields.string("b").is_err());
        assert!(fields.list("o").is_err() && fields.object("l").is_err());
    }

    #[test]
    fn intervals_hold_their_ends_as_they_say() {
        let map = map(json!({"zero": 0, "one": 1, "low": -0.001, "big": 1e300}));
        let fields = Fields::new(&map, "");
        let open = Interval::above(0.0, 1.0);
        assert!(fields.number("zero", open).is_err());
        assert_eq!(fields.number("one", open).unwrap(), Some(1.0));
        let closed = Interval::closed(0.0, 2.0);
        assert_eq!(fields.number("zero", closed).unwrap(), Some(0.0));
        assert!(fields.number("low", closed).is_err() && fields.number("big", closed).is_err());
    }

    #[test]
    fn single_precision_stays_in_the_interval() {
        let map = map(json!({"tiny": 1e-300, "tenth": 0.1}));
        let fields = Fields::new(&map, "");
        assert!(fields.float("tiny", Interval::above(0.0, 1.0)).is_err());
        assert_eq!(fields.float("tiny", Interval::closed(0.0, 1.0)).unwrap(), Some(0.0));
        assert_eq!(fields.float("tenth", Interval::above(0.0, 1.0)).unwrap(), Some(0.1));
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        let text = "x".repeat(100_000);
        assert!(shown(&Value::String(text)).len() < 60);
    }
}
