//! What a KV cache weighs.
//!
//! `bytes = Σ_layers min(T, window_l) · 2 · n_kv · head_dim · b`: a layer with a sliding window
//! keeps that window and nothing more; the 2 is for keys and values; `b` is bytes per element.

use serde::{Deserialize, Serialize};

/// What one layer keeps per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvLayer {
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
    /// Tokens of the sliding window; `None`: all of the context.
    pub window_tokens: Option<u64>,
}

/// How the cache's elements are stored: blocks of some elements in some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvFormat {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Elements of a block; at least 1.
    pub block_elements: u64,
}

impl KvFormat {
    /// 32-bit floats.
    pub const F32: KvFormat = KvFormat { block_bytes: 4, block_elements: 1 };
    /// 16-bit floats.
    pub const F16: KvFormat = KvFormat { block_bytes: 2, block_elements: 1 };
    /// 8-bit integers, an f16 scale per 32.
    pub const Q8_0: KvFormat = KvFormat { block_bytes: 34, block_elements: 32 };
    /// 4-bit integers, an f16 scale per 32.
    pub const Q4_0: KvFormat = KvFormat { block_bytes: 18, block_elements: 32 };
}

/// Bytes of the KV cache for one sequence of `context_tokens`; saturates at `u64::MAX`.
pub fn kv_bytes(layers: &[KvLayer], context_tokens: u64, format: KvFormat) -> u64 {
    let bytes = layers.iter().fold(0u128, |sum, layer| {
        let tokens = layer.window_tokens.map_or(context_tokens, |window| window.min(context_tokens));
        let per_token = 2 * u128::from(layer.kv_heads) * u128::from(layer.head_dim);
        let elements = u128::from(tokens).saturating_mul(per_token);
        let blocks = elements.div_ceil(u128::from(format.block_elements.max(1)));
        sum.saturating_add(blocks.saturating_mul(u128::from(format.block_bytes)))
    });
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Bytes that one more token adds while every layer still grows (as in an empty context).
pub fn kv_bytes_per_token(layers: &[KvLayer], format: KvFormat) -> u64 {
    kv_bytes(layers, 1, format)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const KIB: u64 = 1 << 10;

    fn layer(kv_heads: u32, head_dim: u32, window_tokens: Option<u64>) -> KvLayer {
        KvLayer { kv_heads, head_dim, window_tokens }
    }

    /// Gemma's mixture: `global` layers over the whole context, `local` ones over a window.
    struct Mixture {
        global: usize,
        local: usize,
        window_tokens: u64,
        kv_heads: u32,
        head_dim: u32,
    }

    impl Mixture {
        fn layers(&self) -> Vec<KvLayer> {
            let one = |window| layer(self.kv_heads, self.head_dim, window);
            let mut layers = vec![one(None); self.global];
            layers.extend(vec![one(Some(self.window_tokens)); self.local]);
            layers
        }

        fn mib(&self, context_tokens: u64) -> u64 {
            kv_bytes(&self.layers(), context_tokens, KvFormat::F16) / MIB
        }

        fn mib_all_global(&self, context_tokens: u64) -> u64 {
            let layers = vec![layer(self.kv_heads, self.head_dim, None); self.global + self.local];
            kv_bytes(&layers, context_tokens, KvFormat::F16) / MIB
        }
    }

    fn gemma(global: usize, local: usize, window_tokens: u64, heads: (u32, u32)) -> Mixture {
        Mixture { global, local, window_tokens, kv_heads: heads.0, head_dim: heads.1 }
    }

    #[test]
    fn sliding_windows_give_gemmas_published_sizes() {
        let rows = [
            (gemma(4, 22, 512, (1, 256)), [43, 139, 523], 832),
            (gemma(5, 29, 1024, (4, 256)), [276, 756, 2676], 4352),
            (gemma(8, 40, 1024, (8, 256)), [832, 2368, 8512], 12288),
            (gemma(10, 52, 1024, (16, 128)), [1056, 2976, 10656], 15872),
        ];
        for (mixture, mib, all_global) in rows {
            assert_eq!([8, 32, 128].map(|k| mixture.mib(k * KIB)), mib, "{} global layers", mixture.global);
            assert_eq!(mixture.mib_all_global(32 * KIB), all_global);
        }
        let gemma2 = gemma(13, 13, 4096, (4, 256));
        assert_eq!([8, 32].map(|k| gemma2.mib(k * KIB)), [624, 1872]);
        assert_eq!(gemma2.mib_all_global(32 * KIB), 3328);
    }

    #[test]
    fn phi4_mini_takes_512_mib_at_4k() {
        let layers = vec![layer(8, 128, None); 32];
        assert_eq!(kv_bytes_per_token(&layers, KvFormat::F16), 131_072);
        assert_eq!(kv_bytes(&layers, 4 * KIB, KvFormat::F16), 512 * MIB);
    }

    #[test]
    fn bytes_per_token_of_common_models() {
        // (layers, kv heads, head size) and bytes per token at f16, in half KiB.
        let models = [
            ("Llama-3.2-1B", (16, 8, 64), 64),
            ("Llama-3.2-3B", (28, 8, 128), 224),
            ("Qwen2.5-0.5B", (24, 2, 64), 24),
            ("Qwen2.5-1.5B", (28, 2, 128), 56),
            ("Qwen3-0.6B", (28, 8, 128), 224),
            ("SmolLM2-135M", (30, 3, 64), 45),
            ("Phi-3-mini", (32, 32, 96), 768),
            ("Mistral-7B", (32, 8, 128), 256),
        ];
        for (name, (count, kv_heads, head_dim), half_kib) in models {
            let layers = vec![layer(kv_heads, head_dim, None); count];
            assert_eq!(kv_bytes_per_token(&layers, KvFormat::F16), half_kib * KIB / 2, "{name}");
        }
    }

    #[test]
    fn quantized_caches_weigh_their_blocks() {
        let layers = [layer(2, 64, None)];
        let elements = 100 * 2 * 2 * 64;
        assert_eq!(kv_bytes(&layers, 100, KvFormat::F32), elements * 4);
        assert_eq!(kv_bytes(&layers, 100, KvFormat::Q8_0), elements / 32 * 34);
        assert_eq!(kv_bytes(&layers, 100, KvFormat::Q4_0), elements / 32 * 18);
    }

    #[test]
    fn absurd_sizes_saturate() {
        let layers = vec![layer(u32::MAX, u32::MAX, None); 3];
        assert_eq!(kv_bytes(&layers, u64::MAX, KvFormat::F32), u64::MAX);
    }

    proptest! {
        #[test]
        fn a_window_never_costs_more_and_a_longer_context_never_less(
            window in 1u64..5000, context in 0u64..20_000, more in 0u64..5000,
        ) {
            let local = [layer(2, 64, Some(window))];
            let global = [layer(2, 64, None)];
            let bytes = |layers: &[KvLayer], tokens| kv_bytes(layers, tokens, KvFormat::Q8_0);
            prop_assert!(bytes(&local, context) <= bytes(&global, context));
            prop_assert!(bytes(&local, context) <= bytes(&local, context + more));
            if context <= window {
                prop_assert_eq!(bytes(&local, context), bytes(&global, context));
            }
        }
    }
}
