//! A BERT encoder (Devlin et al. 2019), f32, one text at a time, so that there is no padding.
//!
//! ```text
//! x = LN(word + position + type 0)
//! x = LN(x + attention(x)),  x = LN(x + W₂ gelu(W₁ x + b₁) + b₂)      each layer (post-LN)
//! attention: softmax(Q Kᵀ / √(width of a head)) V for each head; gelu(x) = x/2 · (1 + erf(x/√2))
//! ```

use oncefit_kernels::{ConvWeight, Cpu, PackedWeight, Shape, Source, Window, convolution_forward};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::{Result, TextError};
use crate::files::{CONFIG, ModelFiles, WEIGHTS};

/// `config.json`
#[derive(Deserialize)]
struct Config {
    model_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "usual_epsilon")]
    layer_norm_eps: f32,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
}

fn two() -> usize {
    2
}

fn usual_epsilon() -> f32 {
    1e-12
}

/// The encoder's weights.
#[derive(Clone, Debug)]
pub(crate) struct Bert {
    cpu: Cpu,
    width: usize,
    heads: usize,
    words: Vec<f32>,
    /// Of each position, with that of token type 0 added.
    positions: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

#[derive(Clone, Debug)]
struct Linear {
    inputs: usize,
    outputs: usize,
    weight: PackedWeight,
    bias: Vec<f32>,
}

#[derive(Clone, Debug)]
struct LayerNorm {
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f32,
}

impl Bert {
    /// Reads `config.json` and, out of `bytes`, `model.safetensors`.
    pub fn load(files: &mut ModelFiles, bytes: &[u8]) -> Result<Self> {
        let config: Option<Config> = files.json(CONFIG)?;
        let config = config.ok_or_else(|| files.wrong(CONFIG, "is not there"))?;
        let words = [
            ("model_type", &config.model_type, "bert"),
            ("hidden_act", &config.hidden_act, "gelu"),
            (
                "position_embedding_type",
                &config.position_embedding_type,
                "absolute",
            ),
        ];
        for (key, found, legal) in words {
            if let Some(found) = found
                && found != legal
            {
                let reason = format!("`{key}` is `{found}`, but must be `{legal}`");
                return Err(files.wrong(CONFIG, reason));
            }
        }
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        if width == 0 || heads == 0 || !width.is_multiple_of(heads) {
            let reason =
                format!("`num_attention_heads` is {heads}, but must divide `hidden_size`, {width}");
            return Err(files.wrong(CONFIG, reason));
        }
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| files.wrong(WEIGHTS, error.to_string()))?;
        let cpu = Cpu::detect();
        let reader = Reader {
            file: files.shown(WEIGHTS),
            // Files of whole models have the encoder under `bert.`.
            prefix: match tensors.tensor("bert.embeddings.word_embeddings.weight") {
                Ok(_) => "bert.",
                Err(_) => "",
            },
            tensors,
            cpu,
            epsilon: config.layer_norm_eps,
        };
        let words = reader.tensor(
            "embeddings.word_embeddings.weight",
            &[config.vocab_size, width],
        )?;
        let mut positions = reader.tensor(
            "embeddings.position_embeddings.weight",
            &[config.max_position_embeddings, width],
        )?;
        let types = reader.tensor(
            "embeddings.token_type_embeddings.weight",
            &[config.type_vocab_size, width],
        )?;
        for row in positions.chunks_exact_mut(width) {
            add(row, &types[..width]);
        }
        let inner = config.intermediate_size;
        let layer = |index: usize| {
            let at = |part: &str| format!("encoder.layer.{index}.{part}");
            Ok(Layer {
                query: reader.linear(&at("attention.self.query"), width, width)?,
                key: reader.linear(&at("attention.self.key"), width, width)?,
                value: reader.linear(&at("attention.self.value"), width, width)?,
                attention_output: reader.linear(&at("attention.output.dense"), width, width)?,
                attention_norm: reader.norm(&at("attention.output.LayerNorm"), width)?,
                intermediate: reader.linear(&at("intermediate.dense"), width, inner)?,
                output: reader.linear(&at("output.dense"), inner, width)?,
                output_norm: reader.norm(&at("output.LayerNorm"), width)?,
            })
        };
        Ok(Self {
            cpu,
            width,
            heads,
            words,
            positions,
            norm: reader.norm("embeddings.LayerNorm", width)?,
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Result<_>>()?,
        })
    }

    /// Values of a token's vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Words of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.words.len() / self.width
    }

    /// Tokens of the longest text.
    pub fn longest(&self) -> usize {
        self.positions.len() / self.width
    }

    /// The last hidden state, tokens × width.
    ///
    /// # Panics
    /// If a token is outside of the vocabulary, or there are more than [`Bert::longest`].
    pub fn forward(&self, tokens: &[u32]) -> Vec<f32> {
        let width = self.width;
        let mut x = self.positions[..tokens.len() * width].to_vec();
        for (row, &token) in x.chunks_exact_mut(width).zip(tokens) {
            add(row, &self.words[token as usize * width..][..width]);
        }
        self.norm.apply(&mut x);
        for layer in &self.layers {
            let mixed = self.attention(layer, &x);
            add(&mut x, &layer.attention_output.apply(self.cpu, &mixed));
            layer.attention_norm.apply(&mut x);
            let mut inner = layer.intermediate.apply(self.cpu, &x);
            inner.iter_mut().for_each(|value| *value = gelu(*value));
            add(&mut x, &layer.output.apply(self.cpu, &inner));
            layer.output_norm.apply(&mut x);
        }
        x
    }

    /// The heads' outputs side by side, tokens × width.
    fn attention(&self, layer: &Layer, x: &[f32]) -> Vec<f32> {
        let (width, part) = (self.width, self.width / self.heads);
        let query = layer.query.apply(self.cpu, x);
        let key = layer.key.apply(self.cpu, x);
        let value = layer.value.apply(self.cpu, x);
        let scale = 1.0 / (part as f32).sqrt();
        let mut mixed = vec![0.0; x.len()];
        for head in 0..self.heads {
            let of_head = head * part..(head + 1) * part;
            let rows = query.chunks_exact(width).zip(mixed.chunks_exact_mut(width));
            for (query, mixed) in rows {
                let query = &query[of_head.clone()];
                let keys = key.chunks_exact(width);
                let mut weights: Vec<f32> = keys
                    .map(|key| {
                        let pairs = query.iter().zip(&key[of_head.clone()]);
                        scale * pairs.map(|(q, k)| q * k).sum::<f32>()
                    })
                    .collect();
                softmax(&mut weights);
                let mixed = &mut mixed[of_head.clone()];
                for (value, weight) in value.chunks_exact(width).zip(&weights) {
                    let pairs = mixed.iter_mut().zip(&value[of_head.clone()]);
                    pairs.for_each(|(sum, v)| *sum += weight * v);
                }
            }
        }
        mixed
    }
}

/// Takes tensors out of a file.
struct Reader<'a> {
    file: String,
    prefix: &'static str,
    tensors: SafeTensors<'a>,
    cpu: Cpu,
    epsilon: f32,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = format!("{}{name}", self.prefix);
        let wrong = |reason: String| TextError::Tensor {
            file: self.file.clone(),
            tensor: tensor.clone(),
            reason,
        };
        let found = self
            .tensors
            .tensor(&tensor)
            .map_err(|_| wrong("is not there".into()))?;
        if found.dtype() != Dtype::F32 {
            return Err(wrong(format!("is {:?}, but must be F32", found.dtype())));
        }
        if found.shape() != shape {
            let shown = |shape: &[usize]| {
                let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
                sizes.join("×")
            };
            let (found, wanted) = (shown(found.shape()), shown(shape));
            return Err(wrong(format!("is {found}, but must be {wanted}")));
        }
        let (values, _) = found.data().as_chunks::<4>();
        Ok(values
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect())
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let data = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let weight = ConvWeight {
            data: &data,
            out_stride: inputs,
            in_stride: inputs,
        };
        Ok(Linear {
            inputs,
            outputs,
            weight: PackedWeight::new(self.cpu, weight, 1, inputs, outputs),
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<LayerNorm> {
        Ok(LayerNorm {
            scale: self.tensor(&format!("{name}.weight"), &[width])?,
            shift: self.tensor(&format!("{name}.bias"), &[width])?,
            epsilon: self.epsilon,
        })
    }
}

impl Linear {
    /// rows × inputs to rows × outputs: a convolution of one tap on an image of one pixel row.
    fn apply(&self, cpu: Cpu, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inputs;
        let shape = Shape {
            images: 1,
            height: 1,
            width: rows,
            channels: self.inputs,
        };
        let window = Window {
            kernel: 1,
            stride: 1,
        };
        let mut output = vec![0.0; rows * self.outputs];
        convolution_forward(
            cpu,
            Source::plain(x, shape),
            window,
            &self.weight,
            self.outputs,
            Some(&self.bias),
            &mut output,
            None,
        );
        output
    }
}

impl LayerNorm {
    fn apply(&self, x: &mut [f32]) {
        for row in x.chunks_exact_mut(self.scale.len()) {
            let count = row.len() as f64;
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
            let squares = row.iter().map(|&v| (f64::from(v) - mean).powi(2));
            let variance = squares.sum::<f64>() / count;
            let factor = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
            let affine = self.scale.iter().zip(&self.shift);
            for (value, (scale, shift)) in row.iter_mut().zip(affine) {
                *value = ((f64::from(*value) - mean) * factor) as f32 * scale + shift;
            }
        }
    }
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
}

fn softmax(values: &mut [f32]) {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values
        .iter_mut()
        .for_each(|value| *value = (*value - largest).exp());
    let sum: f32 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= sum);
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}
