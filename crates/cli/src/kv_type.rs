//! The argument `--kv-type`, shared by the commands that run a model by themselves.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use engine::decoder::DecoderOptions;
use kernels::attention::KvType;

/// How a command's key-value cache is stored.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct KvTypeArg {
    /// Key-value cache: f16 (f32 with --exact), or 8 or 4 bits a value in a half or a quarter of f16's memory
    #[arg(long, value_name = "TYPE", default_value = KvType::F16.name(), value_parser = parser())]
    kv_type: KvType,
}

impl KvTypeArg {
    /// Options for one sequence of `tokens`.
    pub fn decoder_options(self, tokens: usize) -> DecoderOptions {
        DecoderOptions { kv_type: self.kv_type, ..DecoderOptions::new(1, tokens) }
    }
}

fn parser() -> impl TypedValueParser<Value = KvType> {
    PossibleValuesParser::new(KvType::choices().map(KvType::name))
        .try_map(|name| KvType::named(&name).ok_or("no such type"))
}
