//! The `[[guard]]` entries: read by name, refused with a suggestion, built once to see that they can be.

use policy::guards::{Chain, GuardSettings, KEYS};
use toml::{Table, Value};

use super::keys::suggestion;
use super::typed;
use crate::error::CliError;

/// The entries of a file; `file` is for messages.
///
/// # Errors
/// [`CliError::Usage`] unless it is a list of tables with known keys.
pub fn tables(value: Value, file: &str) -> Result<Vec<Table>, CliError> {
    let wrong = || CliError::usage(format!("{file}: write guards as [[guard]], each with its keys"));
    let Value::Array(entries) = value else { return Err(wrong()) };
    let mut tables = Vec::with_capacity(entries.len());
    for entry in entries {
        let Value::Table(table) = entry else { return Err(wrong()) };
        if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let hint = suggestion(unknown, KEYS.iter().copied());
            return Err(CliError::usage(format!("{file}: [[guard]] has no key `{unknown}`{hint}")));
        }
        tables.push(table);
    }
    Ok(tables)
}

/// The guards' settings, checked.
///
/// # Errors
/// [`CliError::Usage`], naming the guard.
pub fn read(tables: Vec<Table>) -> Result<Vec<GuardSettings>, CliError> {
    let guards: Vec<GuardSettings> =
        tables.into_iter().map(|table| typed("[guard]", table)).collect::<Result<_, _>>()?;
    Chain::check_settings(&guards).map_err(|error| CliError::usage(format!("[[guard]]: {error}")))?;
    Ok(guards)
}
