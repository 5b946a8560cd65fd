//! Networks loaded into engines, ready to be timed.

use std::sync::Arc;
use std::time::Instant;

use oncefit_export::{ENGINE, Metadata, OnnxModel, onnx_bytes, to_channels_first};
use oncefit_nn::{Images, Network};
use oncefit_random::Draws;

use crate::error::{Result, TargetError};
use crate::statistics::median;
use crate::target::Engine;

/// How an engine is to run.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    engine: Engine,
    batch: usize,
    pool: Arc<rayon::ThreadPool>,
}

impl Bench {
    /// # Errors
    /// If the engine cannot run this way in this build.
    pub fn new(engine: Engine, threads: usize, batch: usize) -> Result<Self> {
        if threads == 0 || batch == 0 {
            return Err(TargetError::Request(
                "a device runs at least 1 thread and 1 image at a time".into(),
            ));
        }
        match engine {
            Engine::Tract if threads > 1 => {
                return Err(TargetError::Request(format!(
                    "tract runs one thread here, {threads} are asked for; take 1, or the engine `oncefit`"
                )));
            }
            Engine::Onnxruntime if cfg!(not(feature = "onnxruntime")) => {
                return Err(TargetError::Request(
                    "this program was built without onnxruntime; build it by `cargo build --release -p oncefit --features onnxruntime`, or emit probes and run them with tools/probes/run_probes.py".into(),
                ));
            }
            Engine::Imported => {
                return Err(TargetError::Request(
                    "another device cannot be measured from here: emit probes, run them there and import their times".into(),
                ));
            }
            _ => {}
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        Ok(Self {
            engine,
            batch,
            pool: Arc::new(pool.map_err(|error| TargetError::Request(error.to_string()))?),
        })
    }

    /// The engine's version.
    pub fn version(&self) -> String {
        match self.engine {
            Engine::Tract => ENGINE.into(),
            #[cfg(feature = "onnxruntime")]
            Engine::Onnxruntime => crate::onnxruntime::version(),
            _ => format!("oncefit {}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Loads a network and makes a batch of random images for it.
    pub fn load(&self, network: &Network) -> Result<Session> {
        let shape = network.graph.input_shape();
        let images = random_images(self.batch * shape.len());
        if self.engine == Engine::Oncefit {
            return Ok(Session::Kernels {
                session: Box::new(oncefit_nn::Session::new(network)?),
                images,
                count: self.batch,
                pool: self.pool.clone(),
            });
        }
        let planes = to_channels_first(&images, shape.height, shape.width, shape.channels);
        let file = write_temporary(&onnx_bytes(network, &Metadata::default())?)?;
        match self.engine {
            #[cfg(feature = "onnxruntime")]
            Engine::Onnxruntime => Ok(Session::Onnxruntime(crate::onnxruntime::Model::load(
                file.path(),
                [self.batch, shape.channels, shape.height, shape.width],
                planes,
                self.pool.current_num_threads(),
            )?)),
            _ => Ok(Session::Tract {
                model: OnnxModel::load(file.path(), self.batch)?,
                images: planes,
            }),
        }
    }
}

/// Median milliseconds of a batch of a network, after a few untimed runs.
///
/// # Errors
/// If the engine cannot run here, or not this network.
pub fn time_network(
    network: &Network,
    engine: Engine,
    threads: usize,
    batch: usize,
    repetitions: usize,
) -> Result<f64> {
    const WARM_UP: usize = 3;
    let mut session = Bench::new(engine, threads, batch)?.load(network)?;
    for _ in 0..WARM_UP {
        session.run()?;
    }
    let times = (0..repetitions.max(1)).map(|_| session.run());
    Ok(median(&times.collect::<Result<Vec<f64>>>()?))
}

fn write_temporary(bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
    let fails = |source| TargetError::File {
        action: "write",
        path: std::env::temp_dir(),
        source,
    };
    let file = tempfile::Builder::new().suffix(".onnx").tempfile();
    let file = file.map_err(fails)?;
    std::fs::write(file.path(), bytes).map_err(fails)?;
    Ok(file)
}

/// Normal values, as normalised images have.
pub(crate) fn random_images(length: usize) -> Vec<f32> {
    let mut draws = Draws::new(0, "images of probes", 0, 0);
    (0..length).map(|_| draws.normal() as f32).collect()
}

/// A loaded network with its input.
#[derive(Debug)]
pub(crate) enum Session {
    Tract {
        model: OnnxModel,
        images: Vec<f32>,
    },
    Kernels {
        session: Box<oncefit_nn::Session>,
        images: Vec<f32>,
        count: usize,
        pool: Arc<rayon::ThreadPool>,
    },
    #[cfg(feature = "onnxruntime")]
    Onnxruntime(crate::onnxruntime::Model),
}

impl Session {
    /// Runs the batch once; milliseconds.
    pub fn run(&mut self) -> Result<f64> {
        match self {
            Self::Tract { model, images } => {
                let start = Instant::now();
                std::hint::black_box(model.run(images)?);
                Ok(since(start))
            }
            Self::Kernels {
                session,
                images,
                count,
                pool,
            } => {
                let images = Images {
                    data: images,
                    count: *count,
                };
                // Entering the pool is not the engine's time.
                pool.install(|| {
                    let start = Instant::now();
                    std::hint::black_box(session.run(images)?);
                    Ok(since(start))
                })
            }
            #[cfg(feature = "onnxruntime")]
            Self::Onnxruntime(model) => {
                let start = Instant::now();
                model.run()?;
                Ok(since(start))
            }
        }
    }
}

fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
