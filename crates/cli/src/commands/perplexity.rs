//! `tandem perplexity`: how well a model predicts a text, by llama.cpp's chunk convention.

use std::path::PathBuf;

use engine::decoder::Decoder;
use engine::model::LoadOptions;
use engine::score::Perplexity;
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, unreadable};
use crate::kv_type::KvTypeArg;
use crate::output;

/// Perplexity of a text, in chunks of which the second half is scored
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tandem perplexity smollm2-135m book.txt --context 512 --chunks 10")]
pub struct Args {
    /// The model: a .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    model: String,
    /// The text, UTF-8
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Tokens of a chunk
    #[arg(long, value_name = "N", default_value_t = 512)]
    context: u32,
    /// Most chunks [default: all that the text fills]
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Unquantized activations and, unless --kv-type says otherwise, f32 key-value cache: slow and exact
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    kv_type: KvTypeArg,
}

pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let text = std::fs::read_to_string(&args.file).map_err(|error| unreadable(&args.file, &error))?;
    if args.context < 4 {
        return Err(CliError::usage("--context must be at least 4"));
    }
    let options = LoadOptions {
        context_tokens: Some(args.context),
        exact: args.exact,
        cache: None,
        draft_vocabulary: None,
    };
    let model = context.load_model(&args.model, options)?;
    let length = args.context as usize;
    if model.spec().context_tokens < length {
        let limit = model.spec().context_tokens;
        return Err(CliError::usage(format!("--context {length} exceeds the model's {limit}")));
    }
    let ids = model.tokenizer().encode(&text, true, false);
    let bos = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos());
    let available = ids.len() / length;
    if available == 0 {
        let message =
            format!("{} has {} tokens, less than one chunk of {length}", args.file.display(), ids.len());
        return Err(CliError::usage(message));
    }
    let chunks = args.chunks.unwrap_or(available).clamp(1, available);
    let decoder_options = args.kv_type.decoder_options(length);
    let mut decoder =
        Decoder::new(model, context.pool(), context.isa(), decoder_options).map_err(CliError::failed)?;
    let mut perplexity = Perplexity::default();
    let bar = crate::progress::counter("chunks", chunks as u64, context.stderr_is_terminal);
    for chunk in ids.chunks_exact(length).take(chunks) {
        perplexity.add_chunk(&mut decoder, chunk, bos).map_err(CliError::failed)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if context.json {
        return output::json(&json!({
            "perplexity": perplexity.value(),
            "error": perplexity.error(),
            "tokens": perplexity.tokens,
            "running": perplexity.running,
        }));
    }
    let (value, error) = (perplexity.value(), perplexity.error());
    output::line(&format!(
        "perplexity {value:.4} ± {error:.4} over {} tokens in {chunks} chunks",
        perplexity.tokens
    ))
}
