//! The settings as `tandem serve --check` shows them: a configuration file that says what holds, with
//! secrets masked.

use contract::Price;
use planner::split::Wanted;
use serde::Serialize;
use toml::{Table, Value};

use super::keys::UPSTREAM_ONLY;
use super::{RoleSettings, Settings};
use crate::error::CliError;

/// The effective settings, section by section.
///
/// # Errors
/// If a number is too large for TOML.
pub fn effective(settings: &Settings) -> Result<Vec<(&'static str, Value)>, CliError> {
    let mut server = table(&settings.gateway)?;
    server.insert("threads".to_owned(), integer(settings.threads as u64));
    if let Some(bytes) = settings.memory_bytes {
        server.insert("memory".to_owned(), integer(bytes));
    }
    let mut ledger = table(&settings.ledger.settings)?;
    ledger.insert("path".to_owned(), Value::String(settings.ledger.path.display().to_string()));
    let guards: Vec<Value> =
        settings.guards.iter().map(|guard| table(guard).map(Value::Table)).collect::<Result<_, _>>()?;
    let sections = [
        ("server", server),
        ("small", role(&settings.small)?),
        ("large", role(&settings.large)?),
        ("policy", table(&settings.policy)?),
        ("speculative", settings.speculative.effective()),
        ("ledger", ledger),
        ("cache", table(&settings.cache)?),
    ];
    let mut sections: Vec<(&str, Value)> =
        sections.into_iter().map(|(name, section)| (name, Value::Table(section))).collect();
    if !guards.is_empty() {
        sections.push(("guard", Value::Array(guards)));
    }
    Ok(sections)
}

/// The effective settings as a configuration file.
///
/// # Errors
/// As [`effective`].
pub fn effective_toml(settings: &Settings) -> Result<String, CliError> {
    let mut text = String::new();
    for (name, section) in effective(settings)? {
        let table = Table::from_iter([(name.to_owned(), section)]);
        text.push_str(&toml::to_string(&table).map_err(CliError::failed)?);
        text.push('\n');
    }
    Ok(text)
}

fn role(role: &RoleSettings) -> Result<Table, CliError> {
    match role {
        RoleSettings::Local(local) => {
            let mut keys = Table::new();
            keys.insert("model".to_owned(), Value::String(local.reference.to_string()));
            keys.insert("price".to_owned(), price(&local.price)?);
            let Wanted { context_tokens, sequences, kv_tokens, batch_tokens, kv } = local.wanted;
            let numbers = [
                ("context_tokens", context_tokens),
                ("sequences", sequences),
                ("kv_tokens", kv_tokens),
                ("batch_tokens", batch_tokens),
            ];
            for (key, value) in numbers {
                // What is left open is chosen at start, by the memory there is.
                keys.extend(value.map(|value| (key.to_owned(), integer(value.into()))));
            }
            keys.insert("kv_type".to_owned(), Value::String(kv.as_str().to_owned()));
            if let Some(seconds) = local.idle_unload_seconds {
                keys.insert("idle_unload_seconds".to_owned(), integer(seconds.into()));
            }
            Ok(keys)
        }
        RoleSettings::Upstream(upstream) => {
            let mut keys = table(&upstream.openai)?;
            // The key has no place in a configuration; the variable that holds it has.
            keys.retain(|key, _| UPSTREAM_ONLY.contains(&key) || matches!(key, "model" | "context_tokens"));
            if !upstream.is_named {
                keys.remove("model");
            }
            keys.insert("price".to_owned(), price(&upstream.openai.price)?);
            if let Some(variable) = &upstream.api_key_env {
                keys.insert("api_key_env".to_owned(), Value::String(variable.clone()));
            }
            Ok(keys)
        }
    }
}

fn price(price: &Price) -> Result<Value, CliError> {
    table(price).map(Value::Table)
}

fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn table(value: &impl Serialize) -> Result<Table, CliError> {
    Table::try_from(value)
        .map_err(|error| CliError::usage(format!("a setting has no place in TOML: {error}")))
}
