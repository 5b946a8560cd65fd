//! `report.html`: a run on one self-contained page.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use oncefit_search::pareto_front;
use oncefit_train::{MetricsRow, Split};

use crate::chart::{Chart, Mark, Series};
use crate::commands::RunSummary;
use crate::error::Result;
use crate::fit::Fitted;
use crate::format::{bytes, count, duration, percent};
use crate::heat_map::HeatMap;
use crate::loaded::{EvaluationRow, LoadedRun};

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
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (recipe.name) " · Oncefit" }
                style { (PreEscaped(include_str!("report.css"))) }
            }
            body {
                h1 { (recipe.name) }
                p {
                    "Space " code { (run.space.name()) } " with " (subnets) " subnets, trained once: "
                    (run.step) " steps, " (count(run.train_macs)) " train-MACs, " (duration(seconds)) "."
                }
                @if !fitted.is_empty() {
                    (choices(fitted))
                    (classes(fitted, run.data.train.class_names()))
                }
                h2 { "Accuracy against cost" }
                (figure(front_chart(&evaluations, fitted), "Each dot is a subnet, calibrated and measured on the validation images; none was trained on its own."))
                h2 { "Learning curves" }
                div.charts {
                    (figure(accuracy_chart(&metrics), "Validation accuracy, each network calibrated."))
                    (figure(loss_chart(&metrics), "Training loss of the largest network, mean over an epoch."))
                }
                h2 { "Provenance" }
                p { "Made by " code { (command) } ". Every number comes from " code { "metrics.jsonl" } " and " code { "evaluations.jsonl" } " beside this page." }
                pre { (provenance) }
                h2 { "Recipe" }
                pre { (recipe.to_toml()) }
            }
        }
    };
    Ok(page.into_string())
}

fn choices(fitted: &[Fitted]) -> Markup {
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
        @for one in fitted {
            p { (file_name(one)) ": " code { (one.subnet) } }
        }
        p {
            "Accuracy on the test and the validation images; multiply-accumulates for one image; peak "
            "memory of live activations (batch 1, f32); largest difference between the file's logits in "
            (fitted[0].engine) " and the network's, as a share of the largest logit."
        }
        p { "Chosen by validation accuracy; the test images were not looked at before. Each file was run in an engine and gave the network's logits." }
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

fn figure(chart: Chart, caption: &str) -> Markup {
    html! { figure { (PreEscaped(chart.to_svg())) figcaption { (caption) } } }
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
        let series = runs.iter().enumerate().map(|(index, run)| Series {
            name: run.name.clone(),
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
                        run.name,
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
                    thead { tr { th {} @for run in runs { th { (run.name) } } } }
                    tbody { @for row in rows { tr { @for cell in row { td { (cell) } } } } }
                }
            }
        }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Runs compared · Oncefit" }
                style { (PreEscaped(include_str!("report.css"))) }
            }
            body {
                h1 { "Runs compared" }
                (rows(results))
                div.charts { @for name in &names { (figure(chart(name), "Over the training's cost, which does not depend on the machine.")) } }
                @if !differences.is_empty() { h2 { "Where the recipes differ" } (rows(differences)) }
                p { "Made by " code { (command) } "." }
            }
        }
    };
    page.into_string()
}
