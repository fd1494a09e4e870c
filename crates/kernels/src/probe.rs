//! What this machine can do at most, measured the way the kernels use it: streaming reads and int8
//! dot products. The denominators of every roofline.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::isa::Isa;
use crate::pool::Pool;

/// Bytes that one bandwidth measurement reads.
pub const READ_BYTES: usize = 1 << 30;
/// Dot-product steps, of 16 rows and 16 values each, of one measurement of a thread.
const DOT_STEPS: u64 = 5_000_000;
/// Multiply-adds of a step.
const STEP_PRODUCTS: u64 = 16 * 16;
/// Accumulators, so that no step waits for the one before.
pub(crate) const DOT_CHAINS: u64 = 12;

/// Bytes per second that the pool's threads read together from memory, best of `repeats`.
pub fn read_bandwidth(isa: Isa, pool: &Pool, repeats: usize) -> f64 {
    let threads = pool.threads();
    let words = READ_BYTES / size_of::<f32>();
    let share = words / threads;
    let memory = vec![1f32; words];
    (0..repeats)
        .map(|_| {
            let start = Instant::now();
            pool.run(threads, &|task, _| {
                black_box(isa.highest(&memory[task * share..(task + 1) * share]));
            });
            (share * threads * size_of::<f32>()) as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// Int8 multiply-adds per second of the pool's threads together on registers alone, best of `repeats`.
pub fn int8_peak(isa: Isa, pool: &Pool, repeats: usize) -> f64 {
    let threads = pool.threads();
    (0..repeats)
        .map(|_| {
            let done = AtomicU64::new(0);
            let start = Instant::now();
            pool.run(threads, &|_, _| {
                // SAFETY: the CPU has the set.
                black_box(unsafe { (isa.kernels().dot_loop)(DOT_STEPS / DOT_CHAINS) });
                done.fetch_add(DOT_STEPS / DOT_CHAINS * DOT_CHAINS * STEP_PRODUCTS, Ordering::Relaxed);
            });
            done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}
