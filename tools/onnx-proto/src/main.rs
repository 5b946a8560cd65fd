//! `cargo run --release -- ONNX_PROTO OUTPUT_RS`
//!
//! `onnx.proto` is in the PyPI package `onnx` (`onnx/onnx.proto`).

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, proto, output] = &arguments[..] else {
        return Err("usage: onnx-proto ONNX_PROTO OUTPUT_RS".into());
    };
    let folder = Path::new(proto).parent().unwrap_or(Path::new("."));
    let descriptors = protox::compile([proto], [folder])?;
    let made = std::env::temp_dir().join(format!("onnx-proto-{}", std::process::id()));
    std::fs::create_dir_all(&made)?;
    prost_build::Config::new()
        .bytes([".onnx.TensorProto.raw_data"])
        .out_dir(&made)
        .compile_fds(descriptors)?;
    let code = std::fs::read_to_string(made.join("onnx.rs"))?;
    std::fs::remove_dir_all(&made)?;
    let header = "// Made by tools/onnx-proto from onnx.proto of the Open Neural Network Exchange\n\
                  // (ONNX project contributors, Apache-2.0; see NOTICE). Do not edit.\n\n";
    std::fs::write(output, format!("{header}{code}"))?;
    Ok(())
}
