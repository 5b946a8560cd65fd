//! onnxruntime, loaded at run time from the library that `ORT_DYLIB_PATH` names.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::session::Session;
use ort::value::Tensor;

use crate::error::{Result, TargetError};

const LIBRARY: &str = "ORT_DYLIB_PATH";

/// A process has one environment; it lives until the process ends.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// A model with its input.
pub(crate) struct Model {
    session: Session,
    input: Tensor<f32>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("Model(onnxruntime)")
    }
}

impl Model {
    /// # Errors
    /// If the library or the file cannot be loaded.
    pub fn load(path: &Path, shape: [usize; 4], planes: Vec<f32>, threads: usize) -> Result<Self> {
        let environment = environment()?;
        let load = || -> ort::Result<Self> {
            let session = Session::builder(&environment)?
                .with_intra_threads(threads)?
                .with_inter_threads(1)?
                .commit_from_file(path)?;
            let input = Tensor::from_array((shape, planes))?;
            Ok(Self { session, input })
        };
        load().map_err(fails)
    }

    /// Runs the batch once.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn run(&mut self) -> Result<()> {
        let outputs = self.session.run(ort::inputs!["image" => &self.input]);
        std::hint::black_box(outputs.map_err(fails)?);
        Ok(())
    }
}

fn fails(error: impl std::fmt::Display) -> TargetError {
    TargetError::Request(format!("onnxruntime: {error}"))
}

fn library() -> Result<PathBuf> {
    match std::env::var_os(LIBRARY) {
        Some(path) => Ok(path.into()),
        None => Err(TargetError::Request(format!(
            "{LIBRARY} must name the library of onnxruntime, libonnxruntime.so.VERSION; the Python package keeps it in onnxruntime/capi"
        ))),
    }
}

fn environment() -> Result<Environment> {
    let mut environment = ENVIRONMENT.lock().map_err(fails)?;
    if let Some(environment) = &*environment {
        return Ok(environment.clone());
    }
    let builder = ort::init_from(library()?).map_err(fails)?;
    let new = builder.build().map_err(fails)?;
    *environment = Some(new.clone());
    Ok(new)
}

/// The engine's version, as its library is called.
pub(crate) fn version() -> String {
    let path = library().unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.split_once(".so.").map(|(_, number)| number);
    format!("onnxruntime {}", number.unwrap_or_default())
        .trim_end()
        .to_owned()
}
