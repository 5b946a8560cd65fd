//! `report.html`: a run on one self-contained page.

use maud::{Markup, PreEscaped, html};
use oncefit_search::{Metric, pareto_front};
use oncefit_target::{Predictor, Quality};
use oncefit_train::{MetricsRow, Split};
use serde::Serialize;

use crate::blocks::drawing;
use crate::chart::{Chart, Mark, Series};
use crate::commands::{RunSummary, metric_name, shown};
use crate::error::Result;
use crate::fit::Fitted;
use crate::format::{bytes, count, duration, percent};
use crate::heat_map::HeatMap;
use crate::loaded::{EvaluationRow, LoadedRun};
use crate::page::{BLOCKS_EXPLAINED, figure, page};
use crate::predicted::PREDICTOR;

/// The page for a run. `fitted` are the networks that were chosen, if any.
///
/// # Errors
/// If the run's logs cannot be read.
pub fn report(run: &LoadedRun, fitted: &[Fitted], command: &str) -> Result<String> {
    let metrics = run.run.metrics()?;
    let evaluations = run.known(Split::Validation);
    let recipe = run.run.recipe();
    let provenance = std::fs::read_to_string(run.run.file("provenance.json")).unwrap_or_default();
    let seconds = metrics.last().map_or(0.0, |row| row.seconds);
    let subnets = run.space.count()?;
    // A run without predictor has none to show.
    let predictor = Predictor::load(&run.run.file(PREDICTOR)).ok();
    let predictor = predictor.filter(|found| found.check_space(&run.space).is_ok());
    let quality = predictor.map(|found| found.quality().clone());
    let drawings = fitted
        .iter()
        .map(|one| {
            let subnet = run.space.parse_subnet(&one.subnet)?;
            Ok(drawing(subnet.graph(), &file_name(one)))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(page(
        &recipe.name,
        html! {
            h1 { (recipe.name) }
            p {
                "Space " code { (run.space.name()) } " with " (subnets) " subnets, trained once: "
                (run.step) " steps, " (count(run.train_macs)) " train-MACs, " (duration(seconds)) "."
            }
            @if !fitted.is_empty() {
                (choices(fitted, &drawings))
                (classes(fitted, run.data.train.class_names()))
            }
            h2 { "Accuracy against cost" }
            (figure(&front_chart(&evaluations, fitted), &front_caption(&evaluations)))
            @if let Some(quality) = &quality { (predictor_section(quality)) }
            (latency_section(fitted))
            h2 { "Learning curves" }
            div.charts {
                (figure(&accuracy_chart(&metrics), "Validation accuracy, each network calibrated."))
                (figure(&loss_chart(&metrics), "Training loss of the largest network, mean over an epoch."))
            }
            h2 { "Provenance" }
            p { "Made by " code { (command) } ". Every number comes from " code { "metrics.jsonl" } " and " code { "evaluations.jsonl" } " beside this page." }
            pre { (provenance) }
            h2 { "Recipe" }
            pre { (recipe.to_toml()) }
        },
    ))
}

fn choices(fitted: &[Fitted], drawings: &[String]) -> Markup {
    html! {
        h2 { "Fitted networks" }
        div.wide {
            table {
                thead { tr {
                    th { "file" } th { "test" } th { "validation" } th { "MACs" } th { "parameters" }
                    th { "activations" } th { "file size" } th { "difference" }
                } }
                tbody {
                    @for one in fitted {
                        tr {
                            td { (file_name(one)) }
                            td { (percent(one.test_accuracy)) }
                            td { (percent(one.validation_accuracy)) }
                            td { (count(one.macs)) }
                            td { (count(one.parameters)) }
                            td { (bytes(one.peak_activation_bytes)) }
                            td { (bytes(one.file_bytes)) }
                            td { (format!("{:.0e}", one.relative_difference)) }
                        }
                    }
                }
            }
        }
        @for (one, drawing) in fitted.iter().zip(drawings) {
            p { (file_name(one)) ": " code { (one.subnet) } }
            figure.wide { (PreEscaped(drawing)) }
        }
        @if !fitted.is_empty() { (BLOCKS_EXPLAINED) }
        p {
            "Accuracy on the test and the validation images; multiply-accumulates for one image; peak "
            "memory of live activations (batch 1, f32); largest difference between the file's logits in "
            (fitted[0].engine) " and the network's, as a share of the largest logit."
        }
        p { "Chosen by validation accuracy; the test images were not looked at before. Each file was run in an engine and gave the network's logits." }
    }
}

/// What the predictor is worth.
fn predictor_section(quality: &Quality) -> Markup {
    let percentage = |value: f64| 100.0 * value;
    let points = quality.scatter.iter().map(|&(predicted, measured)| {
        let text = format!(
            "predicted {}, measured {}",
            percent(predicted),
            percent(measured)
        );
        (percentage(measured), percentage(predicted), text)
    });
    let scatter = Chart {
        title: "predicted against measured accuracy".into(),
        x_label: "measured validation accuracy, %".into(),
        y_label: "predicted, %".into(),
        series: vec![Series {
            name: "held-out subnets".into(),
            mark: Mark::Discs,
            colour: 0,
            points: points.collect(),
        }],
    };
    let curve = |name: &str, colour, points: Vec<(f64, f64, String)>| Series {
        name: name.into(),
        mark: Mark::Line,
        colour,
        points,
    };
    let learnt = quality.curve.iter().map(|point| {
        let text = format!(
            "{} subnets: {:.2} points",
            point.samples,
            percentage(point.rmse)
        );
        (point.samples as f64, percentage(point.rmse), text)
    });
    let line = percentage(quality.log_macs.rmse);
    let ends = [quality.curve.first(), quality.curve.last()];
    let straight = ends.into_iter().flatten().map(|point| {
        let text = format!("a line through log-MACs: {line:.2} points");
        (point.samples as f64, line, text)
    });
    let learning = Chart {
        title: "error of the predictor against the number of measured subnets".into(),
        x_label: "measured subnets".into(),
        y_label: "error on held-out subnets, points".into(),
        series: vec![
            curve("predictor", 0, learnt.collect()),
            curve("line through log-MACs", 3, straight.collect()),
        ],
    };
    html! {
        h2 { "Predictor" }
        p {
            "On " (quality.held_out) " subnets that it never saw: error "
            (format!("{:.2}", percentage(quality.predictor.rmse))) " points, Kendall's tau "
            (format!("{:.2}", quality.predictor.kendall)) "; a line through log-MACs: "
            (format!("{line:.2}")) " points, " (format!("{:.2}", quality.log_macs.kendall)) ". "
            @if !quality.beats_log_macs() {
                strong { "It does not beat the line: more subnets should be measured." }
            }
        }
        div.charts {
            (figure(&scatter, "Predicted and measured accuracy of subnets that took no part in training the predictor."))
            (figure(&learning, "How the error falls with the number of subnets it learns from."))
        }
    }
}

/// Predicted and measured latencies, where networks were fitted to this machine.
fn latency_section(fitted: &[Fitted]) -> Markup {
    let mut series: Vec<Series> = Vec::new();
    for one in fitted {
        let latency = one
            .expected
            .as_ref()
            .and_then(|expected| expected.latency.as_ref());
        let Some(latency) = latency else { continue };
        let name = format!("{} ({})", latency.device, latency.engine);
        let points = latency.pairs.iter().map(|&(predicted, measured)| {
            let text = format!("predicted {predicted:.4} ms, measured {measured:.4} ms");
            (measured, predicted, text)
        });
        match series.iter_mut().find(|other| other.name == name) {
            Some(known) => known.points.extend(points),
            None => series.push(Series {
                name,
                mark: Mark::Discs,
                colour: series.len() % 5,
                points: points.collect(),
            }),
        }
    }
    series.retain(|one| !one.points.is_empty());
    let rows = fitted.iter().filter_map(|one| {
        let latency = one.expected.as_ref()?.latency.as_ref()?;
        Some((file_name(one), latency))
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return html! {};
    }
    let milliseconds = |value: f64| format!("{value:.3} ms");
    let chart = Chart {
        title: "predicted against measured latency".into(),
        x_label: "measured, ms".into(),
        y_label: "by the target's table, ms".into(),
        series,
    };
    html! {
        h2 { "Latency" }
        div.wide {
            table {
                thead { tr { th { "file" } th { "target" } th { "predicted" } th { "measured" } } }
                tbody {
                    @for (file, latency) in &rows {
                        tr {
                            td { (file) }
                            td { (latency.device) " (" (latency.engine) ")" }
                            td { @if latency.is_estimated { "≈ " } (milliseconds(latency.predicted_ms)) }
                            td { (latency.measured_ms.map_or("not here".into(), milliseconds)) }
                        }
                    }
                }
            }
        }
        @if !chart.series.is_empty() {
            (figure(&chart, "Promising subnets, exported and timed in the target's engine on this machine."))
        }
    }
}

/// Accuracy of each class, and what the most accurate network takes for what.
fn classes(fitted: &[Fitted], names: &[String]) -> Markup {
    let accuracies: Vec<Vec<Option<f64>>> = fitted
        .iter()
        .map(|one| one.confusion.class_accuracies())
        .collect();
    let best = fitted
        .iter()
        .max_by(|left, right| left.test_accuracy.total_cmp(&right.test_accuracy));
    html! {
        h2 { "By class" }
        div.wide {
            table {
                thead { tr { th { "class" } @for one in fitted { th { (file_name(one)) } } } }
                tbody {
                    @for (class, name) in names.iter().enumerate() {
                        tr {
                            td { (name) }
                            @for found in &accuracies {
                                td { (found[class].map_or("–".into(), percent)) }
                            }
                        }
                    }
                }
            }
        }
        @if let (Some(best), true) = (best, names.len() <= MOST_CLASSES_DRAWN) {
            figure.square {
                (PreEscaped(confusion_map(best, names).to_svg()))
                figcaption {
                    "Confusion matrix of " (file_name(best)) " on the test images: of each class (row), "
                    "the percentage taken for each class (column)."
                }
            }
        }
    }
}

/// More classes than this make a matrix that nobody can read.
const MOST_CLASSES_DRAWN: usize = 30;

fn confusion_map(fitted: &Fitted, names: &[String]) -> HeatMap {
    let cells = fitted.confusion.counts.iter().map(|row| {
        let images: u32 = row.iter().sum();
        let share = |count: &u32| (images > 0).then(|| f64::from(*count) / f64::from(images));
        row.iter().map(share).collect()
    });
    HeatMap {
        title: format!("confusion matrix of {}", file_name(fitted)),
        rows: names.to_vec(),
        columns: names.to_vec(),
        cells: cells.collect(),
    }
}

fn file_name(one: &Fitted) -> String {
    one.file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What the dots are and how far they can be trusted.
fn front_caption(evaluations: &[&EvaluationRow]) -> String {
    let what = "Each dot is a subnet, calibrated and measured on the validation images; none was trained on its own.";
    let (Some(images), Some(best)) = (
        evaluations.iter().map(|row| row.images).min(),
        evaluations.iter().map(|row| row.accuracy).reduce(f64::max),
    ) else {
        return what.into();
    };
    // Normal approximation of the binomial, 95 %.
    let margin = 1.96 * (best * (1.0 - best) / images.max(1) as f64).sqrt();
    format!(
        "{what} {images} images tell an accuracy to within {:.1} points (95 %): a dot above a fitted network is not a better one for that.",
        100.0 * margin
    )
}

fn front_chart(evaluations: &[&EvaluationRow], fitted: &[Fitted]) -> Chart {
    let point = |row: &EvaluationRow| {
        let text = format!(
            "{} · {} MACs · {}",
            percent(row.accuracy),
            count(row.macs),
            row.subnet
        );
        (row.macs as f64 / 1e6, 100.0 * row.accuracy, text)
    };
    let costs: Vec<(f64, f64)> = evaluations
        .iter()
        .map(|row| (row.macs as f64, row.accuracy))
        .collect();
    let front = pareto_front(&costs);
    let chosen = fitted.iter().map(|one| {
        let text = format!("{} · {}", percent(one.validation_accuracy), one.subnet);
        (one.macs as f64 / 1e6, 100.0 * one.validation_accuracy, text)
    });
    Chart {
        title: "validation accuracy against multiply-accumulates".into(),
        x_label: "million MACs for one image".into(),
        y_label: "validation accuracy, %".into(),
        series: vec![
            Series {
                name: "measured subnets".into(),
                mark: Mark::Dots,
                colour: 3,
                points: evaluations.iter().map(|row| point(row)).collect(),
            },
            Series {
                name: "front".into(),
                mark: Mark::Steps,
                colour: 0,
                points: front
                    .iter()
                    .map(|&index| point(evaluations[index]))
                    .collect(),
            },
            Series {
                name: "fitted".into(),
                mark: Mark::Discs,
                colour: 1,
                points: chosen.collect(),
            },
        ],
    }
}

fn accuracy_chart(metrics: &[MetricsRow]) -> Chart {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in metrics.iter().flat_map(|row| &row.accuracies) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let series = names.iter().enumerate().map(|(index, name)| Series {
        name: (*name).to_owned(),
        mark: Mark::Line,
        colour: [1, 2, 0][index % 3],
        points: metrics
            .iter()
            .filter_map(|row| {
                let (_, accuracy) = row.accuracies.iter().find(|(other, _)| other == name)?;
                let text = format!("epoch {:.0}: {name} {}", row.epoch, percent(*accuracy));
                Some((row.epoch, 100.0 * accuracy, text))
            })
            .collect(),
    });
    Chart {
        title: "validation accuracy over the epochs".into(),
        x_label: "epoch".into(),
        y_label: "validation accuracy, %".into(),
        series: series.collect(),
    }
}

fn loss_chart(metrics: &[MetricsRow]) -> Chart {
    let points = metrics.iter().map(|row| {
        (
            row.epoch,
            row.loss,
            format!("epoch {:.0}: loss {:.3}", row.epoch, row.loss),
        )
    });
    Chart {
        title: "training loss over the epochs".into(),
        x_label: "epoch".into(),
        y_label: "cross-entropy".into(),
        series: vec![Series {
            name: "largest network".into(),
            mark: Mark::Line,
            colour: 0,
            points: points.collect(),
        }],
    }
}

/// A point of a front, predicted and measured.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FrontPoint {
    /// The subnet's text.
    pub subnet: String,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Weights.
    pub parameters: u64,
    /// Peak activation memory.
    pub peak_activation_bytes: u64,
    /// Size of its file, where it counts.
    pub file_bytes: Option<u64>,
    /// Latency by the target's table, where there is one.
    pub latency_ms: Option<f64>,
    /// The cost that the front is over, as searches count it (latency in nanoseconds).
    pub cost: u64,
    /// Predicted accuracy on the validation images.
    pub predicted_accuracy: f64,
    /// Accuracy on the validation images, calibrated.
    pub validation_accuracy: f64,
}

/// A page with a front and the architectures on it.
///
/// # Errors
/// If a subnet's text is none.
pub fn front_page(
    run: &LoadedRun,
    points: &[FrontPoint],
    metric: Metric,
    command: &str,
) -> Result<String> {
    let name = metric_name(metric);
    let scale = match metric {
        Metric::Macs | Metric::Parameters | Metric::Latency => 1e-6,
        Metric::PeakMemory | Metric::FileSize => 1.0 / 1024.0,
    };
    let series = |name: &str, mark, colour, accuracy: fn(&FrontPoint) -> f64| Series {
        name: name.into(),
        mark,
        colour,
        points: points
            .iter()
            .map(|point| {
                let text = format!(
                    "{} · {} · {}",
                    percent(accuracy(point)),
                    shown(metric, point.cost),
                    point.subnet
                );
                (point.cost as f64 * scale, 100.0 * accuracy(point), text)
            })
            .collect(),
    };
    let chart = Chart {
        title: format!("validation accuracy against {name}"),
        x_label: match metric {
            Metric::Macs => "million MACs for one image".into(),
            Metric::Parameters => "million parameters".into(),
            Metric::Latency => "latency by the target's table, ms".into(),
            Metric::PeakMemory | Metric::FileSize => format!("{name}, KiB"),
        },
        y_label: "validation accuracy, %".into(),
        series: vec![
            series("predicted", Mark::Line, 3, |point| point.predicted_accuracy),
            series("measured", Mark::Discs, 1, |point| {
                point.validation_accuracy
            }),
        ],
    };
    let drawings = points
        .iter()
        .map(|point| {
            let subnet = run.space.parse_subnet(&point.subnet)?;
            Ok(drawing(subnet.graph(), &point.subnet))
        })
        .collect::<Result<Vec<_>>>()?;
    let title = format!("{}: accuracy against {name}", run.run.recipe().name);
    Ok(page(
        &title,
        html! {
            h1 { (title) }
            p {
                "Subnets that no other is predicted to beat both in accuracy and in " (name)
                "; each was then calibrated and measured on the validation images."
            }
            (figure(&chart, "Line: as predicted. Discs: measured."))
            h2 { "The networks" }
            @for (point, drawing) in points.iter().zip(&drawings) {
                p {
                    (shown(metric, point.cost)) ": " (percent(point.validation_accuracy)) " (predicted "
                    (percent(point.predicted_accuracy)) "), " (count(point.macs)) " MACs, "
                    (count(point.parameters)) " parameters: " code { (point.subnet) }
                }
                figure.wide { (PreEscaped(drawing)) }
            }
            (BLOCKS_EXPLAINED)
            p { "Made by " code { (command) } "." }
        },
    ))
}

/// A page with the learning curves of several runs over their cost.
pub fn comparison(
    runs: &[RunSummary],
    results: &[Vec<String>],
    differences: &[Vec<String>],
    command: &str,
) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in runs.iter().flat_map(|run| &run.accuracies) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let chart = |name: &str| {
        // Recipes may have one name; folders do not.
        let series = runs.iter().enumerate().map(|(index, run)| Series {
            name: run.folder.display().to_string(),
            mark: Mark::Line,
            colour: index % 5,
            points: run
                .metrics
                .iter()
                .filter_map(|row| {
                    let (_, accuracy) = row.accuracies.iter().find(|(other, _)| other == name)?;
                    let macs = row.train_macs as f64 / 1e12;
                    let text = format!(
                        "{}: {} at epoch {:.0}",
                        run.folder.display(),
                        percent(*accuracy),
                        row.epoch
                    );
                    Some((macs, 100.0 * accuracy, text))
                })
                .collect(),
        });
        Chart {
            title: format!("validation accuracy of {name} against training cost"),
            x_label: "train-MACs, 10¹²".into(),
            y_label: format!("{name}, validation accuracy, %"),
            series: series.collect(),
        }
    };
    let rows = |rows: &[Vec<String>]| {
        html! {
            div.wide {
                table {
                    thead { tr { th {} @for run in runs { th { (run.folder.display()) } } } }
                    tbody { @for row in rows { tr { @for cell in row { td { (cell) } } } } }
                }
            }
        }
    };
    page(
        "Runs compared",
        html! {
            h1 { "Runs compared" }
            (rows(results))
            div.charts { @for name in &names { (figure(&chart(name), "Over the training's cost, which does not depend on the machine.")) } }
            @if !differences.is_empty() { h2 { "Where the recipes differ" } (rows(differences)) }
            p { "Made by " code { (command) } "." }
        },
    )
}
