//! The arithmetic that tokens are made of: products per instruction set, format and number of
//! columns, attention per length of context, and what a job of the pool costs. `cargo bench -p kernels`
//! runs all, `cargo bench -p kernels -- 'Q4_K on avx2'` those whose name matches that.
//!
//! Criterion's elements are multiply-adds, so its Gelem/s are GMAC/s.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use kernels::attention::{AttentionShape, BLOCK_POSITIONS, KvType};
use kernels::formats::{FORMATS, Format};
use kernels::isa::Isa;
use kernels::kv::{
    AttentionBatch, AttentionScratch, KvMemory, KvRows, KvShape, LayerCache, LayerCacheMut, SequenceRows,
    write,
};
use kernels::panels::Panels;
use kernels::pool::Pool;
use kernels::product::{Columns, ColumnsShape, FloatRows, Rounding, Weights, multiply};

/// Rows and columns of the weights: a layer of a model of about 1B parameters.
const ROWS: usize = 2048;
const INNER: usize = 2048;
/// From decoding one sequence to reading a prompt.
const COLUMNS: [usize; 5] = [1, 2, 4, 8, 64];

/// Attention of two models of 0.5B and 1.5B parameters: dimensions of a head, query heads per key-value head.
const HEADS: [(usize, usize); 2] = [(64, 7), (128, 6)];
const KV_HEADS: usize = 2;
/// Positions that one token looks back on.
const CONTEXTS: [usize; 3] = [512, 4096, 16384];
/// Tokens of a piece of prompt, and the position after it.
const PROMPTS: [(usize, usize); 3] = [(512, 512), (64, 8192), (512, 8192)];
/// Bytes of cache that a measurement goes through before it comes back to the first, as a model does with its
/// layers: more than processors cache.
const CACHE_BYTES: usize = 128 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let pool = Pool::new(thread::available_parallelism().map_or(1, usize::from));
    Isa::available().for_each(|isa| products(&mut criterion, isa, &pool));
    attention(&mut criterion, &pool);
    jobs(&mut criterion, &pool);
    criterion.final_summary();
}

fn products(criterion: &mut Criterion, isa: Isa, pool: &Pool) {
    for &format in FORMATS {
        let data = blocks(format, ROWS * INNER);
        let name = format!("product {ROWS}x{INNER} {} on {isa:?}", format.name());
        let mut group = criterion.benchmark_group(name);
        if Panels::supports(format) {
            let panels = Panels::pack(format, &data, (ROWS, INNER), pool).expect("whole blocks");
            product(&mut group, (isa, pool), Weights::from(&panels));
        } else {
            let rows = FloatRows { format, data: &data, rows: ROWS, columns: INNER };
            product(&mut group, (isa, pool), Weights::Float(rows));
        }
        group.finish();
    }
}

/// One format with every number of columns.
fn product(group: &mut BenchmarkGroup<'_, WallTime>, (isa, pool): (Isa, &Pool), weights: Weights<'_>) {
    for count in COLUMNS {
        let mut columns = Columns::default();
        let rounding = match weights {
            Weights::Panels(..) => Rounding::Int8,
            Weights::Float(_) => Rounding::None,
        };
        let shape = ColumnsShape { inner: INNER, count, rounding, floats: rounding == Rounding::None };
        let mut state = ramp(INNER * count);
        columns.fill((isa, pool), shape, &mut state, &|_, row, values| values.copy_from_slice(row));
        let mut output = vec![0.0; ROWS * count];
        group.throughput(Throughput::Elements((ROWS * INNER * count) as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| multiply((isa, pool), &[weights], &columns, black_box(&mut output)));
        });
    }
}

/// Bytes that stand for `values` values; every half-precision scale in them is small and finite.
fn blocks(format: &dyn Format, values: usize) -> Vec<u8> {
    let bytes = values / format.block_values() * format.block_bytes();
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x2f
    };
    (0..bytes).map(|_| next()).collect()
}

/// Values in −1..1 that do not repeat soon.
fn ramp(length: usize) -> Vec<f32> {
    (0..length).map(|index| (index * 37 % 199) as f32 / 99.5 - 1.0).collect()
}

fn attention(criterion: &mut Criterion, pool: &Pool) {
    for heads in HEADS {
        let name = format!("attention {KV_HEADS}x{} heads of {}", heads.1, heads.0);
        let mut group = criterion.benchmark_group(name);
        for context in CONTEXTS {
            bench_attention(&mut group, pool, heads, (1, context));
        }
        for prompt in PROMPTS {
            bench_attention(&mut group, pool, heads, prompt);
        }
        group.finish();
    }
}

/// The last `tokens` of `context` positions, one layer after the other.
fn bench_attention(
    group: &mut BenchmarkGroup<'_, WallTime>,
    pool: &Pool,
    (head_dim, heads): (usize, usize),
    (tokens, context): (usize, usize),
) {
    let isa = Isa::detect();
    let shape = AttentionShape {
        head_dim,
        group: heads,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: None,
        soft_cap: None,
    };
    let cache = filled_cache(isa, head_dim, context);
    let table: Vec<u32> = (0..cache.shape().blocks as u32).collect();
    let width = KV_HEADS * heads * head_dim;
    let queries = ramp(width * tokens);
    let mut output = vec![0.0; width * tokens];
    let mut scratch = AttentionScratch::new(head_dim, pool.threads(), 0);
    let position = context - tokens;
    let seen: usize = (position..context).map(|at| at + 1).sum();
    // Queries times keys, and weights times values.
    group.throughput(Throughput::Elements((2 * width * seen) as u64));
    let mut layer = 0;
    group.bench_function(BenchmarkId::new(format!("{tokens} tokens"), context), |bencher| {
        bencher.iter(|| {
            let last = SequenceRows { table: &table, rests_table: &[], position, row: 0, tokens };
            let batch = AttentionBatch {
                queries: &queries,
                query_stride: width,
                output: black_box(&mut output),
                sequences: &[last],
            };
            kernels::kv::attend(
                (isa, pool),
                (LayerCache { memory: &cache, layer }, None),
                &shape,
                (batch, &mut scratch),
            );
            layer = (layer + 1) % cache.shape().layers;
        });
    });
}

/// A cache of [`CACHE_BYTES`] that holds `context` positions.
fn filled_cache(isa: Isa, head_dim: usize, context: usize) -> KvMemory {
    let blocks = context.div_ceil(BLOCK_POSITIONS);
    let one = KvShape { layers: 1, kv_heads: KV_HEADS, head_dim, blocks, kv_type: KvType::F16 };
    let layers = CACHE_BYTES.div_ceil(one.block_bytes() * blocks);
    let mut cache = KvMemory::new(KvShape { layers, ..one });
    let width = KV_HEADS * head_dim;
    let values = ramp(width + context);
    let rows: Vec<f32> = (0..context).flat_map(|at| [&values[at..][..width]; 2].concat()).collect();
    let rows = KvRows { values: &rows, stride: 2 * width, keys_at: 0 };
    let table: Vec<u32> = (0..blocks as u32).collect();
    let sequence = SequenceRows { table: &table, rests_table: &[], position: 0, row: 0, tokens: context };
    let mut scratch = AttentionScratch::new(head_dim, 1, 0);
    for layer in 0..layers {
        let mut to = LayerCacheMut { memory: &mut cache, layer };
        write((isa, &Pool::new(1)), (&mut to, None), (&[sequence], rows), &mut scratch);
    }
    cache
}

/// What a job costs besides its work.
fn jobs(criterion: &mut Criterion, pool: &Pool) {
    let mut group = criterion.benchmark_group(format!("empty job, {} threads", pool.threads()));
    for tasks in [pool.threads(), 12 * pool.threads()] {
        group.bench_function(BenchmarkId::new("tasks", tasks), |bencher| {
            bencher.iter(|| {
                pool.run(tasks, &|task, _| {
                    black_box(task);
                })
            });
        });
    }
    group.finish();
}
