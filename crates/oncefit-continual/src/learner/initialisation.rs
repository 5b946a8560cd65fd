//! How fresh weights are drawn.

use super::*;

/// How fresh weights are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialisation {
    /// As `Supernet::initialise` does; biases are 0.
    #[default]
    Oncefit,
    /// As PyTorch's layers do: weights and biases of convolutions and linear layers uniform in
    /// ±1/√inputs.
    Pytorch,
}

impl Initialisation {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Fresh weights of a space.
pub(super) fn initial(space: &Space, settings: &LearnerSettings) -> Result<Parameters> {
    let mut parameters = Supernet::initialise(space, settings.seed)?.parameters;
    if settings.initialisation == Initialisation::Pytorch {
        draw_as_pytorch(&mut parameters, settings.seed);
    }
    Ok(parameters)
}

fn draw_as_pytorch(parameters: &mut Parameters, seed: u64) {
    let mut inputs = 1;
    for (position, tensor) in parameters.iter_mut().enumerate() {
        inputs = match tensor.kind {
            ParameterKind::ConvolutionWeight | ParameterKind::LinearWeight => {
                tensor.shape[1..].iter().product()
            }
            ParameterKind::DepthwiseWeight => tensor.shape[..2].iter().product(),
            // A bias follows its weight.
            ParameterKind::Bias => inputs,
            _ => continue,
        };
        let reach = 1.0 / (inputs as f32).sqrt();
        let mut draws = Draws::new(seed, "pytorch-initialisation", position as u64, 0);
        let values = tensor.data.iter_mut();
        values.for_each(|value| *value = draws.uniform_f32(-reach, reach));
    }
}
