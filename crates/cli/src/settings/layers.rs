//! Stage one of the settings: file, environment and flags laid over each other into one [`Raw`]
//! table. Every key is known and of the right kind; whether the values make sense is stage two's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::guards;
use super::keys::{LOCAL_ONLY, SECTIONS, Section, UPSTREAM_ONLY, suggestion};
use crate::environment::Environment;
use crate::error::{CliError, unreadable};

/// The file that is read where none is named.
pub const FILE_DEFAULT: &str = "tandem.toml";
/// Bytes of a configuration file, at most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Environment variables that are no key of a section.
pub const OTHER_VARIABLES: &[&str] = &[
    "TANDEM_CONFIG",
    "TANDEM_HOME",
    "TANDEM_ISA",
    "TANDEM_LARGE",
    "TANDEM_LOG",
    "TANDEM_PYTHON",
    "TANDEM_SMALL",
    "TANDEM_THREADS",
];

/// What flags say.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--small`, `--large`: the section, and a reference or URL.
    pub roles: Vec<(&'static str, String)>,
    /// Single keys: section, key, the flag's name, its value.
    pub keys: Vec<(&'static str, &'static str, &'static str, String)>,
}

/// Sections with their keys, checked for kind.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// Keys by section; a section without keys may be absent.
    pub sections: BTreeMap<&'static str, Table>,
    /// The `[[guard]]` entries, with known keys.
    pub guards: Vec<Table>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// Reads all layers, the weakest first.
///
/// # Errors
/// [`CliError::Missing`] if a named file is not there; [`CliError::Usage`] for unknown keys and values
/// of the wrong kind, saying where they stand.
pub fn read(flags: &Flags, environment: &Environment, folder: &Path) -> Result<Raw, CliError> {
    let mut raw = Raw::default();
    let named = match &flags.config {
        Some(path) => Some(path.clone()),
        None => environment.get("TANDEM_CONFIG")?.map(PathBuf::from),
    };
    let default = folder.join(FILE_DEFAULT);
    if let Some(path) = named.or_else(|| default.is_file().then_some(default)) {
        raw.add_file(&text_of(&path)?, &path.display().to_string())?;
        raw.file = Some(path);
    }
    raw.add_environment(environment)?;
    raw.add_flags(flags)?;
    Ok(raw)
}

fn text_of(path: &Path) -> Result<String, CliError> {
    let bytes = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(CliError::usage(format!(
            "{} has {bytes} bytes, which is no configuration; the limit is {FILE_BYTES_MAX}",
            path.display()
        )));
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

impl Raw {
    /// Lays a file's text over what is there; `name` is for messages.
    fn add_file(&mut self, text: &str, name: &str) -> Result<(), CliError> {
        // The line itself is not shown: it may hold a key.
        let file: Table = toml::from_str(text).map_err(|error| {
            let at = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = at.matches('\n').count() + 1;
            CliError::usage(format!("{name}:{line}: not TOML: {}", error.message()))
        })?;
        for (section_name, values) in file {
            if section_name == "guard" {
                self.guards = guards::tables(values, name)?;
                continue;
            }
            let section = SECTIONS.iter().find(|section| section.name == section_name).ok_or_else(|| {
                let hint = suggestion(&section_name, SECTIONS.iter().map(|section| section.name));
                CliError::usage(format!("{name}: there is no section [{section_name}]{hint}"))
            })?;
            let Value::Table(values) = values else {
                return Err(CliError::usage(format!(
                    "{name}: `{section_name}` must be a section [{section_name}]"
                )));
            };
            self.add_section(section, values, name)?;
        }
        Ok(())
    }

    fn add_section(&mut self, section: &'static Section, values: Table, file: &str) -> Result<(), CliError> {
        for (name, value) in values {
            let key = section.keys.iter().find(|key| key.name == name).ok_or_else(|| {
                let hint = suggestion(&name, section.keys.iter().map(|key| key.name));
                CliError::usage(format!("{file}: [{}] has no key `{name}`{hint}", section.name))
            })?;
            key.check(&value, &format!("{file}: {}.{name}", section.name))?;
            self.set(section.name, key.name, value);
        }
        Ok(())
    }

    fn add_environment(&mut self, environment: &Environment) -> Result<(), CliError> {
        for section in ["small", "large"] {
            if let Some(text) = environment.get(&format!("TANDEM_{}", section.to_uppercase()))? {
                self.set_role(section, text);
            }
        }
        for section in SECTIONS {
            for key in section.keys {
                let variable = section.variable(key);
                if let Some(text) = environment.get(&variable)? {
                    let place = format!("the environment variable {variable}");
                    self.set(section.name, key.name, key.parse(text, &place)?);
                }
            }
        }
        Ok(())
    }

    fn add_flags(&mut self, flags: &Flags) -> Result<(), CliError> {
        for (section, text) in &flags.roles {
            self.set_role(section, text);
        }
        for (section_name, key_name, flag, text) in &flags.keys {
            let section = SECTIONS.iter().find(|section| section.name == *section_name);
            let key = section.and_then(|section| section.keys.iter().find(|key| key.name == *key_name));
            // Every flag names a key; a test says so.
            let Some(key) = key else { continue };
            self.set(section_name, key_name, key.parse(text, flag)?);
        }
        Ok(())
    }

    /// Fills a role with a model reference or a URL, dropping what only the other kind has.
    fn set_role(&mut self, section: &'static str, text: &str) {
        let table = self.section(section);
        if is_url(text) {
            if !table.contains_key("url") {
                table.remove("model");
            }
            LOCAL_ONLY.iter().for_each(|name| drop(table.remove(*name)));
            table.insert("url".to_owned(), Value::String(text.to_owned()));
        } else {
            UPSTREAM_ONLY.iter().for_each(|name| drop(table.remove(*name)));
            table.insert("model".to_owned(), Value::String(text.to_owned()));
        }
    }

    fn set(&mut self, section: &'static str, key: &str, value: Value) {
        self.section(section).insert(key.to_owned(), value);
    }

    /// A section's keys.
    pub fn section(&mut self, name: &'static str) -> &mut Table {
        self.sections.entry(name).or_default()
    }
}

/// Whether a role is given as an upstream.
pub fn is_url(text: &str) -> bool {
    let lower = text.trim_start().to_ascii_lowercase();
    lower.starts_with("http://") || lower.starts_with("https://")
}

/// Variables that look like ours but are not: most likely misspelt. Each with what may have been meant.
pub fn unknown_variables(environment: &Environment) -> Vec<String> {
    let known: Vec<String> = SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(|key| section.variable(key)))
        .chain(OTHER_VARIABLES.iter().map(|name| (*name).to_owned()))
        .collect();
    let ours = environment.names().filter(|name| name.starts_with("TANDEM_"));
    let unknown = ours.filter(|name| !known.iter().any(|known| known == name));
    unknown.map(|name| format!("{name}{}", suggestion(name, known.iter().map(String::as_str)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(file: &str, environment: &Environment, flags: &Flags) -> Result<Raw, CliError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_DEFAULT), file).unwrap();
        read(flags, environment, folder.path())
    }

    fn of_file(file: &str) -> Result<Raw, CliError> {
        raw(file, &Environment::default(), &Flags::default())
    }

    fn queue_max(raw: &mut Raw) -> Option<i64> {
        raw.section("server").get("queue_max").and_then(Value::as_integer)
    }

    #[test]
    fn flags_beat_environment_beats_file() {
        let file = "[server]\nqueue_max = 1";
        let environment = Environment::from([("TANDEM_QUEUE_MAX", "2")]);
        let flags =
            Flags { keys: vec![("server", "queue_max", "--queue-max", "3".into())], ..Flags::default() };
        let none = Environment::default();
        assert_eq!(queue_max(&mut raw(file, &none, &Flags::default()).unwrap()), Some(1));
        assert_eq!(queue_max(&mut raw(file, &environment, &Flags::default()).unwrap()), Some(2));
        assert_eq!(queue_max(&mut raw(file, &environment, &flags).unwrap()), Some(3));
        assert_eq!(queue_max(&mut raw("", &none, &Flags::default()).unwrap()), None);
    }

    #[test]
    fn unknown_keys_are_refused_with_a_suggestion() {
        for (file, words) in [
            ("[server]\nlisen = \"x\"", "[server] has no key `lisen`; did you mean `listen`?"),
            ("[sever]\n", "no section [sever]; did you mean `server`?"),
            ("[large]\napi_key = \"sk-secret\"", "did you mean `api_key_env`?"),
            ("server = 3", "must be a section"),
            (
                "[[guard]]\nname = \"pii\"\nentites = []",
                "[[guard]] has no key `entites`; did you mean `entities`?",
            ),
            ("[guard]\nname = \"pii\"", "write guards as [[guard]]"),
            ("[policy]\nrules = [1]", "policy.rules must be a list of tables"),
            ("[speculative]\ndraft = \"model\"", "did you mean `drafter`?"),
            ("[server]\nqueue_max = \"many\"", "server.queue_max must be a whole number, not string"),
            ("\n[server", "tandem.toml:2: not TOML"),
        ] {
            let error = of_file(file).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{file:?}: {error}");
            assert!(error.to_string().contains("tandem.toml"), "{error}");
        }
    }

    #[test]
    fn messages_show_no_secret() {
        for file in [
            "[server]\napi_keys = \"sk-secret\"",
            "[server]\napi_keys = [\"sk-secret",
            "[server]\napi_keys = [\"sk-secret\", 3]",
            "[large]\napi_key = \"sk-secret\"",
        ] {
            assert!(!of_file(file).unwrap_err().to_string().contains("secret"), "{file}");
        }
    }

    #[test]
    fn a_role_is_a_reference_or_a_url_and_the_stronger_layer_says_which() {
        let role = |file: &str, text: &str| {
            let flags = Flags { roles: vec![("large", text.to_owned())], ..Flags::default() };
            let mut raw = raw(file, &Environment::default(), &flags).unwrap();
            let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
            (text(raw.section("large").get("model")), text(raw.section("large").get("url")))
        };
        let (local, upstream) = (Some("m.gguf".to_owned()), Some("http://h/v1".to_owned()));
        assert_eq!(role("", "m.gguf"), (local.clone(), None));
        assert_eq!(role("", "http://h/v1"), (None, upstream.clone()));
        let file = "[large]\nurl = \"http://other\"\nmodel = \"served\"";
        assert_eq!(role(file, "m.gguf"), (local, None));
        assert_eq!(role(file, "http://h/v1"), (Some("served".into()), upstream.clone()));
        assert_eq!(role("[large]\nmodel = \"local\"", "http://h/v1"), (None, upstream));
    }

    #[test]
    fn a_named_file_must_be_there() {
        let flags = Flags { config: Some("no/such.toml".into()), ..Flags::default() };
        assert_eq!(raw("", &Environment::default(), &flags).unwrap_err().exit_code(), 3);
        let environment = Environment::from([("TANDEM_CONFIG", "no/such.toml")]);
        assert_eq!(raw("", &environment, &Flags::default()).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn misspelt_variables_are_told() {
        let environment = Environment::from([
            ("TANDEM_LISTNE", "x"),
            ("TANDEM_HOME", "x"),
            ("PATH", "x"),
            ("TANDEM_CORS", "*"),
        ]);
        assert_eq!(unknown_variables(&environment), ["TANDEM_LISTNE; did you mean `TANDEM_LISTEN`?"]);
    }
}
