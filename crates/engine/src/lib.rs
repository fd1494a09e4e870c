//! Text in, tokens out: model files, tokenizer, chat template, KV cache, scheduler, sampling.

pub mod decoder;
pub mod gguf;
pub mod model;
pub mod models;
pub mod packed;
mod recycle;
pub mod sampling;
pub mod scheduler;
pub mod score;
pub mod spec;
pub mod speculation;
pub mod stop;
pub mod template;
pub mod tokenizer;
