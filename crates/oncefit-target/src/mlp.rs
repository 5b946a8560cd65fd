//! A small dense network on one-hot codes: forward, backward, Adam.
//!
//! ```text
//! h₁ = b₁ + Σ_{i: code_i = 1} W₁[i]      h_{l+1} = b_{l+1} + W_{l+1}·relu(h_l)      y = w·relu(h_L)
//! ```
//!
//! The first layer adds as many rows as there are ones, the others are matrix products in
//! `oncefit-kernels`; the same bits for any number of threads.

use oncefit_kernels::{
    Activation, ChannelSums, ConvWeight, Cpu, InputGradient, OutputGradient, PackedWeight, Shape,
    Source, Window, convolution_backward, convolution_forward,
};
use oncefit_random::Draws;

/// Codes of many subnets: the positions of the ones in [`oncefit_space::Space::encode`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Codes {
    positions: Vec<u32>,
    ends: Vec<usize>,
}

impl Codes {
    /// Adds a code.
    pub fn push(&mut self, code: &[u32]) {
        self.positions.extend_from_slice(code);
        self.ends.push(self.positions.len());
    }

    /// Removes all codes; keeps the memory.
    pub fn clear(&mut self) {
        self.positions.clear();
        self.ends.clear();
    }

    /// How many codes there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Code `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.positions[start..self.ends[index]]
    }

    pub(crate) fn largest(&self) -> Option<u32> {
        self.positions.iter().copied().max()
    }
}

/// Weights, in one vector: first layer `[input][hidden]` and bias, further layers `[out][in]` and
/// bias, output `[hidden]`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Mlp {
    pub inputs: usize,
    pub hidden: Vec<usize>,
    pub weights: Vec<f32>,
}

/// Where a layer's weights begin, and their extents.
#[derive(Clone, Copy)]
struct Layer {
    weight: usize,
    bias: usize,
    inputs: usize,
    outputs: usize,
}

/// Rows that are worked on at once.
const TILE: usize = 512;

impl Mlp {
    /// Uniform weights in ±√(6 / inputs) (He), zero biases; the inputs of the first layer are the
    /// ones of a code.
    pub fn new(inputs: usize, ones: usize, hidden: &[usize], seed: u64) -> Self {
        let mut network = Self {
            inputs,
            hidden: hidden.to_vec(),
            weights: Vec::new(),
        };
        network.weights = vec![0.0; network.parameter_count()];
        for (number, layer) in network.layers().into_iter().enumerate() {
            let mut draws = Draws::new(seed, "predictor weights", number as u64, 0);
            let fan_in = if number == 0 { ones } else { layer.inputs };
            let bound = (6.0 / fan_in.max(1) as f32).sqrt();
            let values = &mut network.weights[layer.weight..][..layer.inputs * layer.outputs];
            values.fill_with(|| draws.uniform_f32(-bound, bound));
        }
        let mut draws = Draws::new(seed, "predictor weights", hidden.len() as u64, 0);
        let last = network.last_width();
        let bound = (1.0 / last as f32).sqrt();
        let start = network.weights.len() - last;
        network.weights[start..].fill_with(|| draws.uniform_f32(-bound, bound));
        network
    }

    fn last_width(&self) -> usize {
        self.hidden.last().copied().unwrap_or(self.inputs)
    }

    pub fn parameter_count(&self) -> usize {
        let layers = self.layers();
        let end = layers.last().map_or(0, |layer| layer.bias + layer.outputs);
        end + self.last_width()
    }

    fn layers(&self) -> Vec<Layer> {
        let mut at = 0;
        let mut inputs = self.inputs;
        let mut layers = Vec::with_capacity(self.hidden.len());
        for &outputs in &self.hidden {
            let weight = at;
            let bias = weight + inputs * outputs;
            at = bias + outputs;
            layers.push(Layer {
                weight,
                bias,
                inputs,
                outputs,
            });
            inputs = outputs;
        }
        layers
    }

    /// The weights of the layers after the first, packed for `cpu`.
    pub fn pack(&self, cpu: Cpu) -> Vec<PackedWeight> {
        let layers = self.layers().into_iter().skip(1);
        let pack = |layer: Layer| {
            let weight = layer.weight(&self.weights);
            PackedWeight::new(cpu, weight, POINT.kernel, layer.inputs, layer.outputs)
        };
        layers.map(pack).collect()
    }

    /// The outputs of codes `order`, and every layer's values before the activation.
    fn forward(
        &self,
        cpu: Cpu,
        packed: &[PackedWeight],
        codes: &Codes,
        order: &[usize],
        kept: &mut Vec<Vec<f32>>,
    ) -> Vec<f32> {
        let rows = order.len();
        let layers = self.layers();
        kept.resize_with(layers.len(), Vec::new);
        for (number, layer) in layers.iter().enumerate() {
            let (before, current) = kept.split_at_mut(number);
            let current = &mut current[0];
            current.resize(rows * layer.outputs, 0.0);
            let bias = &self.weights[layer.bias..][..layer.outputs];
            match before.last() {
                None => {
                    let weight = &self.weights[layer.weight..layer.bias];
                    for (&index, row) in order.iter().zip(current.chunks_exact_mut(layer.outputs)) {
                        sum_rows(bias, weight, codes.get(index), row);
                    }
                }
                Some(before) => convolution_forward(
                    cpu,
                    read(before, rows, layer.inputs),
                    POINT,
                    &packed[number - 1],
                    layer.outputs,
                    Some(bias),
                    current,
                    None,
                ),
            }
        }
        let last = self.last_width();
        let weight = &self.weights[self.weights.len() - last..];
        let hidden = &kept[kept.len() - 1];
        hidden
            .chunks_exact(last)
            .map(|row| dot_rectified(row, weight))
            .collect()
    }

    /// The outputs of all codes; `packed` is from [`Mlp::pack`].
    pub fn predict(&self, cpu: Cpu, packed: &[PackedWeight], codes: &Codes) -> Vec<f32> {
        let mut outputs = Vec::with_capacity(codes.len());
        let mut kept = Vec::new();
        let order: Vec<usize> = (0..codes.len()).collect();
        for tile in order.chunks(TILE) {
            outputs.extend(self.forward(cpu, packed, codes, tile, &mut kept));
        }
        outputs
    }

    /// Adds the gradient of the mean of (output − target)² over some codes to `gradient`; the mean.
    pub fn gradient(
        &self,
        cpu: Cpu,
        codes: &Codes,
        order: &[usize],
        targets: &[f32],
        gradient: &mut [f32],
    ) -> f64 {
        let rows = order.len();
        let mut kept = Vec::new();
        let outputs = self.forward(cpu, &self.pack(cpu), codes, order, &mut kept);
        let layers = self.layers();
        let last = self.last_width();
        let start = self.weights.len() - last;
        let mut loss = 0.0;
        let mut above = vec![0.0f32; rows * last];
        for (row, (&index, output)) in order.iter().zip(&outputs).enumerate() {
            let error = output - targets[index];
            loss += f64::from(error).powi(2);
            let slope = 2.0 * error / rows as f32;
            let hidden = &kept[kept.len() - 1][row * last..][..last];
            let above = &mut above[row * last..][..last];
            for (column, (&hidden, above)) in hidden.iter().zip(above).enumerate() {
                if hidden > 0.0 {
                    gradient[start + column] += slope * hidden;
                    *above = slope * self.weights[start + column];
                }
            }
        }
        for (number, layer) in layers.iter().enumerate().rev() {
            let (weights, rest) =
                gradient[layer.weight..].split_at_mut(layer.inputs * layer.outputs);
            let biases = &mut rest[..layer.outputs];
            if number == 0 {
                for (&index, row) in order.iter().zip(above.chunks_exact(layer.outputs)) {
                    add(biases, row);
                    for &position in codes.get(index) {
                        let at = position as usize * layer.outputs;
                        add(&mut weights[at..at + layer.outputs], row);
                    }
                }
                break;
            }
            let mut below = vec![0.0; rows * layer.inputs];
            let mut sums = ChannelSums::new(layer.inputs);
            convolution_backward(
                cpu,
                read(&kept[number - 1], rows, layer.inputs),
                POINT,
                layer.weight(&self.weights),
                layer.outputs,
                OutputGradient {
                    dz: &above,
                    batch_norm: None,
                },
                InputGradient::PreActivation {
                    dz: &mut below,
                    sums: &mut sums,
                },
                Some((weights, layer.inputs, layer.inputs)),
                Some(biases),
            );
            above = below;
        }
        loss / rows as f64
    }
}

const POINT: Window = Window {
    kernel: 1,
    stride: 1,
};

/// A layer's values as the next layer reads them.
fn read(values: &[f32], rows: usize, channels: usize) -> Source<'_> {
    let shape = Shape {
        images: rows,
        height: 1,
        width: 1,
        channels,
    };
    Source {
        activation: Activation::Relu,
        ..Source::plain(values, shape)
    }
}

impl Layer {
    fn weight<'w>(&self, weights: &'w [f32]) -> ConvWeight<'w> {
        ConvWeight {
            data: &weights[self.weight..self.bias],
            out_stride: self.inputs,
            in_stride: self.inputs,
        }
    }
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut()
        .zip(values)
        .for_each(|(sum, value)| *sum += value);
}

/// The bias and the rows of a code, summed in pieces that stay in registers.
fn sum_rows(bias: &[f32], weight: &[f32], code: &[u32], row: &mut [f32]) {
    const PIECE: usize = 32;
    let width = bias.len();
    let mut at = 0;
    while at + PIECE <= width {
        let mut sums: [f32; PIECE] = bias[at..at + PIECE].try_into().expect("a piece");
        for &position in code {
            let values = &weight[position as usize * width + at..][..PIECE];
            sums.iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += value);
        }
        row[at..at + PIECE].copy_from_slice(&sums);
        at += PIECE;
    }
    row[at..].copy_from_slice(&bias[at..]);
    for &position in code {
        let values = &weight[position as usize * width + at..][..width - at];
        add(&mut row[at..], values);
    }
}

/// `Σ max(value, 0) · weight` in eight sums, merged in order.
fn dot_rectified(values: &[f32], weights: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (values, values_rest) = values.as_chunks::<8>();
    let (weights, weights_rest) = weights.as_chunks::<8>();
    for (values, weights) in values.iter().zip(weights) {
        for lane in 0..8 {
            sums[lane] += values[lane].max(0.0) * weights[lane];
        }
    }
    let rest = values_rest.iter().zip(weights_rest);
    let rest: f32 = rest.map(|(value, weight)| value.max(0.0) * weight).sum();
    sums.iter().sum::<f32>() + rest
}

/// Adam (Kingma and Ba 2015), weight decay added to the gradient.
#[derive(Clone, Debug)]
pub(crate) struct Adam {
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
    pub weight_decay: f32,
}

impl Adam {
    pub fn new(parameters: usize, weight_decay: f32) -> Self {
        Self {
            first: vec![0.0; parameters],
            second: vec![0.0; parameters],
            steps: 0,
            weight_decay,
        }
    }

    /// One step; the gradient is set to 0.
    pub fn step(&mut self, weights: &mut [f32], gradient: &mut [f32], learning_rate: f32) {
        const BETAS: (f32, f32) = (0.9, 0.999);
        const EPSILON: f32 = 1e-8;
        self.steps += 1;
        let correct_first = 1.0 / (1.0 - BETAS.0.powi(self.steps));
        let correct_second = 1.0 / (1.0 - BETAS.1.powi(self.steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((weight, slope), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
            let total = *slope + self.weight_decay * *weight;
            *slope = 0.0;
            *first = BETAS.0 * *first + (1.0 - BETAS.0) * total;
            *second = BETAS.1 * *second + (1.0 - BETAS.1) * total * total;
            let scale = (*second * correct_second).sqrt() + EPSILON;
            *weight -= learning_rate * *first * correct_first / scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Mlp, Codes, Vec<f32>) {
        let mut codes = Codes::default();
        let mut draws = Draws::new(1, "codes", 0, 0);
        for _ in 0..7 {
            let code: Vec<u32> = (0..9).filter(|_| draws.chance(0.4)).collect();
            codes.push(&code);
        }
        let targets = (0..7).map(|_| draws.normal() as f32).collect();
        (Mlp::new(9, 4, &[37, 12], 5), codes, targets)
    }

    /// The formula, in f64.
    fn plain(network: &Mlp, code: &[u32]) -> f64 {
        let layers = network.layers();
        let mut values: Vec<f64> = vec![0.0; network.inputs];
        code.iter()
            .for_each(|&position| values[position as usize] = 1.0);
        for (number, layer) in layers.iter().enumerate() {
            let weight = |out: usize, index: usize| {
                f64::from(
                    network.weights[layer.weight
                        + match number {
                            0 => index * layer.outputs + out,
                            _ => out * layer.inputs + index,
                        }],
                )
            };
            values = (0..layer.outputs)
                .map(|out| {
                    let bias = f64::from(network.weights[layer.bias + out]);
                    let sum: f64 = (0..layer.inputs)
                        .map(|index| weight(out, index) * values[index])
                        .sum();
                    (bias + sum).max(0.0)
                })
                .collect();
        }
        let start = network.weights.len() - values.len();
        values
            .iter()
            .zip(&network.weights[start..])
            .map(|(value, weight)| value * f64::from(*weight))
            .sum()
    }

    #[test]
    fn outputs_are_those_of_the_formula() {
        let (mut network, codes, _) = example();
        let mut draws = Draws::new(2, "disturb", 0, 0);
        network
            .weights
            .iter_mut()
            .for_each(|weight| *weight += 0.1 * draws.normal() as f32);
        for (index, output) in network
            .predict(Cpu::detect(), &network.pack(Cpu::detect()), &codes)
            .iter()
            .enumerate()
        {
            let expected = plain(&network, codes.get(index));
            assert!(
                (f64::from(*output) - expected).abs() < 1e-5,
                "{output} {expected}"
            );
        }
    }

    #[test]
    fn gradients_are_finite_differences() {
        let (network, codes, targets) = example();
        let order: Vec<usize> = (0..codes.len()).collect();
        let mut gradient = vec![0.0; network.weights.len()];
        network.gradient(Cpu::detect(), &codes, &order, &targets, &mut gradient);
        let loss = |network: &Mlp| -> f64 {
            let errors = order.iter().map(|&index| {
                (plain(network, codes.get(index)) - f64::from(targets[index])).powi(2)
            });
            errors.sum::<f64>() / order.len() as f64
        };
        let mut draws = Draws::new(3, "weights", 0, 0);
        for _ in 0..200 {
            let index = draws.below(network.weights.len());
            let step = 1e-3f32;
            let (mut up, mut down) = (network.clone(), network.clone());
            up.weights[index] += step;
            down.weights[index] -= step;
            let width = f64::from(up.weights[index]) - f64::from(down.weights[index]);
            let expected = (loss(&up) - loss(&down)) / width;
            let found = f64::from(gradient[index]);
            assert!(
                (found - expected).abs() < 2e-3 * (1.0 + expected.abs()),
                "{index}: {found} {expected}"
            );
        }
    }

    #[test]
    fn adam_takes_the_steps_of_the_paper() {
        let mut adam = Adam::new(1, 0.0);
        let mut weights = [1.0f32];
        adam.step(&mut weights, &mut [0.5], 0.1);
        // The first step is the learning rate, whatever the gradient's size.
        assert!((weights[0] - 0.9).abs() < 1e-6);
        adam.step(&mut weights, &mut [-0.25], 0.1);
        let first = (0.9 * 0.05 - 0.1 * 0.25) / (1.0 - 0.81);
        let second: f64 = (0.999 * 0.00025 + 0.001 * 0.0625) / (1.0 - 0.998001);
        let expected = 0.9 - 0.1 * first / second.sqrt();
        assert!(
            (f64::from(weights[0]) - expected).abs() < 1e-5,
            "{} {expected}",
            weights[0]
        );
    }
}
