//! The commands: one file each, with its `Args` and `run`, and one line in [`commands!`] below.

mod bench;
mod calibrate;
mod chat;
mod eval;
mod generate;
mod guard;
mod inspect;
mod logits;
mod models;
mod perplexity;
mod pull;
mod render;
mod replay;
mod report;
mod score_head;
pub(crate) mod serve;
mod tokenize;
mod train_head;
mod train_token_head;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CliError;

/// Declares [`Command`] from lines `Variant => module, log level`.
macro_rules! commands {
    ($($variant:ident => $module:ident, $level:literal;)*) => {
        /// A command with its arguments.
        #[derive(Debug, Subcommand)]
        #[command(disable_help_subcommand = true)]
        pub enum Command {
            $(#[allow(missing_docs)] $variant($module::Args),)*
        }

        impl Command {
            /// Does it.
            ///
            /// # Errors
            /// See [`CliError`].
            pub fn run(self, context: &Context) -> Result<(), CliError> {
                match self {
                    $(Command::$variant(args) => $module::run(args, context),)*
                }
            }

            /// What is logged where `TANDEM_LOG` is not set.
            pub fn log_level(&self) -> &'static str {
                match self {
                    $(Command::$variant(_) => $level,)*
                }
            }
        }
    };
}

// In the order of `tandem --help`.
commands! {
    Serve => serve, "info";
    Chat => chat, "error";
    Pull => pull, "error";
    Models => models, "warn";
    Inspect => inspect, "warn";
    Tokenize => tokenize, "warn";
    Render => render, "warn";
    Eval => eval, "warn";
    Report => report, "warn";
    Replay => replay, "warn";
    Guard => guard, "warn";
    TrainHead => train_head, "warn";
    TrainTokenHead => train_token_head, "warn";
    ScoreHead => score_head, "warn";
    Calibrate => calibrate, "warn";
    Generate => generate, "warn";
    Logits => logits, "warn";
    Perplexity => perplexity, "warn";
    Bench => bench, "warn";
}
