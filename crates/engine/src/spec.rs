//! The numbers of a decoder: [`DecoderSpec`], with the reading that all architectures share.

use crate::gguf::Gguf;

use crate::models::{Settings, SpecError};

/// Most layers of a model.
pub const LAYERS_MAX: u32 = 512;
/// Longest residual stream, feed-forward layer and head.
const WIDTH_MAX: u32 = 1 << 18;
/// Longest context.
const CONTEXT_TOKENS_MAX: u32 = 1 << 21;
/// Heads times their size, at most.
const HEADS_MAX: u32 = 1 << 12;

/// The gate's activation in the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// GELU in its tanh form.
    Gelu,
}

/// Which dimensions of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// 2i and 2i + 1.
    Interleaved,
    /// i and i + half of the rotated dimensions.
    HalfSplit,
}

/// One rotary embedding: pair i turns by `position · frequencies[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians per position, one per rotated pair.
    pub frequencies: Vec<f64>,
    /// Multiplies sine and cosine.
    pub magnitude: f32,
}

/// What one layer does differently from its neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSpec {
    /// A token sees itself and the `window − 1` before it; `None`: all before it.
    pub window: Option<usize>,
    /// Which of the model's rotary embeddings; `None`: none.
    pub rope: Option<usize>,
}

/// Everything that the decoder must know besides the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// `general.architecture`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Longest sequence.
    pub context_tokens: usize,
    /// Added under the root of the norms.
    pub norm_epsilon: f32,
    /// Multiplies the token's embedding.
    pub embedding_scale: f32,
    /// Multiplies what a block adds to the residual stream.
    pub residual_scale: f32,
    /// Multiplies the logits.
    pub logit_scale: f32,
    /// Multiplies the attention scores.
    pub attention_scale: f32,
    /// Soft cap of the scores.
    pub attention_soft_cap: Option<f32>,
    /// Soft cap of the logits.
    pub logit_soft_cap: Option<f32>,
    /// The feed-forward gate.
    pub activation: Activation,
    /// How dimensions pair up.
    pub rope_pairs: RopePairs,
    /// The rotary embeddings in use.
    pub ropes: Vec<Rope>,
    /// The layers.
    pub layers: Vec<LayerSpec>,
}

/// Reads metadata under an architecture's prefix.
pub(crate) struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'static str,
}

impl<'a> Keys<'a> {
    pub fn new(gguf: &'a Gguf, prefix: &'static str) -> Self {
        Keys { gguf, prefix }
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub fn u32(&self, name: &str) -> Result<Option<u32>, SpecError> {
        Ok(self.gguf.u32(&self.key(name))?)
    }

    pub fn f32(&self, name: &str) -> Result<Option<f32>, SpecError> {
        Ok(self.gguf.f32(&self.key(name))?)
    }

    pub fn str(&self, name: &str) -> Result<Option<&'a str>, SpecError> {
        Ok(self.gguf.str(&self.key(name))?)
    }

    /// A required number in 1..=max.
    pub fn size(&self, name: &str, max: u32) -> Result<usize, SpecError> {
        let value = self.gguf.required_u32(&self.key(name))?;
        self.in_range(name, value, max)
    }

    fn in_range(&self, name: &str, value: u32, max: u32) -> Result<usize, SpecError> {
        if (1..=max).contains(&value) {
            return Ok(value as usize);
        }
        let why = "outside what any model has";
        Err(SpecError::Value { key: self.key(name), value: value.to_string(), why })
    }

    /// A finite number, at most 10⁹ in magnitude.
    pub fn number(&self, name: &str, default: f32) -> Result<f32, SpecError> {
        let value = self.f32(name)?.unwrap_or(default);
        if value.is_finite() && value.abs() <= 1e9 {
            return Ok(value);
        }
        Err(SpecError::Value { key: self.key(name), value: value.to_string(), why: "not a usable number" })
    }

    /// A number above zero.
    pub fn positive(&self, name: &str, default: f32) -> Result<f32, SpecError> {
        let value = self.number(name, default)?;
        if value > 0.0 {
            return Ok(value);
        }
        Err(SpecError::Value { key: self.key(name), value: value.to_string(), why: "must be above zero" })
    }

    /// Values of an optional f32 tensor (rope factors).
    pub fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.gguf.tensor(name)?;
        let mut values = vec![0f32; tensor.columns() * tensor.rows()];
        tensor.format().dequantize(self.gguf.data(tensor), &mut values);
        Some(values)
    }
}

impl DecoderSpec {
    /// What most architectures share: sizes, one rope over whole heads with the file's base and linear
    /// scaling, no windows, pre-norms, SiLU.
    pub(crate) fn plain(keys: &Keys, settings: &Settings) -> Result<DecoderSpec, SpecError> {
        let hidden = keys.size("embedding_length", WIDTH_MAX)?;
        let heads = keys.size("attention.head_count", HEADS_MAX)?;
        let kv_heads = match keys.u32("attention.head_count_kv")? {
            Some(value) => keys.in_range("attention.head_count_kv", value, HEADS_MAX)?,
            None => heads,
        };
        let head_dim = match keys.u32("attention.key_length")? {
            Some(value) => keys.in_range("attention.key_length", value, WIDTH_MAX)?,
            None => hidden / heads,
        };
        let layers = keys.size("block_count", LAYERS_MAX)?;
        let trained = keys.size("context_length", CONTEXT_TOKENS_MAX)?;
        let context_tokens = settings.context_tokens.map_or(trained, |wanted| trained.min(wanted as usize));
        let mut spec = DecoderSpec {
            architecture: keys.prefix.to_owned(),
            hidden,
            heads,
            kv_heads,
            head_dim,
            feed_forward: keys.size("feed_forward_length", WIDTH_MAX)?,
            context_tokens,
            norm_epsilon: keys.positive("attention.layer_norm_rms_epsilon", 1e-6)?,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            attention_soft_cap: None,
            logit_soft_cap: None,
            activation: Activation::Silu,
            rope_pairs: RopePairs::HalfSplit,
            ropes: Vec::new(),
            layers: vec![LayerSpec { window: None, rope: Some(0) }; layers],
        };
        let base = keys.positive("rope.freq_base", 10_000.0)?;
        let factors = keys.tensor("rope_freqs.weight");
        spec.ropes = vec![spec.rope(keys, base, linear_scaling(keys)?, factors.as_deref())?];
        Ok(spec)
    }

    /// A rotary embedding over `rope.dimension_count` dimensions: pair i has the frequency
    /// `base^(−2i / dimensions) / scaling / factors[i]`.
    pub(crate) fn rope(
        &self,
        keys: &Keys,
        base: f32,
        scaling: f32,
        factors: Option<&[f32]>,
    ) -> Result<Rope, SpecError> {
        let dimensions = keys.u32("rope.dimension_count")?.unwrap_or(self.head_dim as u32);
        let value = || dimensions.to_string();
        if dimensions == 0 || dimensions % 2 == 1 || dimensions as usize > self.head_dim {
            let why = "must be even, above zero and at most the head's size";
            return Err(SpecError::Value { key: keys.key("rope.dimension_count"), value: value(), why });
        }
        let pairs = dimensions as usize / 2;
        if factors.is_some_and(|f| f.len() != pairs || f.iter().any(|&x| !x.is_finite() || x == 0.0)) {
            let why = "the file's rope factors do not fit it";
            return Err(SpecError::Value { key: keys.key("rope.dimension_count"), value: value(), why });
        }
        let frequency = |i: usize| {
            let exponent = -2.0 * i as f64 / f64::from(dimensions);
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            f64::from(base).powf(exponent) / f64::from(scaling) / factor
        };
        Ok(Rope { frequencies: (0..pairs).map(frequency).collect(), magnitude: 1.0 })
    }

    /// Gives every layer for which `is_global` does not hold a window, and its own rope if there are two.
    pub(crate) fn set_windows(&mut self, window: usize, is_global: impl Fn(usize) -> bool) {
        let local_rope = if self.ropes.len() > 1 { 1 } else { 0 };
        for (index, layer) in self.layers.iter_mut().enumerate() {
            if !is_global(index) {
                *layer = LayerSpec { window: Some(window), rope: Some(local_rope) };
            }
        }
    }

    /// What the decoder takes for granted.
    pub(crate) fn validate(&self) -> Result<(), SpecError> {
        let fault = |key: &str, value: usize, why| {
            Err(SpecError::Value {
                key: format!("{}.{key}", self.architecture),
                value: value.to_string(),
                why,
            })
        };
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fault("attention.head_count_kv", self.kv_heads, "does not divide the number of heads");
        }
        if self.heads / self.kv_heads > kernels::attention::ROWS_MAX {
            return fault(
                "attention.head_count_kv",
                self.kv_heads,
                "too many heads share one key-value head",
            );
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(16) {
            return fault("attention.key_length", self.head_dim, "must be a multiple of 16");
        }
        Ok(())
    }
}

/// The factor of linear rope scaling, 1 without scaling.
///
/// # Errors
/// For other kinds of scaling, which the architectures that use them read themselves.
pub(crate) fn linear_scaling(keys: &Keys) -> Result<f32, SpecError> {
    let kind = keys.str("rope.scaling.type")?;
    match kind {
        None | Some("none" | "linear" | "longrope") => {}
        Some(other) => {
            let value = other.to_owned();
            return Err(SpecError::Unsupported { key: keys.key("rope.scaling.type"), value });
        }
    }
    if kind == Some("linear") || (kind.is_none() && keys.f32("rope.scaling.factor")?.is_some()) {
        return keys.positive("rope.scaling.factor", 1.0);
    }
    Ok(1.0)
}
