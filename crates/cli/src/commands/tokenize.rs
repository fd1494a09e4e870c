//! `tandem tokenize`: text to tokens, as the model's own tokenizer does it.

use std::path::PathBuf;

use engine::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::context::{Context, in_file};
use crate::error::CliError;
use crate::{input, output};

/// Show the tokens of a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tandem tokenize qwen2.5-coder-0.5b \"Hello, world\"\n  \
                        tandem tokenize model.gguf --lines texts.jsonl")]
pub struct Args {
    /// A .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    reference: String,
    /// The text
    #[arg(required_unless_present = "lines", conflicts_with = "lines", allow_hyphen_values = true)]
    text: Option<String>,
    /// A file of JSON lines {"text", "add_special", "parse_special"}; one line of JSON comes out for each
    #[arg(long, value_name = "FILE")]
    lines: Option<PathBuf>,
    /// Add the tokens that the model wants around every text
    #[arg(long)]
    add_special: bool,
    /// Make control tokens of their names in the text
    #[arg(long)]
    parse_special: bool,
}

/// What `--lines` holds; flags left out are those of the command.
#[derive(Deserialize)]
struct Line {
    text: String,
    add_special: Option<bool>,
    parse_special: Option<bool>,
}

#[derive(Serialize)]
struct Tokens {
    ids: Vec<u32>,
    /// U+FFFD stands for bytes that are not UTF-8 by themselves.
    pieces: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// If the model has no readable tokenizer or the lines are wrong.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let path = context.resolve(&args.reference)?;
    let gguf = context.open_gguf(&args.reference)?;
    let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| in_file(&path, &error.into()))?;
    let encode = |text: &str, add_special, parse_special| {
        let ids = tokenizer.encode(text, add_special, parse_special);
        let piece = |&id: &u32| String::from_utf8_lossy(tokenizer.piece(id)).into_owned();
        Tokens { pieces: ids.iter().map(piece).collect(), ids }
    };
    if let Some(lines) = &args.lines {
        return input::json_lines(lines, |line: Line| {
            let add_special = line.add_special.unwrap_or(args.add_special);
            let parse_special = line.parse_special.unwrap_or(args.parse_special);
            output::json(&encode(&line.text, add_special, parse_special))
        });
    }
    let tokens = encode(args.text.as_deref().unwrap_or_default(), args.add_special, args.parse_special);
    if context.json {
        return output::json(&tokens);
    }
    for (id, piece) in tokens.ids.iter().zip(&tokens.pieces) {
        output::line(&format!("{id:>8}  {piece:?}"))?;
    }
    output::line(&format!("{} tokens", tokens.ids.len()))
}
