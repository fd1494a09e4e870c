//! Where Tandem keeps what it keeps, computed from environment values that the caller passes in.

use std::env::consts::OS;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// No folder could be derived from the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no data folder: neither TANDEM_HOME nor {0} is set; set TANDEM_HOME to a folder")]
pub struct NoHome(&'static str);

/// `TANDEM_HOME`, or `tandem` in the platform's data folder: `$XDG_DATA_HOME` or `~/.local/share` on Linux,
/// `~/Library/Application Support` on macOS, `%LOCALAPPDATA%` on Windows.
///
/// `lookup` gives an environment variable's value.
///
/// # Errors
/// [`NoHome`] if none of the variables is set.
pub fn default_home(lookup: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, NoHome> {
    home_on(OS, lookup)
}

fn home_on(os: &str, lookup: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, NoHome> {
    let folder = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = folder("TANDEM_HOME") {
        return Ok(home);
    }
    let data = match os {
        "windows" => folder("LOCALAPPDATA").ok_or(NoHome("LOCALAPPDATA"))?,
        "macos" => folder("HOME").ok_or(NoHome("HOME"))?.join("Library").join("Application Support"),
        // The XDG base directory specification: a relative path is to be ignored.
        _ => match folder("XDG_DATA_HOME").filter(|path| Path::has_root(path)) {
            Some(data) => data,
            None => folder("HOME").ok_or(NoHome("HOME"))?.join(".local").join("share"),
        },
    };
    Ok(data.join("tandem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(os: &str, variables: &[(&str, &str)]) -> Result<PathBuf, NoHome> {
        home_on(os, |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn each_platform_has_its_folder() {
        type Variables<'a> = &'a [(&'a str, &'a str)];
        let table: &[(&str, Variables<'_>, &str)] = &[
            ("linux", &[("HOME", "/h")], "/h/.local/share/tandem"),
            ("linux", &[("HOME", "/h"), ("XDG_DATA_HOME", "/x")], "/x/tandem"),
            ("linux", &[("HOME", "/h"), ("XDG_DATA_HOME", "x")], "/h/.local/share/tandem"),
            ("linux", &[("HOME", "/h"), ("XDG_DATA_HOME", "/x"), ("TANDEM_HOME", "/t")], "/t"),
            ("linux", &[("HOME", "/h"), ("TANDEM_HOME", "")], "/h/.local/share/tandem"),
            ("macos", &[("HOME", "/h")], "/h/Library/Application Support/tandem"),
            ("windows", &[("LOCALAPPDATA", "/l")], "/l/tandem"),
        ];
        for (os, variables, expected) in table {
            assert_eq!(home(os, variables).as_deref(), Ok(Path::new(expected)), "{os} {variables:?}");
        }
    }

    #[test]
    fn nothing_set_is_an_error_that_says_what_to_set() {
        for os in ["linux", "macos", "windows"] {
            assert!(home(os, &[]).unwrap_err().to_string().contains("set TANDEM_HOME"));
        }
    }
}
