//! The decoder: a transformer's forward pass over batches of tokens of several sequences.

mod forward;
mod kv;
mod rope;
mod weights;

pub use forward::{Decoder, DecoderOptions, ForwardError, Logits, SequenceId, Work};
pub use kv::KvError;
pub use weights::WeightsError;
pub(crate) use weights::Weights;

/// Most tokens of one forward pass.
pub const BATCH_TOKENS_MAX: usize = 512;
