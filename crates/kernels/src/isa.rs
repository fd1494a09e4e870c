//! Which instruction sets there are, which this CPU has, and the kernels of each: [`Isa`], [`Kernels`].

use std::ops::Range;

use crate::activations::{ActivationsWriter, BLOCK_COLUMNS};
use crate::attention::{KvSlot, Task, ThreadScratch};
use crate::panels::encoding::{Constants, Encoding, with_encodings};
use crate::panels::tile::{TileCall, tile};
use crate::panels::unpacked::{self, ColumnsCall, TILE_COLUMNS};
#[cfg(target_arch = "aarch64")]
use crate::simd::neon::{BASELINE, DOTPROD, I8MM, Neon};
use crate::simd::scalar::Scalar;
use crate::vector::FloatRow;
use crate::{attention, vector};

/// Tiles of one encoding, by columns: 1, 2, 4, 8. Those of more than `columns_max` are missing.
pub(crate) type Tiles = [Option<unsafe fn(&TileCall)>; 4];

/// Many columns of one encoding.
pub(crate) type ColumnsKernel = unsafe fn(&ColumnsCall);

/// How a set multiplies many columns, if not tile after tile.
#[derive(Clone, Copy)]
pub(crate) struct ManyColumns {
    /// By encoding, each with the fewest columns for which it pays.
    kernels: &'static [(ColumnsKernel, usize)],
    /// The fewest of all.
    least: usize,
    /// They are taken in multiples of this.
    pub multiple: usize,
    /// Columns whose lines the kernels read together: a block of quantized activations must have as many.
    pub tile: usize,
}

/// Values, (shift, factor), output.
type ExpShifted = unsafe fn(&[f32], (f32, f32), &mut [f32]) -> f64;
/// Attention of one task over some chunks; room for each one's result, or none.
type Attend = unsafe fn(&Task, Range<usize>, Option<&mut [f32]>, &mut ThreadScratch);
/// The output of one task's attention, from the chunks' results if they were kept.
type FinishAttention = unsafe fn(&Task, Option<&mut [f32]>, *mut f32, &mut ThreadScratch);

/// All kernels for one instruction set. Calling one needs a CPU that has the set: only
/// [`Isa::detect`] and [`Isa::named`] hand tables out, and only of sets that are there.
pub(crate) struct Kernels {
    tiles: &'static [Tiles],
    pub columns_max: usize,
    /// Bytes of quantized activations that one pass over the weights works on, so that they stay in the
    /// second-level cache while panels stream by.
    pub pass_bytes: usize,
    many_columns: Option<ManyColumns>,
    pub quantize: unsafe fn(&ActivationsWriter, usize, &[f32]),
    pub quantize_with_rest: unsafe fn(&ActivationsWriter, &ActivationsWriter, usize, &[f32]),
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub rms_norm_in_place: unsafe fn(&mut [f32], &[f32], f32),
    pub silu_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub gelu_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub add_scaled: unsafe fn(&mut [f32], f32, &[f32]),
    pub soft_cap: unsafe fn(&mut [f32], f32),
    pub highest: unsafe fn(&[f32]) -> f32,
    pub exp_shifted: ExpShifted,
    pub dot_loop: unsafe fn(u64) -> i32,
    pub float_row: unsafe fn(&[f32], &FloatRow),
    pub attend: Attend,
    pub finish_attention: FinishAttention,
    pub store_kv: unsafe fn(&KvSlot, &mut [f32], &mut [f32]),
}

impl Kernels {
    /// How `columns` columns are multiplied with weights of an encoding, if not tile after tile.
    pub fn many_columns(&self, encoding: usize, columns: usize) -> Option<(ColumnsKernel, ManyColumns)> {
        let many = self.many_columns?;
        let (kernel, least) = many.kernels[encoding];
        (columns >= least).then_some((kernel, many))
    }

    /// Columns of a block of quantized activations, of which there are `columns`.
    pub fn block_columns(&self, columns: usize) -> usize {
        let many = self.many_columns.filter(|many| columns >= many.least);
        many.map_or(BLOCK_COLUMNS, |many| many.tile.max(BLOCK_COLUMNS))
    }

    /// The tile of an encoding for 2^`width` columns, at most `columns_max`.
    pub fn tile(&self, encoding: usize, width: u32) -> unsafe fn(&TileCall) {
        self.tiles[encoding][width as usize].expect("tiles of up to columns_max columns are there")
    }
}

macro_rules! tiles {
    (($entry:ident) $([$($constant:tt)*])*) => { &[$( tiles!(@row $entry $($constant)*) ),*] };
    (@row $entry:ident $b:tt $h:tt $s:tt $m:tt $c:tt $z:tt) => {[
        Some($entry::<Encoding<$b, $h, $s, $m, $c, $z>, 1>),
        Some($entry::<Encoding<$b, $h, $s, $m, $c, $z>, 2>),
        // What a set has no registers for is not compiled.
        if COLUMNS_MAX < 4 { None } else { Some($entry::<Encoding<$b, $h, $s, $m, $c, $z>, 4>) },
        if COLUMNS_MAX < 8 { None } else { Some($entry::<Encoding<$b, $h, $s, $m, $c, $z>, 8>) },
    ]};
}

macro_rules! many_columns {
    (($entry:ident $module:ident) $([$b:tt $h:tt $s:tt $m:tt $c:tt $z:tt])*) => {
        &[$( (
            $entry::<Encoding<$b, $h, $s, $m, $c, $z>> as ColumnsKernel,
            $module::least_columns::<Encoding<$b, $h, $s, $m, $c, $z>>(),
        ) ),*]
    };
}

// SAFETY: each function enables the features that its `Simd` needs and hands its arguments on: its
// contract is that of the generic function it calls.
/// Instantiates every kernel for one instruction set, its features enabled. What computes with floats is taken
/// from `$floats`: the same set, or one that differs in integer instructions only.
macro_rules! instantiate {
    ($module:ident, $simd:ty, floats of $floats:ident $(, $feature:literal)*) => {
        mod $module {
            #![allow(clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
            // A set that takes another's has no use for its own.
            #![allow(dead_code)]
            use super::*;
            use crate::simd::Simd;
            $(#[target_feature(enable = $feature)])*
            unsafe fn panel_tile<E: Constants, const C: usize>(call: &TileCall) {
                unsafe { tile::<$simd, E, C>(call) }
            }
            $(#[target_feature(enable = $feature)])*
            unsafe fn panel_columns<E: Constants>(call: &ColumnsCall) {
                unsafe { unpacked::columns::<$simd, E>(call) }
            }
            $(#[target_feature(enable = $feature)])*
            unsafe fn quantize(to: &ActivationsWriter, column: usize, from: &[f32]) {
                unsafe { to.quantize::<$simd>(column, from) }
            }
            $(#[target_feature(enable = $feature)])*
            unsafe fn quantize_with_rest(
                to: &ActivationsWriter,
                rest: &ActivationsWriter,
                column: usize,
                from: &[f32],
            ) {
                unsafe { to.quantize_with_rest::<$simd>(rest, column, from) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
                unsafe { vector::rms_norm::<$simd>(x, weight, epsilon, out) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn rms_norm_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) {
                unsafe { vector::rms_norm_in_place::<$simd>(x, weight, epsilon) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
                unsafe { vector::silu_mul::<$simd>(gate, up, out) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
                unsafe { vector::gelu_mul::<$simd>(gate, up, out) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn add_scaled(x: &mut [f32], factor: f32, y: &[f32]) {
                unsafe { vector::add_scaled::<$simd>(x, factor, y) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn soft_cap(x: &mut [f32], cap: f32) {
                unsafe { vector::soft_cap::<$simd>(x, cap) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn highest(x: &[f32]) -> f32 {
                unsafe { vector::highest::<$simd>(x) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn exp_shifted(x: &[f32], scale: (f32, f32), out: &mut [f32]) -> f64 {
                unsafe { vector::exp_shifted::<$simd>(x, scale, out) }
            }
            $(#[target_feature(enable = $feature)])*
            unsafe fn dot_loop(rounds: u64) -> i32 {
                unsafe { vector::dot_loop::<$simd>(rounds) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn float_row(row: &[f32], call: &FloatRow) {
                unsafe { vector::float_row::<$simd>(row, call) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn attend(
                task: &Task,
                chunks: Range<usize>,
                results: Option<&mut [f32]>,
                scratch: &mut ThreadScratch,
            ) {
                unsafe { attention::attend::<$simd>(task, chunks, results, scratch) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn finish_attention(
                task: &Task,
                results: Option<&mut [f32]>,
                output: *mut f32,
                scratch: &mut ThreadScratch,
            ) {
                unsafe { attention::finish::<$simd>(task, results, output, scratch) }
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn store_kv(to: &KvSlot, key: &mut [f32], value: &mut [f32]) {
                unsafe { attention::store_kv::<$simd>(to, key, value) }
            }
            const COLUMNS_MAX: usize = <$simd as Simd>::COLUMNS_MAX;
            pub(super) static KERNELS: Kernels = Kernels {
                tiles: with_encodings!(tiles(panel_tile)),
                columns_max: COLUMNS_MAX,
                pass_bytes: 384 << 10,
                many_columns: if <$simd as Simd>::UNPACKS {
                    Some(ManyColumns {
                        kernels: with_encodings!(many_columns(panel_columns unpacked)),
                        least: TILE_COLUMNS,
                        multiple: TILE_COLUMNS,
                        tile: TILE_COLUMNS,
                    })
                } else {
                    None
                },
                quantize,
                quantize_with_rest,
                rms_norm: super::$floats::rms_norm,
                rms_norm_in_place: super::$floats::rms_norm_in_place,
                silu_mul: super::$floats::silu_mul,
                gelu_mul: super::$floats::gelu_mul,
                add_scaled: super::$floats::add_scaled,
                soft_cap: super::$floats::soft_cap,
                highest: super::$floats::highest,
                exp_shifted: super::$floats::exp_shifted,
                dot_loop,
                float_row: super::$floats::float_row,
                attend: super::$floats::attend,
                finish_attention: super::$floats::finish_attention,
                store_kv: super::$floats::store_kv,
            };
        }
    };
}

instantiate!(scalar, Scalar, floats of scalar);
#[cfg(target_arch = "x86_64")]
instantiate!(avx2, crate::simd::avx2::Avx2<false>, floats of avx2, "avx2", "fma", "f16c");
#[cfg(target_arch = "x86_64")]
instantiate!(avxvnni, crate::simd::avx2::Avx2<true>, floats of avx2, "avxvnni", "avx2", "fma", "f16c");
#[cfg(target_arch = "x86_64")]
instantiate!(
    avx512,
    crate::simd::avx512::Avx512,
    floats of avx512,
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512dq",
    "avx512vnni",
    "avx2",
    "fma",
    "f16c"
);

/// AVX-512 with AMX for the products of many columns.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use super::*;
    use crate::panels::amx;

    // AMX itself is assembly, which needs no feature.
    #[target_feature(enable = "avx512f", enable = "avx512bw", enable = "avx512vl", enable = "avx512dq")]
    #[target_feature(enable = "avx512vnni", enable = "avx2", enable = "fma", enable = "f16c")]
    // SAFETY: its contract is that of the function it calls.
    unsafe fn panel_columns<E: Constants>(call: &ColumnsCall) {
        // SAFETY: as the caller vouches.
        unsafe { amx::columns::<E>(call) }
    }

    pub(super) static KERNELS: Kernels = Kernels {
        pass_bytes: 768 << 10,
        many_columns: Some(ManyColumns {
            kernels: with_encodings!(many_columns(panel_columns amx)),
            least: amx::COLUMNS_MIN,
            multiple: 1,
            tile: amx::TILE_COLUMNS,
        }),
        ..avx512::KERNELS
    };
}

#[cfg(target_arch = "aarch64")]
instantiate!(neon, Neon<BASELINE>, floats of neon, "neon");
#[cfg(target_arch = "aarch64")]
instantiate!(neon_dotprod, Neon<DOTPROD>, floats of neon, "neon", "dotprod");
#[cfg(target_arch = "aarch64")]
instantiate!(neon_i8mm, Neon<I8MM>, floats of neon, "neon", "dotprod", "i8mm");

/// An instruction set that this CPU has: a capability, got from detection.
#[derive(Clone, Copy)]
pub struct Isa {
    entry: &'static Entry,
}

struct Entry {
    name: &'static str,
    label: &'static str,
    available: fn() -> bool,
    kernels: &'static Kernels,
}

/// Every instruction set there are kernels for, best first. `label` is what bench results say.
static REGISTRY: &[Entry] = &[
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Entry { name: "amx", label: "amx", available: has_amx, kernels: &amx::KERNELS },
    #[cfg(target_arch = "x86_64")]
    Entry { name: "avx512", label: "avx512vnni", available: has_avx512, kernels: &avx512::KERNELS },
    #[cfg(target_arch = "x86_64")]
    Entry { name: "avxvnni", label: "avxvnni", available: has_avxvnni, kernels: &avxvnni::KERNELS },
    #[cfg(target_arch = "x86_64")]
    Entry { name: "avx2", label: "avx2", available: has_avx2, kernels: &avx2::KERNELS },
    #[cfg(target_arch = "aarch64")]
    Entry { name: "neon_i8mm", label: "neon_i8mm", available: has_i8mm, kernels: &neon_i8mm::KERNELS },
    #[cfg(target_arch = "aarch64")]
    Entry {
        name: "neon_dotprod",
        label: "neon_dotprod",
        available: has_dotprod,
        kernels: &neon_dotprod::KERNELS,
    },
    // Part of AArch64, as Rust's targets have it.
    #[cfg(target_arch = "aarch64")]
    Entry { name: "neon", label: "neon", available: || true, kernels: &neon::KERNELS },
    Entry { name: "scalar", label: "scalar", available: || true, kernels: &scalar::KERNELS },
];

/// Whether the CPU has AMX for bytes and the system lets this process use it, which is asked for once.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    static HAS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    // Bits of leaf 7's EDX (Intel's manual, CPUID), and the system call's numbers (Linux, x86/xstate).
    const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const REQUEST_PERMISSION: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    *HAS.get_or_init(|| {
        let edx = std::arch::x86_64::__cpuid_count(7, 0).edx;
        has_avx512() && edx & TILE_AND_INT8 == TILE_AND_INT8 && {
            // SAFETY: the call takes two numbers; it gives 0 if the system has such registers and grants them.
            unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 }
        }
    })
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && has_avx2()
}

#[cfg(target_arch = "x86_64")]
fn has_avxvnni() -> bool {
    is_x86_feature_detected!("avxvnni") && has_avx2()
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "aarch64")]
fn has_i8mm() -> bool {
    std::arch::is_aarch64_feature_detected!("i8mm") && has_dotprod()
}

#[cfg(target_arch = "aarch64")]
fn has_dotprod() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// An instruction set by a name that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instruction set `{name}` {why}; this CPU has: {available}")]
pub struct IsaError {
    name: String,
    why: &'static str,
    available: String,
}

impl Isa {
    /// The best one.
    pub fn detect() -> Isa {
        Self::available().next().expect("the scalar set is always there")
    }

    /// All that this CPU has, best first.
    pub fn available() -> impl Iterator<Item = Isa> {
        REGISTRY.iter().filter(|entry| (entry.available)()).map(|entry| Isa { entry })
    }

    /// The one called `name` (`scalar`; `avx2`, `avxvnni`, `avx512`, `amx`; `neon`, `neon_dotprod`, `neon_i8mm`).
    ///
    /// # Errors
    /// If there are no kernels of that name or the CPU lacks the instructions.
    pub fn named(name: &str) -> Result<Isa, IsaError> {
        let known = REGISTRY.iter().any(|entry| entry.name == name);
        Self::available().find(|isa| isa.name() == name).ok_or_else(|| IsaError {
            name: name.to_owned(),
            why: if known { "is not in this CPU" } else { "is not known" },
            available: Self::available().map(Isa::name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Its name, as `TANDEM_ISA` takes it.
    pub fn name(self) -> &'static str {
        self.entry.name
    }

    /// Its name with the extension that matters, for records.
    pub fn label(self) -> &'static str {
        self.entry.label
    }

    pub(crate) fn kernels(self) -> &'static Kernels {
        self.entry.kernels
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Safe element-wise operations of an instruction set; see `vector` for what each computes.
impl Isa {
    /// out = x / rms(x) · weight. Slices have one length.
    pub fn rms_norm(self, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        // SAFETY: an `Isa` exists only if the CPU has it.
        unsafe { (self.kernels().rms_norm)(x, weight, epsilon, out) }
    }

    /// x = x / rms(x) · weight. Slices have one length.
    pub fn rms_norm_in_place(self, x: &mut [f32], weight: &[f32], epsilon: f32) {
        // SAFETY: as above.
        unsafe { (self.kernels().rms_norm_in_place)(x, weight, epsilon) }
    }

    /// out = silu(gate) · up. Slices have one length.
    pub fn silu_mul(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.kernels().silu_mul)(gate, up, out) }
    }

    /// out = gelu(gate) · up (tanh form). Slices have one length.
    pub fn gelu_mul(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.kernels().gelu_mul)(gate, up, out) }
    }

    /// x = x + factor · y. Slices have one length.
    pub fn add_scaled(self, x: &mut [f32], factor: f32, y: &[f32]) {
        // SAFETY: as above.
        unsafe { (self.kernels().add_scaled)(x, factor, y) }
    }

    /// x = cap · tanh(x / cap).
    pub fn soft_cap(self, x: &mut [f32], cap: f32) {
        // SAFETY: as above.
        unsafe { (self.kernels().soft_cap)(x, cap) }
    }

    /// The largest value; −∞ of an empty slice.
    pub fn highest(self, x: &[f32]) -> f32 {
        // SAFETY: as above.
        unsafe { (self.kernels().highest)(x) }
    }

    /// out = e^((x − shift) · factor); returns the sum. Slices have one length.
    pub fn exp_shifted(self, x: &[f32], (shift, factor): (f32, f32), out: &mut [f32]) -> f64 {
        // SAFETY: as above.
        unsafe { (self.kernels().exp_shifted)(x, (shift, factor), out) }
    }
}
