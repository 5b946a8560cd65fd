//! `oncefit show`

use std::path::Path;

use oncefit_continual::LearningRun;
use oncefit_export::read_metadata;
use oncefit_space::{Op, Space, Subnet};
use oncefit_train::Run;

use super::learn::summary;
use super::print;
use crate::cli::ShowArgs;
use crate::error::{Error, Result};
use crate::format::{bytes, count, duration, percent, table};
use crate::loaded::{LoadedRun, WhichCheckpoint};

pub fn show(args: &ShowArgs) -> Result<()> {
    let path = Path::new(&args.what);
    if path.is_dir() {
        return show_run(path, args.subnet.as_deref());
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("onnx") => show_model(path),
        Some("space") => {
            let text = std::fs::read_to_string(path).map_err(|source| Error::File {
                action: "read",
                path: path.to_owned(),
                source,
            })?;
            show_space(&Space::parse(&text, &args.what)?, args.subnet.as_deref())
        }
        _ => match Space::builtin(&args.what) {
            Ok(space) => show_space(&space, args.subnet.as_deref()),
            Err(error) => Err(Error::Request(format!(
                "`{}` is no run folder, no .space file and no .onnx file, and {error}",
                args.what
            ))),
        },
    }
}

pub(super) fn show_space(space: &Space, subnet: Option<&str>) -> Result<()> {
    if let Some(text) = subnet {
        return show_subnet(&space.parse_subnet(text)?);
    }
    print(&space.to_text());
    print(&format!(
        "{} subnets, hash {}",
        space.count()?,
        space.hash()
    ));
    let ends = [
        ("smallest", space.smallest()?),
        ("largest", space.largest()?),
    ];
    let rows = ends.iter().map(|(name, subnet)| {
        let graph = subnet.graph();
        vec![
            (*name).to_owned(),
            count(graph.macs()),
            count(graph.parameters()),
            bytes(graph.peak_activation_bytes()),
            subnet.text(),
        ]
    });
    print(&table(
        &["", "MACs", "parameters", "peak activations", "subnet"],
        rows,
    ));
    Ok(())
}

/// An operation in a few words, without its channels.
pub(crate) fn operation_name(op: &Op) -> String {
    match *op {
        Op::Input => "input".to_owned(),
        Op::Convolution { kernel, stride, .. } => {
            format!("conv {kernel}×{kernel}/{stride}")
        }
        Op::Depthwise { kernel, stride, .. } => {
            format!("depthwise {kernel}×{kernel}/{stride}")
        }
        Op::Activation(activation) => activation.name().to_owned(),
        Op::GlobalAveragePool => "global average pool".into(),
        Op::AveragePool { kernel, stride, .. } => format!("average pool {kernel}/{stride}"),
        Op::MaxPool { kernel, stride, .. } => format!("max pool {kernel}/{stride}"),
        Op::Dropout { rate } => format!("dropout {rate}"),
        Op::Linear { .. } => "linear".into(),
        Op::Add => "add".into(),
        Op::Concat { .. } => "concat".into(),
        Op::Multiply => "multiply".into(),
        Op::BatchNorm { .. } => "batch-norm".into(),
    }
}

fn show_subnet(subnet: &Subnet) -> Result<()> {
    let graph = subnet.graph();
    let rows = graph
        .nodes
        .iter()
        .filter(|node| !matches!(node.op, Op::BatchNorm { .. }))
        .map(|node| {
            let what = operation_name(&node.op);
            vec![node.path.clone(), what, node.shape.to_string()]
        });
    print(&table(
        &["layer (batch-norms left out)", "operation", "output"],
        rows,
    ));
    let settings: Vec<String> = subnet
        .settings()
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    if !settings.is_empty() {
        print(&format!("trained with {}", settings.join(", ")));
    }
    print(&format!(
        "{}\n{} MACs ({}), {} parameters, {} peak activations",
        subnet.text(),
        graph.macs(),
        count(graph.macs()),
        graph.parameters(),
        bytes(graph.peak_activation_bytes())
    ));
    Ok(())
}

fn show_run(folder: &Path, subnet: Option<&str>) -> Result<()> {
    if let Some(text) = subnet {
        let run = LoadedRun::open(folder, WhichCheckpoint::Newest)?;
        return show_subnet(&run.space.parse_subnet(text)?);
    }
    if let Ok(run) = LearningRun::open_to_read(folder) {
        return show_learning(&run);
    }
    let run = Run::open_to_read(folder)?;
    let recipe = run.recipe();
    print(&format!(
        "run `{}` in {}, seed {}",
        recipe.name,
        folder.display(),
        recipe.seed
    ));
    let rows = run.metrics()?;
    let cells = rows
        .iter()
        .filter(|row| !row.accuracies.is_empty())
        .map(|row| {
            let accuracies: Vec<String> = row
                .accuracies
                .iter()
                .map(|(name, accuracy)| format!("{name} {}", percent(*accuracy)))
                .collect();
            vec![
                format!("{:.0}", row.epoch),
                format!("{:.3}", row.loss),
                count(row.train_macs),
                duration(row.seconds),
                accuracies.join(", "),
            ]
        });
    print(&table(
        &["epoch", "loss", "train-MACs", "time", "validation"],
        cells,
    ));
    Ok(())
}

fn show_learning(run: &LearningRun) -> Result<()> {
    let recipe = run.recipe();
    print(&format!(
        "run `{}` in {}, method `{}`, seed {}",
        recipe.name,
        run.folder().display(),
        recipe.method.name,
        recipe.seed
    ));
    print(&match run.results()? {
        Some(results) => summary(&results),
        None => "no task is learnt yet".into(),
    });
    Ok(())
}

fn show_model(path: &Path) -> Result<()> {
    let metadata = read_metadata(path)?;
    let accuracies: Vec<String> = metadata
        .accuracies
        .iter()
        .map(|(split, accuracy)| format!("{} on {split}", percent(*accuracy)))
        .collect();
    let rows = [
        ("written by", format!("Oncefit {}", metadata.version)),
        (
            "space",
            format!("{} ({})", metadata.space, metadata.space_hash),
        ),
        ("subnet", metadata.subnet),
        (
            "input",
            format!(
                "{0}×{0}, mean {1:?}, std {2:?}",
                metadata.resolution, metadata.mean, metadata.std
            ),
        ),
        ("classes", metadata.class_names.join(", ")),
        ("MACs", count(metadata.macs)),
        ("parameters", count(metadata.parameters)),
        ("accuracy", accuracies.join(", ")),
    ];
    for (name, value) in rows {
        print(&format!("{name:>11}  {value}"));
    }
    Ok(())
}
