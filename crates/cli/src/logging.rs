//! The log, on stderr: `TANDEM_LOG` takes a level or `tracing` directives.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::environment::Environment;
use crate::error::CliError;

/// The variable that sets what is logged.
pub const VARIABLE: &str = "TANDEM_LOG";

/// Starts logging; `level` holds where `TANDEM_LOG` is not set.
///
/// # Errors
/// If `TANDEM_LOG` makes no filter.
pub fn start(environment: &Environment, level: &str) -> Result<(), CliError> {
    let directives = environment.get(VARIABLE)?.unwrap_or(level);
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        CliError::usage(format!(
            "{VARIABLE}={directives:?} is no log filter ({error}); write a level such as `info`, \
             or directives such as `warn,gateway=debug`"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}
