//! Pure arithmetic: what requests cost and save, what a KV cache weighs, how fast a machine can be.

pub mod cost;
pub mod memory;
pub mod roofline;
pub mod split;
