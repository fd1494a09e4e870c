//! The process's environment, read here and nowhere else: [`Environment`].

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::error::CliError;

/// Environment variables, as they were when the program started.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl Environment {
    /// Those of this process. Names that are not UTF-8 are none of ours.
    pub fn of_process() -> Self {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Environment { variables: variables.collect() }
    }

    /// The raw value of a variable.
    pub fn os(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    /// The value of a variable; an empty one counts as absent.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn get(&self, name: &str) -> Result<Option<&str>, CliError> {
        match self.variables.get(name).map(|value| value.to_str()) {
            None | Some(Some("")) => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(CliError::usage(format!("the environment variable {name} is not UTF-8"))),
        }
    }

    /// All names there are, in the alphabet's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

#[cfg(test)]
impl<'a> FromIterator<(&'a str, &'a str)> for Environment {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(pairs: T) -> Self {
        let variables = pairs.into_iter().map(|(name, value)| (name.to_owned(), OsString::from(value)));
        Environment { variables: variables.collect() }
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        pairs.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_absent() {
        let environment = Environment::from([("A", ""), ("B", "b")]);
        assert_eq!(environment.get("A").unwrap(), None);
        assert_eq!(environment.get("B").unwrap(), Some("b"));
        assert_eq!(environment.get("C").unwrap(), None);
        assert_eq!(environment.names().collect::<Vec<_>>(), ["A", "B"]);
    }
}
