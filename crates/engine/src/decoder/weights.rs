//! A decoder's weights: found in the file, checked against the model's numbers, packed.

use std::sync::Arc;

use kernels::formats::Format;
use kernels::panels::{PackError, Packing, Panels};
use kernels::product;

use crate::gguf::{Gguf, Tensor};
use crate::packed::{PackedError, PanelSource, PanelsError, Wanted};
use crate::spec::DecoderSpec;

/// Why a file's tensors make no model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A tensor is missing.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// A tensor has other dimensions than the model's numbers say.
    #[error("tensor `{name}` is {found_rows} × {found_columns}, expected {rows} × {columns}")]
    Shape {
        /// Its name.
        name: String,
        /// Rows it has.
        found_rows: usize,
        /// Columns it has.
        found_columns: usize,
        /// Rows it should have.
        rows: usize,
        /// Columns it should have.
        columns: usize,
    },
    /// It can't be packed.
    #[error("tensor `{name}`: {error}")]
    Pack {
        /// Its name.
        name: String,
        /// Why.
        error: PackError,
    },
    /// A norm or bias is not plain numbers.
    #[error("tensor `{name}` holds a value that is not finite")]
    NotFinite {
        /// Its name.
        name: String,
    },
    /// The cache of packed weights; [`crate::model::Model::load`] then does without it.
    #[error("packed weights: {0}")]
    Packed(#[from] PackedError),
    /// The vocabulary's size is out of range.
    #[error("`token_embd.weight` has {0} rows, which is no vocabulary")]
    Vocabulary(usize),
}

/// Largest vocabulary.
const VOCABULARY_MAX: usize = 1 << 22;

/// One matrix.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// Its tensor's name.
    tensor: Arc<str>,
    matrix: Matrix,
}

/// Where a matrix is: packed, or rows of the file.
#[derive(Clone, Debug)]
enum Matrix {
    Packed(Arc<Panels>),
    Rows { format: &'static dyn Format, at: std::ops::Range<usize>, rows: usize, columns: usize },
}

impl Linear {
    /// As a product's operand; `file` is the whole file.
    pub fn weights<'a>(&'a self, file: &'a [u8]) -> product::Weights<'a> {
        match &self.matrix {
            Matrix::Packed(panels) => product::Weights::from(&**panels),
            Matrix::Rows { format, at, rows, columns } => product::Weights::Float(product::FloatRows {
                format: *format,
                data: &file[at.clone()],
                rows: *rows,
                columns: *columns,
            }),
        }
    }

    /// Whether it multiplies quantized columns.
    pub fn is_packed(&self) -> bool {
        matches!(self.matrix, Matrix::Packed(_))
    }

    /// Whether it multiplies quantized columns once it is packed, which it need not be.
    pub fn can_be_packed(&self) -> bool {
        self.rows_of(&|format| Panels::supports(format)).is_some() || self.is_packed()
    }

    /// Its bytes of the file, if it is rows of a format that `counts`.
    fn rows_of(&self, counts: &dyn Fn(&'static dyn Format) -> bool) -> Option<&std::ops::Range<usize>> {
        match &self.matrix {
            Matrix::Rows { format, at, .. } if counts(*format) => Some(at),
            Matrix::Rows { .. } | Matrix::Packed(_) => None,
        }
    }

    /// Output values.
    pub fn rows(&self) -> usize {
        match &self.matrix {
            Matrix::Packed(panels) => panels.rows(),
            Matrix::Rows { rows, .. } => *rows,
        }
    }

    /// Input values.
    pub fn columns(&self) -> usize {
        match &self.matrix {
            Matrix::Packed(panels) => panels.columns(),
            Matrix::Rows { columns, .. } => *columns,
        }
    }

    /// Rows × columns.
    pub fn cells(&self) -> usize {
        self.rows() * self.columns()
    }

    /// Bytes read per product.
    pub fn bytes(&self) -> usize {
        self.first_bytes(self.rows())
    }

    /// The same of the first `rows` rows.
    pub fn first_bytes(&self, rows: usize) -> usize {
        let whole = match &self.matrix {
            Matrix::Packed(panels) => panels.bytes(),
            Matrix::Rows { at, .. } => at.len(),
        };
        (whole as u64 * rows.min(self.rows()) as u64 / self.rows().max(1) as u64) as usize
    }
}

/// A norm's weights, or biases.
pub(crate) type Vector = Arc<[f32]>;

/// Norm weights of queries or keys.
#[derive(Clone, Debug)]
pub(crate) enum HeadNorm {
    /// Each head by itself.
    PerHead(Vector),
    /// All heads as one vector.
    Whole(Vector),
}

/// One layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub attention_norm: Option<Vector>,
    pub qkv: Vec<Linear>, // [(heads + 2 kv_heads) · head_dim, hidden] in all
    pub qkv_bias: Option<Vector>,
    pub query_norm: Option<HeadNorm>,
    pub key_norm: Option<HeadNorm>,
    pub output: Linear, // [hidden, heads · head_dim]
    pub output_bias: Option<Vector>,
    pub post_attention_norm: Option<Vector>,
    pub feed_forward_norm: Option<Vector>,
    pub gate_up: Vec<Linear>, // [2 feed_forward, hidden] in all, gate first
    pub down: Linear,         // [hidden, feed_forward]
    pub post_feed_forward_norm: Option<Vector>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Weights {
    pub vocabulary: usize,
    pub layers: Vec<Layer>,
    pub final_norm: Vector,
    pub head: Linear, // [vocabulary, hidden]
}

/// Finds, checks and packs tensors.
struct Source<'a> {
    gguf: &'a Gguf,
    /// Where packed matrices come from; `None`: every matrix stays as it is in the file.
    panels: Option<&'a dyn PanelSource>,
}

impl Weights {
    /// Loads the weights; without `panels` every matrix stays as it is in the file.
    pub fn load(
        gguf: &Gguf,
        spec: &DecoderSpec,
        panels: Option<&dyn PanelSource>,
    ) -> Result<Self, WeightsError> {
        let source = Source { gguf, panels };
        let embeddings = source.tensor("token_embd.weight")?;
        let vocabulary = embeddings.rows();
        if vocabulary == 0 || vocabulary > VOCABULARY_MAX {
            return Err(WeightsError::Vocabulary(vocabulary));
        }
        source.check(embeddings, (vocabulary, spec.hidden))?;
        let layers = (0..spec.layers.len())
            .map(|index| source.layer(spec, &format!("blk.{index}.")))
            .collect::<Result<_, _>>()?;
        let is_tied = gguf.tensor("output.weight").is_none();
        let head = if is_tied { "token_embd.weight" } else { "output.weight" };
        let weights = Weights {
            vocabulary,
            layers,
            final_norm: source.required_vector("output_norm.weight", spec.hidden)?,
            head: source.matrix(head, (vocabulary, spec.hidden))?,
        };
        Ok(weights)
    }

    /// The same weights for drafting: with a head of the first `vocabulary` tokens, and what has more bits than
    /// [`COARSE`](kernels::formats::COARSE) in those of that; all else is shared. `panels` packs.
    pub fn for_drafting(
        &self,
        gguf: &Gguf,
        panels: &dyn PanelSource,
        vocabulary: usize,
    ) -> Result<Self, WeightsError> {
        let coarse = |linear: &Linear, rows: usize| match coarse_of(gguf, linear, rows) {
            None => Ok(linear.clone()),
            Some((wanted, _)) => {
                Ok(Linear { tensor: linear.tensor.clone(), matrix: packed(panels, &wanted)? })
            }
        };
        let whole = |linear: &Linear| coarse(linear, linear.rows());
        let all = |linears: &[Linear]| linears.iter().map(whole).collect::<Result<Vec<_>, WeightsError>>();
        let layer = |layer: &Layer| {
            Ok(Layer {
                qkv: all(&layer.qkv)?,
                output: whole(&layer.output)?,
                gate_up: all(&layer.gate_up)?,
                down: whole(&layer.down)?,
                ..layer.clone()
            })
        };
        Ok(Weights {
            vocabulary: vocabulary.min(self.vocabulary),
            layers: self.layers.iter().map(layer).collect::<Result<_, WeightsError>>()?,
            final_norm: self.final_norm.clone(),
            head: coarse(&self.head, vocabulary.min(self.head.rows()))?,
        })
    }

    /// Names and packed bytes of the matrices that [`Weights::for_drafting`] makes, from the file alone.
    pub fn coarse_matrices<'a>(
        &'a self,
        gguf: &'a Gguf,
        vocabulary: usize,
    ) -> impl Iterator<Item = (&'a str, usize)> {
        let of_layer = |layer: &'a Layer| {
            let fused = layer.qkv.iter().chain(&layer.gate_up);
            fused.chain([&layer.output, &layer.down]).map(|linear| (linear, linear.rows()))
        };
        let head = (&self.head, vocabulary.min(self.head.rows()));
        let all = self.layers.iter().flat_map(of_layer).chain([head]);
        all.filter_map(move |(linear, rows)| {
            coarse_of(gguf, linear, rows).map(|(_, bytes)| (&*linear.tensor, bytes))
        })
    }

    /// Bytes of weights read per drafted token, with a head of so many tokens.
    pub fn draft_bytes(&self, vocabulary: usize) -> usize {
        self.sum(Linear::bytes) + self.head.first_bytes(vocabulary)
    }

    /// Bytes of weights read per written token.
    pub fn bytes(&self) -> usize {
        self.sum(Linear::bytes) + self.head.bytes()
    }

    /// Multiply-adds of the layers' products per token.
    pub fn layer_macs(&self) -> usize {
        self.sum(Linear::cells)
    }

    /// Bytes of matrices that are rows of the file in a format that `counts`.
    pub fn rows_bytes(&self, counts: impl Fn(&'static dyn Format) -> bool) -> usize {
        let bytes = |linear: &Linear| linear.rows_of(&counts).map_or(0, |at| at.len());
        self.sum(bytes) + bytes(&self.head)
    }

    /// Whether the head is rows of the file for good, and those are the embeddings.
    pub fn shares_embeddings(&self, gguf: &Gguf) -> bool {
        let embeddings = gguf.tensor("token_embd.weight").map(Tensor::byte_range);
        let head = self.head.rows_of(&|format| !Panels::supports(format));
        head.is_some_and(|at| embeddings.as_ref() == Some(at))
    }

    /// Bytes of norms and biases.
    pub fn vector_bytes(&self) -> usize {
        let layer = |layer: &Layer| -> usize {
            let plain = [
                &layer.attention_norm,
                &layer.qkv_bias,
                &layer.output_bias,
                &layer.post_attention_norm,
                &layer.feed_forward_norm,
                &layer.post_feed_forward_norm,
            ];
            let plain = plain.into_iter().flatten().map(|vector| vector.len());
            let heads = [&layer.query_norm, &layer.key_norm].into_iter().flatten().map(|norm| match norm {
                HeadNorm::PerHead(norm) | HeadNorm::Whole(norm) => norm.len(),
            });
            plain.chain(heads).sum()
        };
        let values = self.layers.iter().map(layer).sum::<usize>() + self.final_norm.len();
        values * size_of::<f32>() + self.layers.len() * size_of::<Layer>()
    }

    fn sum(&self, of: impl Fn(&Linear) -> usize) -> usize {
        let layer = |l: &Layer| {
            let fused: usize = l.qkv.iter().chain(&l.gate_up).map(&of).sum();
            fused + of(&l.output) + of(&l.down)
        };
        self.layers.iter().map(layer).sum()
    }
}

/// A matrix from where packed ones come from.
fn packed(source: &dyn PanelSource, wanted: &Wanted) -> Result<Matrix, WeightsError> {
    source.panels(wanted).map(|panels| Matrix::Packed(Arc::new(panels))).map_err(|error| match error {
        PanelsError::Pack(error) => WeightsError::Pack { name: wanted.tensor.name().to_owned(), error },
        PanelsError::Packed(error) => WeightsError::Packed(error),
    })
}

/// The first `rows` rows of a matrix in fewer bits, with the bytes that they take packed; `None` if they have no
/// more bits as they are, or rows that can't be cut into blocks.
fn coarse_of<'a>(gguf: &'a Gguf, linear: &Linear, rows: usize) -> Option<(Wanted<'a>, usize)> {
    let tensor = gguf.tensor(&linear.tensor)?;
    let shape = (rows, tensor.columns());
    let packing = Packing::coarse(tensor.format());
    let bytes = Panels::packed_bytes(packing.format(), shape).ok()?;
    // What has no packed form has more bits: those of floats.
    let has_more = Panels::packed_bytes(tensor.format(), shape).map_or(true, |own| own > bytes);
    has_more.then_some((Wanted { tensor, rows, packing }, bytes))
}

impl Source<'_> {
    fn tensor(&self, name: &str) -> Result<&Tensor, WeightsError> {
        self.gguf.tensor(name).ok_or_else(|| WeightsError::Missing(name.to_owned()))
    }

    fn check(&self, tensor: &Tensor, (rows, columns): (usize, usize)) -> Result<(), WeightsError> {
        if (tensor.rows(), tensor.columns()) == (rows, columns) {
            return Ok(());
        }
        Err(WeightsError::Shape {
            name: tensor.name().to_owned(),
            found_rows: tensor.rows(),
            found_columns: tensor.columns(),
            rows,
            columns,
        })
    }

    fn matrix(&self, name: &str, (rows, columns): (usize, usize)) -> Result<Linear, WeightsError> {
        let tensor = self.tensor(name)?;
        self.check(tensor, (rows, columns))?;
        let format = tensor.format();
        let matrix = match self.panels.filter(|_| Panels::supports(format)) {
            None => Matrix::Rows { format, at: tensor.byte_range(), rows, columns },
            Some(source) => packed(source, &Wanted { tensor, rows, packing: format.into() })?,
        };
        Ok(Linear { tensor: name.into(), matrix })
    }

    /// A vector of `length` numbers, if the tensor is there.
    fn vector(&self, name: &str, length: usize) -> Result<Option<Vector>, WeightsError> {
        let Some(tensor) = self.gguf.tensor(name) else { return Ok(None) };
        self.check(tensor, (1, length))?;
        let mut values = vec![0f32; length];
        tensor.format().dequantize(self.gguf.data(tensor), &mut values);
        if values.iter().all(|v| v.is_finite()) {
            return Ok(Some(values.into()));
        }
        Err(WeightsError::NotFinite { name: name.to_owned() })
    }

    fn required_vector(&self, name: &str, length: usize) -> Result<Vector, WeightsError> {
        self.vector(name, length)?.ok_or_else(|| WeightsError::Missing(name.to_owned()))
    }

    fn head_norm(
        &self,
        name: &str,
        spec: &DecoderSpec,
        heads: usize,
    ) -> Result<Option<HeadNorm>, WeightsError> {
        let is_whole = self.gguf.tensor(name).is_some_and(|t| t.columns() != spec.head_dim);
        let length = if is_whole { heads * spec.head_dim } else { spec.head_dim };
        let norm = self.vector(name, length)?;
        Ok(norm.map(if is_whole { HeadNorm::Whole } else { HeadNorm::PerHead }))
    }

    fn layer(&self, spec: &DecoderSpec, prefix: &str) -> Result<Layer, WeightsError> {
        let name = |suffix: &str| format!("{prefix}{suffix}");
        let (hidden, wide) = (spec.hidden, spec.heads * spec.head_dim);
        let narrow = spec.kv_heads * spec.head_dim;
        let qkv = if self.gguf.tensor(&name("attn_qkv.weight")).is_some() {
            vec![self.matrix(&name("attn_qkv.weight"), (wide + 2 * narrow, hidden))?]
        } else {
            vec![
                self.matrix(&name("attn_q.weight"), (wide, hidden))?,
                self.matrix(&name("attn_k.weight"), (narrow, hidden))?,
                self.matrix(&name("attn_v.weight"), (narrow, hidden))?,
            ]
        };
        let feed_forward = spec.feed_forward;
        let gate_up = if self.gguf.tensor(&name("ffn_gate.weight")).is_some() {
            vec![
                self.matrix(&name("ffn_gate.weight"), (feed_forward, hidden))?,
                self.matrix(&name("ffn_up.weight"), (feed_forward, hidden))?,
            ]
        } else {
            vec![self.matrix(&name("ffn_up.weight"), (2 * feed_forward, hidden))?]
        };
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"), hidden)?,
            qkv,
            qkv_bias: self.qkv_bias(prefix, wide, narrow)?,
            query_norm: self.head_norm(&name("attn_q_norm.weight"), spec, spec.heads)?,
            key_norm: self.head_norm(&name("attn_k_norm.weight"), spec, spec.kv_heads)?,
            output: self.matrix(&name("attn_output.weight"), (hidden, wide))?,
            output_bias: self.vector(&name("attn_output.bias"), hidden)?,
            post_attention_norm: self.vector(&name("post_attention_norm.weight"), hidden)?,
            feed_forward_norm: self.vector(&name("ffn_norm.weight"), hidden)?,
            gate_up,
            down: self.matrix(&name("ffn_down.weight"), (hidden, feed_forward))?,
            post_feed_forward_norm: self.vector(&name("post_ffw_norm.weight"), hidden)?,
        })
    }

    /// The three biases behind each other, zeros for those that are missing; `None` without any.
    fn qkv_bias(&self, prefix: &str, wide: usize, narrow: usize) -> Result<Option<Vector>, WeightsError> {
        if let Some(fused) = self.vector(&format!("{prefix}attn_qkv.bias"), wide + 2 * narrow)? {
            return Ok(Some(fused));
        }
        let mut all = Vec::new();
        let mut is_any = false;
        for (name, length) in [("attn_q.bias", wide), ("attn_k.bias", narrow), ("attn_v.bias", narrow)] {
            let bias = self.vector(&format!("{prefix}{name}"), length)?;
            is_any |= bias.is_some();
            match bias {
                Some(bias) => all.extend_from_slice(&bias),
                None => all.resize(all.len() + length, 0.0),
            }
        }
        Ok(is_any.then(|| all.into()))
    }
}
