//! Every key of the configuration, one line each: its section, its name and what kind of value it
//! takes. File, environment and flags are all read by this list, so none knows a key that the
//! others lack.

use toml::Value;

use crate::error::CliError;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Switch,
    /// A list of texts; in the environment separated by commas.
    Texts,
    /// An inline table of numbers.
    Table,
    /// Bytes: a whole number, or text such as `3GiB`.
    Bytes,
    /// A list of tables, such as `[[policy.rules]]`.
    Tables,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name within the section.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
}

/// One section.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

const SERVER: &[Key] = &[
    key("listen", Kind::Text),
    key("api_keys", Kind::Texts),
    key("cors", Kind::Texts),
    key("memory", Kind::Bytes),
    key("threads", Kind::Integer),
    key("request_tokens_max", Kind::Integer),
    key("request_bytes_max", Kind::Integer),
    key("http_bytes_max", Kind::Integer),
    key("answer_bytes_max", Kind::Integer),
    key("concurrent_max", Kind::Integer),
    key("queue_max", Kind::Integer),
    key("connections_max", Kind::Integer),
    key("request_timeout_ms", Kind::Integer),
    key("header_timeout_ms", Kind::Integer),
    key("body_timeout_ms", Kind::Integer),
    key("stall_timeout_ms", Kind::Integer),
    key("drain_timeout_ms", Kind::Integer),
];

/// Both `[small]` and `[large]`.
const ROLE: &[Key] = &[
    key("model", Kind::Text),
    key("price", Kind::Table),
    key("context_tokens", Kind::Integer),
    // A local model.
    key("sequences", Kind::Integer),
    key("kv_tokens", Kind::Integer),
    key("batch_tokens", Kind::Integer),
    key("kv_type", Kind::Text),
    key("idle_unload_seconds", Kind::Integer),
    // An upstream.
    key("url", Kind::Text),
    key("api_key_env", Kind::Text),
    key("stream", Kind::Switch),
    key("logprobs", Kind::Switch),
    key("max_tokens_field", Kind::Text),
    key("connect_timeout_ms", Kind::Integer),
    key("first_byte_timeout_ms", Kind::Integer),
    key("idle_timeout_ms", Kind::Integer),
    key("total_timeout_ms", Kind::Integer),
    key("connect_retries_max", Kind::Integer),
    key("response_bytes_max", Kind::Integer),
];

/// Keys of a role that make sense for a local model only.
pub const LOCAL_ONLY: &[&str] = &["sequences", "kv_tokens", "batch_tokens", "kv_type", "idle_unload_seconds"];
/// Keys of a role that make sense for an upstream only.
pub const UPSTREAM_ONLY: &[&str] = &[
    "url",
    "api_key_env",
    "stream",
    "logprobs",
    "max_tokens_field",
    "connect_timeout_ms",
    "first_byte_timeout_ms",
    "idle_timeout_ms",
    "total_timeout_ms",
    "connect_retries_max",
    "response_bytes_max",
];

const POLICY: &[Key] = &[
    key("kind", Kind::Text),
    key("window_tokens", Kind::Integer),
    key("confidence_min", Kind::Number),
    key("token_probability_min", Kind::Number),
    key("on_large_failure", Kind::Text),
    key("sticky", Kind::Text),
    key("calibration", Kind::Text),
    key("max_quality_loss", Kind::Number),
    key("otherwise", Kind::Text),
    key("rules", Kind::Tables),
];

const LEDGER: &[Key] = &[
    key("path", Kind::Text),
    key("keep_text", Kind::Text),
    key("queue_rows_max", Kind::Integer),
    key("commit_interval_ms", Kind::Integer),
];

const CACHE: &[Key] = &[key("packed", Kind::Switch), key("packed_bytes_max", Kind::Bytes)];

const SPECULATIVE: &[Key] = &[
    key("enabled", Kind::Switch),
    key("drafter", Kind::Text),
    key("model", Kind::Text),
    key("coarse_weights", Kind::Switch),
];

/// All sections.
pub const SECTIONS: &[Section] = &[
    Section { name: "server", keys: SERVER },
    Section { name: "small", keys: ROLE },
    Section { name: "large", keys: ROLE },
    Section { name: "policy", keys: POLICY },
    Section { name: "speculative", keys: SPECULATIVE },
    Section { name: "ledger", keys: LEDGER },
    Section { name: "cache", keys: CACHE },
];

impl Section {
    /// The environment variable of a key: `TANDEM_LISTEN`, `TANDEM_SMALL_MODEL`.
    pub fn variable(&self, key: &Key) -> String {
        let name = key.name.to_uppercase();
        match self.name {
            "server" => format!("TANDEM_{name}"),
            section => format!("TANDEM_{}_{name}", section.to_uppercase()),
        }
    }
}

impl Key {
    /// Checks a value from a file; `place` says where it stands.
    ///
    /// # Errors
    /// If it is of another kind.
    pub fn check(&self, value: &Value, place: &str) -> Result<(), CliError> {
        let (fits, expected) = match self.kind {
            Kind::Text => (value.is_str(), "text in quotes"),
            Kind::Integer => (value.is_integer(), "a whole number"),
            Kind::Number => (value.is_integer() || value.is_float(), "a number"),
            Kind::Switch => (value.is_bool(), "true or false"),
            Kind::Texts => {
                let texts = value.as_array().is_some_and(|values| values.iter().all(Value::is_str));
                (texts, "a list of texts in quotes")
            }
            Kind::Table => (value.is_table(), "a table { name = number, … }"),
            Kind::Bytes => (value.is_integer() || value.is_str(), "bytes, or text such as \"3GiB\""),
            Kind::Tables => {
                let tables = value.as_array().is_some_and(|values| values.iter().all(Value::is_table));
                (tables, "a list of tables")
            }
        };
        if fits {
            return Ok(());
        }
        // The value is not shown: it may be a secret.
        Err(CliError::usage(format!("{place} must be {expected}, not {}", value.type_str())))
    }

    /// Reads a value from a flag or an environment variable.
    ///
    /// # Errors
    /// If the text is no such value. The text is not shown: it may be a secret.
    pub fn parse(&self, text: &str, place: &str) -> Result<Value, CliError> {
        let wrong = |expected: &str| CliError::usage(format!("{place} must be {expected}"));
        let text = text.trim();
        Ok(match self.kind {
            Kind::Text | Kind::Bytes => Value::String(text.to_owned()),
            Kind::Integer => Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
            Kind::Number => Value::Float(text.parse().map_err(|_| wrong("a number"))?),
            Kind::Switch => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
            Kind::Texts => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            }
            Kind::Table => {
                let table = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
                let value = table.and_then(|mut table| table.remove("value")).filter(Value::is_table);
                value.ok_or_else(|| wrong("a table { name = number, … }"))?
            }
            Kind::Tables => {
                let table = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
                let value = table.and_then(|mut table| table.remove("value")).filter(Value::is_array);
                value.ok_or_else(|| wrong("a list of tables [{ key = value, … }, …]"))?
            }
        })
    }
}

/// ` (did you mean …?)` with the name most like `wrong`, or nothing.
pub fn suggestion<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    let wrong = wrong.to_lowercase();
    let best = names
        .map(|name| (strsim::damerau_levenshtein(&wrong, &name.to_lowercase()), name))
        .min()
        .filter(|(edits, name)| *edits * 2 <= name.len().max(2));
    best.map(|(_, name)| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Bytes of `3GiB`, `500MB`, `1.5 GiB` or `1073741824`.
///
/// # Errors
/// In words.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no amount of memory; write it like 3GiB or 500MB");
    let trimmed = text.trim();
    let unit_at = trimmed.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tib" => 1_099_511_627_776.0,
        _ => return Err(wrong()),
    };
    let bytes = number.trim().parse::<f64>().map_err(|_| wrong())? * factor;
    // Beyond 2^53 a float is no exact count, and no machine has that much.
    if (1.0..=9e15).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_distinct() {
        let mut names: Vec<String> = SECTIONS
            .iter()
            .flat_map(|section| section.keys.iter().map(|key| section.variable(key)))
            .chain(super::super::layers::OTHER_VARIABLES.iter().map(|name| (*name).to_owned()))
            .collect();
        // TANDEM_THREADS is both: it holds for every command.
        names.retain(|name| name != "TANDEM_THREADS");
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn role_keys_belong_to_one_kind_or_both() {
        for name in LOCAL_ONLY.iter().chain(UPSTREAM_ONLY) {
            assert!(ROLE.iter().any(|key| key.name == *name), "{name}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, expected) in
            [("3GiB", 3 << 30), ("500MB", 500_000_000), (" 1.5 gib ", 3 << 29), ("42", 42), ("1KiB", 1024)]
        {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "GiB", "3XB", "-1GiB", "0", "1e30", "NaN", "inf", "3GiB!"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let names = || ["listen", "api_keys", "queue_max"].into_iter();
        assert_eq!(suggestion("listne", names()), "; did you mean `listen`?");
        assert_eq!(suggestion("API_KEY", names()), "; did you mean `api_keys`?");
        assert_eq!(suggestion("colour_scheme", names()), "");
    }

    #[test]
    fn environment_values_are_read_by_kind() {
        let parse = |kind, text| key("k", kind).parse(text, "TANDEM_K");
        assert_eq!(parse(Kind::Texts, "a, b,").unwrap(), Value::from(vec!["a", "b"]));
        assert_eq!(parse(Kind::Integer, " 7 ").unwrap(), Value::Integer(7));
        assert!(parse(Kind::Table, "{ input_usd_per_mtok = 1 }").unwrap().is_table());
        assert!(parse(Kind::Tables, "[{ name = \"a\" }]").unwrap().is_array());
        for (kind, text) in [
            (Kind::Integer, "1.5"),
            (Kind::Number, "x"),
            (Kind::Switch, "yes"),
            (Kind::Table, "3"),
            (Kind::Table, "{}\nother = 1\nx = [3"),
            (Kind::Tables, "{ name = 1 }"),
        ] {
            let error = parse(kind, text).unwrap_err();
            assert!(error.to_string().contains("TANDEM_K must be") && error.exit_code() == 2, "{error}");
        }
    }
}
