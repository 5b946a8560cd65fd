//! Weights of torchvision's networks give torchvision's logits; some 10 seconds.
//!
//! `python tools/torchvision-check/make.py FOLDER`, then
//! `cargo run --release -p oncefit-nn --example torchvision FOLDER`

use oncefit_nn::*;
use oncefit_space::Space;
use safetensors::SafeTensors;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("give the folder that make.py wrote")?;
    for family in NameMap::built_in_names() {
        let path = format!("{folder}/{family}.safetensors");
        let bytes = std::fs::read(&path)?;
        let space = Space::builtin(family)?;
        let imported = import_weights(&space, &bytes, &path, &ImportSettings::default())?;
        let expected = std::fs::read(format!("{folder}/{family}.expected.safetensors"))?;
        let expected = SafeTensors::deserialize(&expected)?;
        let floats = |name: &str| -> std::result::Result<Vec<f32>, safetensors::SafeTensorError> {
            let view = expected.tensor(name)?;
            let (quads, _) = view.data().as_chunks::<4>();
            Ok(quads
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect())
        };
        let (images, logits) = (floats("images")?, floats("logits")?);
        let supernet = Supernet::with_parameters(&space, imported.parameters)?;
        let subnet = space.largest()?;
        let calibration = imported
            .calibration
            .ok_or("the file has no running statistics")?;
        let batch = Images {
            data: &images,
            count: 4,
        };
        let plan = supernet.plan(&subnet)?;
        let mode = Mode::Evaluate(&calibration);
        let mut executor = Executor::default();
        let tape = executor.forward(&plan, &supernet.parameters, batch, mode)?;
        let largest = logits
            .iter()
            .fold(0.0f32, |most, logit| most.max(logit.abs()));
        let difference = tape
            .output()
            .iter()
            .zip(&logits)
            .fold(0.0f32, |most, (ours, theirs)| {
                most.max((ours - theirs).abs())
            });
        println!(
            "{family}: {} tensors, {} parameters, largest difference {:.1e} of the largest logit, {largest:.3}",
            imported.loaded,
            subnet.graph().parameters(),
            difference / largest
        );
        if difference > 1e-4 * largest {
            return Err(format!("{family} gives other logits than torchvision").into());
        }
    }
    Ok(())
}
