//! Arithmetic on slices: quantization formats, matrix products, attention, SIMD per instruction
//! set, the thread pool and mapped files. The only crate with `unsafe`; it knows no model and no
//! file format beyond a tensor's block.
#![allow(unsafe_code)]

mod activations;
mod ahead;
pub mod attention;
pub mod checksum;
pub mod formats;
pub mod isa;
pub mod kv;
mod lines;
pub mod mapped;
pub mod panels;
pub mod pool;
pub mod probe;
pub mod product;
mod simd;
mod vector;
