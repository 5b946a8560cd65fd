//! What kernels are told: shapes, stored tensors and how they are read, weights, gradients.

/// Images × height × width × channels; channels are contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Images in the batch.
    pub images: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Values of a pixel.
    pub channels: usize,
}

impl Shape {
    /// Pixels in the batch.
    pub fn rows(self) -> usize {
        self.images * self.height * self.width
    }

    /// Values in the batch.
    pub fn len(self) -> usize {
        self.rows() * self.channels
    }

    /// Whether it holds nothing.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A nonlinearity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// x
    Identity,
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// x · relu6(x + 3) / 6
    HardSwish,
    /// relu6(x + 3) / 6
    HardSigmoid,
}

/// `scale · x + shift` per channel.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// Factor of each channel.
    pub scale: &'a [f32],
    /// Addend of each channel.
    pub shift: &'a [f32],
}

/// A stored tensor as its consumer reads it: `gate · act(scale · x + shift)`.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The stored values.
    pub data: &'a [f32],
    /// Their shape.
    pub shape: Shape,
    /// Batch-norm as one multiplication and addition.
    pub affine: Option<Affine<'a>>,
    /// Applied after it.
    pub activation: Activation,
    /// `images × channels`, multiplied last.
    pub gate: Option<&'a [f32]>,
}

impl<'a> Source<'a> {
    /// A tensor that is read as it is stored.
    pub fn plain(data: &'a [f32], shape: Shape) -> Self {
        Self {
            data,
            shape,
            affine: None,
            activation: Activation::Identity,
            gate: None,
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.affine.is_none() && self.activation == Activation::Identity && self.gate.is_none()
    }

    pub(crate) fn check(&self) {
        let channels = self.shape.channels;
        assert!(
            channels > 0,
            "source: a tensor without channels, {:?}",
            self.shape
        );
        assert_eq!(
            self.data.len(),
            self.shape.len(),
            "source: values of {:?}",
            self.shape
        );
        if let Some(affine) = self.affine {
            assert!(
                affine.scale.len() == channels && affine.shift.len() == channels,
                "source: an affine of {channels} channels"
            );
        }
        if let Some(gate) = self.gate {
            assert_eq!(gate.len(), self.shape.images * channels, "source: gate");
        }
    }
}

/// Two sums per channel: Σy and Σy² of a convolution's output, or Σdz and Σdz·y.
#[derive(Clone, PartialEq, Debug)]
pub struct ChannelSums {
    /// Σy or Σdz.
    pub first: Vec<f64>,
    /// Σy² or Σdz·y.
    pub second: Vec<f64>,
}

impl ChannelSums {
    /// Zero sums.
    pub fn new(channels: usize) -> Self {
        Self {
            first: vec![0.0; channels],
            second: vec![0.0; channels],
        }
    }

    /// Sets all sums to zero.
    pub fn clear(&mut self) {
        self.first.fill(0.0);
        self.second.fill(0.0);
    }
}

/// The gradient at a convolution's raw output.
#[derive(Clone, Copy, Debug)]
pub struct OutputGradient<'a> {
    /// Gradient at the output, or at the output of the batch-norm that follows.
    pub dz: &'a [f32],
    /// That batch-norm: the gradient at the raw output is `a·dz + b·y + c`.
    pub batch_norm: Option<BatchNormGradient<'a>>,
}

/// Batch-norm's backward pass per channel.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormGradient<'a> {
    /// The raw output.
    pub y: &'a [f32],
    /// Factor of dz.
    pub a: &'a [f32],
    /// Factor of y.
    pub b: &'a [f32],
    /// Addend.
    pub c: &'a [f32],
}

/// Where the gradient with respect to the value read goes.
#[derive(Debug)]
pub enum InputGradient<'a> {
    /// Nobody needs it.
    Skip,
    /// It is written.
    Overwrite(&'a mut [f32]),
    /// It is added.
    Accumulate(&'a mut [f32]),
    /// `dz = gradient · act'(scale · x + shift)` is written, and Σdz and Σdz·x are set: for the
    /// sole consumer of a tensor. Not for gated sources.
    PreActivation {
        /// Receives dz.
        dz: &'a mut [f32],
        /// Receives the sums.
        sums: &'a mut ChannelSums,
    },
}

/// Weight of a dense convolution, `[out][tap][in]`, possibly the leading slice of a larger one.
#[derive(Clone, Copy, Debug)]
pub struct ConvWeight<'a> {
    /// The stored values.
    pub data: &'a [f32],
    /// Distance between output channels: k·k·(stored input channels).
    pub out_stride: usize,
    /// Distance between taps: the stored input channels.
    pub in_stride: usize,
}

/// Kernel size and stride; the padding is `kernel / 2` on each side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Pixels on a side, odd.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
}

impl Window {
    /// Number of outputs along an axis of `size` pixels.
    pub fn outputs(self, size: usize) -> usize {
        (size - 1) / self.stride + 1
    }

    pub(crate) fn padding(self) -> usize {
        self.kernel / 2
    }

    /// Shape of the output with `channels` channels.
    pub fn output_shape(self, input: Shape, channels: usize) -> Shape {
        Shape {
            images: input.images,
            height: self.outputs(input.height),
            width: self.outputs(input.width),
            channels,
        }
    }
}
