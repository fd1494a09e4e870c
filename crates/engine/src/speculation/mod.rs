//! Speculative decoding: drafts of the next tokens, to be verified in one step.

pub mod lookup;
