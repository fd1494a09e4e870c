//! What to run and how much of it: [`Options`].

use std::path::PathBuf;

use super::checks;

/// The catalogue's models that the golden data is about.
pub const MODELS: &[&str] = &["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"];

/// How to call it.
pub const USAGE: &str = "\
usage: cargo xtask real [--only CHECK…] [--models MODEL…] [--quick|--full] [--tandem FILE]
  --only    these checks alone
  --models  these models alone, in the checks that go through all of them
  --quick   the shortest texts and fewest chunks: a look, not a proof
  --full    every golden text, also where the exact path takes minutes
  --tandem  this binary instead of one built now
TANDEM_HOME names the folder the models lie in (default: target/real-home).
example: cargo xtask real --only logits_fast greedy --models smollm2-135m";

/// How much of the golden data is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The shortest of each kind.
    Quick,
    /// What fits into some minutes on two cores.
    Normal,
    /// All of it.
    Full,
}

impl Scope {
    /// The value for this scope.
    pub fn pick<T>(self, quick: T, normal: T, full: T) -> T {
        match self {
            Scope::Quick => quick,
            Scope::Normal => normal,
            Scope::Full => full,
        }
    }
}

/// The command line, validated.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Names of checks; empty: all.
    only: Vec<String>,
    /// The models to go through.
    pub models: Vec<&'static str>,
    /// How much.
    pub scope: Scope,
    /// A binary to check instead of building one.
    pub tandem: Option<PathBuf>,
    /// Only say how to call it.
    pub help: bool,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// Names what is unknown, and what is known.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Options {
            only: Vec::new(),
            models: MODELS.to_vec(),
            scope: Scope::Normal,
            tandem: None,
            help: false,
        };
        let mut rest = arguments.iter().map(String::as_str).peekable();
        while let Some(argument) = rest.next() {
            let mut names = || -> Vec<&str> {
                std::iter::from_fn(|| rest.next_if(|next| !next.starts_with('-'))).collect()
            };
            match argument {
                "--only" => {
                    let known: Vec<&str> = checks::CHECKS.iter().map(|check| check.name).collect();
                    let only = among(argument, &names(), &known)?;
                    options.only = only.into_iter().map(str::to_owned).collect();
                }
                "--models" => options.models = among(argument, &names(), MODELS)?,
                "--quick" => options.scope = Scope::Quick,
                "--full" => options.scope = Scope::Full,
                "--tandem" => match rest.next() {
                    Some(file) => options.tandem = Some(file.into()),
                    None => return Err("--tandem needs a file".to_owned()),
                },
                "--help" | "-h" => options.help = true,
                unknown => return Err(format!("`{unknown}` is unknown")),
            }
        }
        Ok(options)
    }

    /// Whether the check of this name is to run.
    pub fn wants(&self, check: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == check)
    }
}

/// `names` if all of them are `known` and there is one at least.
fn among<'a>(option: &str, names: &[&str], known: &[&'a str]) -> Result<Vec<&'a str>, String> {
    if names.is_empty() {
        return Err(format!("{option} needs a name; known are {}", known.join(", ")));
    }
    let find = |name: &&str| {
        let found = known.iter().find(|known| *known == name).copied();
        found.ok_or_else(|| format!("{option}: `{name}` is unknown; known are {}", known.join(", ")))
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn lists_end_at_the_next_option() {
        let options = parse("--only greedy tokenize --models gemma3-270m --quick").unwrap();
        assert!(options.wants("greedy") && options.wants("tokenize") && !options.wants("crash"));
        assert_eq!(options.models, ["gemma3-270m"]);
        assert_eq!(options.scope, Scope::Quick);
    }

    #[test]
    fn without_arguments_everything_runs() {
        let options = parse("").unwrap();
        assert!(checks::CHECKS.iter().all(|check| options.wants(check.name)));
        assert_eq!(options.models, MODELS);
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (arguments, named) in [
            ("--onyl a", "--onyl"),
            ("--only gredy", "greedy"),
            ("--models x", "gemma3-270m"),
            ("--only", "greedy"),
            ("--tandem", "file"),
        ] {
            assert!(parse(arguments).unwrap_err().contains(named), "{arguments}");
        }
    }
}
