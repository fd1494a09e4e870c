//! The decoder: a transformer's forward pass over batches of tokens of several sequences.

mod forward;
mod kv;
mod rope;
mod shared;
mod sizes;
mod smoothing;
mod states;
mod weights;

pub use forward::{Decoder, DecoderOptions, ForwardError, Logits, SequenceId, Work};
pub use kv::{KvBlocks, KvError};
pub use shared::SharedDecoder;
pub(crate) use shared::{GuestNumber, Held, Pass};
pub use sizes::{Sizes, SizesFor};
pub use states::{LayerSet, LayerState, TokenStates};
pub(crate) use weights::Weights;
pub use weights::WeightsError;

/// Most tokens of one forward pass.
pub const BATCH_TOKENS_MAX: usize = 512;

/// Tokens of a forward pass unless set otherwise. Longer ones are no faster, need more working memory, and let a
/// new request wait longer; with 128, prompts take a twentieth longer.
pub const BATCH_TOKENS_DEFAULT: usize = 256;

/// Embedding rows that are read from the model file before the pages under them are given back.
pub const EMBEDDING_ROWS_HELD: usize = 64;
