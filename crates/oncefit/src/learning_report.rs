//! Pages of continual learning: the `report.html` of a run, and methods compared over seeds.

use maud::{Markup, PreEscaped, html};
use oncefit_continual::{
    AccuracyMatrix, Learner, LearningRun, Memory, Metrics, Results, Rows, SubnetAccuracies, Targets,
};
use oncefit_data::{Dataset, LoadedData, contact_sheet};

use crate::chart::{Chart, Mark, Series};
use crate::commands::Compared;
use crate::error::Result;
use crate::format::{bytes, count, duration, percent};
use crate::heat_map::HeatMap;
use crate::page::{figure, page};

/// Tasks beyond which a chart of each task's accuracy is not readable.
const MOST_TASKS_DRAWN: usize = 10;
/// Images of a class on the memory's contact sheet.
const SHEET_COLUMNS: usize = 20;

/// The page of a finished run.
///
/// # Errors
/// If the memory's images are neither grey nor RGB.
pub fn report(
    run: &LearningRun,
    results: &Results,
    learner: &Learner,
    data: &LoadedData,
    command: &str,
) -> Result<String> {
    let provenance = std::fs::read_to_string(run.file("provenance.json")).unwrap_or_default();
    let sheet = match learner.memory().filter(|memory| !memory.is_empty()) {
        Some(memory) => Some((memory, memory_sheet(memory, data)?)),
        None => None,
    };
    let finished = &results.finished;
    let body = html! {
        h1 { (results.name) }
        p {
            "Method " code { (results.method.name) } ", " (results.tasks.len()) " tasks, seed "
            (results.seed) ": " (duration(results.costs.seconds)) "."
        }
        (metrics_table(results))
        h2 { "Accuracy matrix" }
        div.charts {
            (map(&finished.class_incremental, "Among all classes seen so far (class-incremental). A row for each task learnt, a column for each task measured; below the diagonal is what is left of earlier tasks. The first row is before training, among all classes."))
            (map(&finished.task_incremental, "Among the task's own classes (task-incremental)."))
        }
        h2 { "Over the stream" }
        div.charts {
            (figure(&mean_chart(results), "Mean accuracy on the tasks learnt so far, and accuracy on each task's images right before they were learnt."))
            @if let Some(found) = finished.anytime_accuracy() { (figure(&anytime_chart(results), &format!("Mean accuracy on the tasks so far, the running one too, among all classes seen; the mean of the {} points, the anytime accuracy, is {}.", finished.anytime.len(), percent(found)))) }
            @if results.tasks.len() <= MOST_TASKS_DRAWN { (figure(&task_chart(&finished.class_incremental), "Accuracy on each task, from when it was learnt, among all classes seen.")) }
        }
        (forgetting(results))
        (subnets(results))
        (features(results, learner, data.train.class_names()))
        @if let Some((memory, png)) = &sheet {
            h2 { "Memory" }
            p {
                (memory.len()) " of at most " (memory.capacity()) " images, "
                (bytes(memory.bytes() as u64)) ": pixels, labels, tasks"
                @if results.method.stores_logits() { " and logits" } ". A row for each class, at most "
                (SHEET_COLUMNS) " images of it."
            }
            figure { img style="width:100%;image-rendering:pixelated" alt="images in the memory, a row for each class" src={ "data:image/png;base64," (base64(png)) }; }
            div.wide { table {
                thead { tr { th { "class" } th { "images kept" } } }
                tbody { @for (name, kept) in data.train.class_names().iter().zip(memory.counts()) {
                    tr { td { (name) } td { (kept) } }
                } }
            } }
        }
        h2 { "Cost" }
        (costs(results))
        h2 { "Tasks" }
        div.wide { table {
            thead { tr { th { "task" } th { "train" } th { "measured on" } th { "pixels" } th { "classes" } } }
            tbody { @for (index, task) in results.tasks.iter().enumerate() {
                tr { td { (index + 1) } td { (task.train) } td { (task.test) } td { (task.pixels) } td style="white-space:normal" { (task.classes.join(", ")) } }
            } }
        } }
        h2 { "Provenance" }
        p { "Made by " code { (command) } ". The raw matrices are in " code { "accuracies.csv" } " and " code { "results.json" } " beside this page." }
        pre { (provenance) }
        h2 { "Recipe" }
        pre { (run.recipe().to_toml()) }
    };
    Ok(page(&results.name, body))
}

/// What became of a supernet's subnets.
fn subnets(results: &Results) -> Markup {
    let subnets = &results.finished.subnets;
    if subnets.is_empty() {
        return html! {};
    }
    let curves = |title: &str, of: &dyn Fn(&SubnetAccuracies) -> Vec<f64>| Chart {
        title: title.into(),
        x_label: "tasks learnt".into(),
        y_label: "%".into(),
        series: subnets
            .iter()
            .take(4)
            .enumerate()
            .map(|(index, subnet)| over_tasks(&subnet.name, index, &of(subnet)))
            .collect(),
    };
    let accuracy = curves("mean accuracy of subnets over the stream", &|subnet| {
        subnet.class_incremental.mean_after_each_task()
    });
    let forgotten = curves("forgetting of subnets over the stream", &|subnet| {
        subnet.class_incremental.forgotten_after_each_task()
    });
    html! {
        h2 { "Subnets" }
        p { "One set of weights learnt the stream; after every task each of these subnets was calibrated on the memory and the last images, and measured. The numbers above are those of the largest." }
        div.wide { table {
            thead { tr { th { "subnet" } th { "MACs" } th { "final accuracy" } th { "over the stream" } th { "forgetting" } th { "final, task's classes" } } }
            tbody { @for subnet in subnets { @if let (Ok(found), Ok(of_task)) = (subnet.class_incremental.metrics(), subnet.task_incremental.metrics()) {
                tr {
                    td title=(subnet.subnet) { (subnet.name) }
                    td { (count(subnet.macs)) }
                    td { (percent(found.final_average_accuracy)) }
                    td { (percent(found.average_incremental_accuracy)) }
                    td { (optional(found.forgetting)) }
                    td { (percent(of_task.final_average_accuracy)) }
                }
            } } }
        } }
        div.charts {
            (figure(&accuracy, "Mean accuracy on the tasks learnt so far, among all classes seen."))
            (figure(&forgotten, "Mean, over the earlier tasks, of the best accuracy so far less the present one, among all classes seen."))
        }
        div.charts { @for subnet in subnets {
            (map(&subnet.class_incremental, &format!("{}: accuracy among all classes seen so far. A row for each task learnt, a column for each task measured.", subnet.name)))
        } }
    }
}

/// Classes beyond which a map of their cosines is not readable.
const MOST_CLASSES_DRAWN: usize = 20;

/// How features lie and how far they turned, where it was measured.
fn features(results: &Results, learner: &Learner, names: &[String]) -> Markup {
    let finished = &results.finished;
    let targets = match &learner.settings().head.rows {
        Rows::Given { targets, .. } => Some(cosines(targets)),
        Rows::Learnt => None,
    };
    let found = &finished.class_cosines;
    if found.is_empty() && finished.drift.is_empty() {
        return html! {};
    }
    let pairs = |matrix: &[Vec<f64>]| -> Vec<f64> {
        let rows = matrix.iter().enumerate();
        rows.flat_map(|(at, row)| row[at + 1..].to_vec()).collect()
    };
    let is_small = names.len() <= MOST_CLASSES_DRAWN;
    let of_classes = |matrix: &[Vec<f64>], caption: &str| {
        square_map("cosines between classes", names.to_vec(), matrix, caption)
    };
    html! {
        h2 { "Features" }
        @if !found.is_empty() {
            @if let Some(targets) = &targets {
                p {
                    "Rank correlation, over all pairs of classes, of the cosines of the head's targets and those of the classes' mean features: "
                    (format!("{:.2}", oncefit_target::spearman(&pairs(targets), &pairs(found)))) "."
                }
            }
        }
        div.charts {
            @if is_small && !found.is_empty() {
                @if let Some(targets) = &targets { (of_classes(targets, "Cosines of the head's targets, in %; empty: 0 or below.")) }
                (of_classes(found, "Cosines of the mean features of each class's test images at the end, in %; empty: 0 or below."))
            }
            @if !finished.drift.is_empty() {
                @let tasks = (1..=finished.drift.len()).map(|task| format!("task {task}")).collect();
                (square_map("drift of features", tasks, &finished.drift, "Drift of features, in %: a row for each task learnt, a column for each earlier task whose test images are looked at. 0: their principal directions are as they were right after that task."))
            }
        }
    }
}

fn cosines(targets: &Targets) -> Vec<Vec<f64>> {
    let rows: Vec<&[f32]> = targets.values().chunks_exact(targets.width()).collect();
    let dot = |one: &[f32], other: &[f32]| -> f64 {
        let pairs = one.iter().zip(other);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let cosine =
        |one: &[f32], other: &[f32]| dot(one, other) / (dot(one, one) * dot(other, other)).sqrt();
    let of_row = |one: &&[f32]| rows.iter().map(|other| cosine(one, other)).collect();
    rows.iter().map(of_row).collect()
}

fn square_map(title: &str, names: Vec<String>, matrix: &[Vec<f64>], caption: &str) -> Markup {
    let map = HeatMap {
        title: title.into(),
        rows: names.clone(),
        columns: names,
        cells: matrix
            .iter()
            .map(|row| row.iter().map(|share| Some(*share)).collect())
            .collect(),
    };
    html! { figure { (PreEscaped(map.to_svg())) figcaption { (caption) } } }
}

fn optional(value: Option<f64>) -> String {
    value.map_or("–".into(), percent)
}

fn metrics_table(results: &Results) -> Markup {
    let found = [&results.class_incremental, &results.task_incremental];
    type Cell = fn(&Metrics) -> String;
    let rows: [(&str, Cell); 6] = [
        ("final accuracy", |found| {
            percent(found.final_average_accuracy)
        }),
        ("over the stream", |found| {
            percent(found.average_incremental_accuracy)
        }),
        ("forgetting", |found| optional(found.forgetting)),
        ("backward transfer", |found| {
            optional(found.backward_transfer)
        }),
        ("forward transfer", |found| optional(found.forward_transfer)),
        ("learning accuracy", |found| {
            percent(found.learning_accuracy)
        }),
    ];
    html! {
        div.wide { table {
            thead { tr { th {} th { "all classes" } th { "task's classes" } } }
            tbody { @for (name, cell) in rows {
                tr {
                    td { (name) }
                    @for metrics in found { td { (metrics.as_ref().map_or("–".into(), cell)) } }
                }
            } }
        } }
        p {
            "Among all classes seen (class-incremental) and among the classes of an image's own task "
            "(task-incremental). Final accuracy: mean over the tasks at the end. Over the stream: mean, over the tasks learnt, "
            "of the mean accuracy on what was learnt so far. Forgetting: from a task's best accuracy before "
            "the last task to its last one. Learning accuracy: mean of the tasks' accuracies right after each."
        }
    }
}

fn map(matrix: &AccuracyMatrix, caption: &str) -> Markup {
    let tasks = matrix.rows.len();
    let names = (1..=tasks).map(|task| format!("task {task}"));
    let rows = std::iter::once("untrained".into())
        .chain(names.clone().map(|name| format!("after {name}")));
    let cells = std::iter::once(&matrix.untrained).chain(&matrix.rows);
    let map = HeatMap {
        title: "accuracy on each task after each task".into(),
        rows: rows.collect(),
        columns: names.collect(),
        cells: cells
            .map(|row| row.iter().map(|share| Some(*share)).collect())
            .collect(),
    };
    html! { figure { (PreEscaped(map.to_svg())) figcaption { (caption) } } }
}

pub(crate) fn over_tasks(name: &str, colour: usize, values: &[f64]) -> Series {
    let points = values.iter().enumerate().map(|(index, share)| {
        let text = format!("{name}, task {}: {}", index + 1, percent(*share));
        ((index + 1) as f64, 100.0 * share, text)
    });
    Series {
        name: name.into(),
        mark: Mark::Line,
        colour,
        points: points.collect(),
    }
}

fn mean_chart(results: &Results) -> Chart {
    let finished = &results.finished;
    Chart {
        title: "mean accuracy over the stream".into(),
        x_label: "tasks learnt".into(),
        y_label: "accuracy, %".into(),
        series: vec![
            over_tasks(
                "all classes",
                0,
                &finished.class_incremental.mean_after_each_task(),
            ),
            over_tasks(
                "task's classes",
                2,
                &finished.task_incremental.mean_after_each_task(),
            ),
            over_tasks("before learning", 3, &finished.prequential),
        ],
    }
}

fn anytime_chart(results: &Results) -> Chart {
    let points = results.finished.anytime.iter().map(|point| {
        let text = format!("after step {}: {}", point.step, percent(point.accuracy));
        (point.step as f64, 100.0 * point.accuracy, text)
    });
    Chart {
        title: "accuracy between batches".into(),
        x_label: "steps".into(),
        y_label: "accuracy, %".into(),
        series: vec![Series {
            name: "all classes".into(),
            mark: Mark::Line,
            colour: 0,
            points: points.collect(),
        }],
    }
}

fn task_chart(matrix: &AccuracyMatrix) -> Chart {
    let tasks = matrix.rows.len();
    let series = (0..tasks).map(|task| {
        let points = (task..tasks).map(|learnt| {
            let share = matrix.rows[learnt][task];
            let text = format!(
                "task {} after task {}: {}",
                task + 1,
                learnt + 1,
                percent(share)
            );
            ((learnt + 1) as f64, 100.0 * share, text)
        });
        Series {
            name: format!("{}", task + 1),
            mark: Mark::Line,
            colour: task % 5,
            points: points.collect(),
        }
    });
    Chart {
        title: "accuracy on each task over the stream".into(),
        x_label: "tasks learnt".into(),
        y_label: "accuracy, %".into(),
        series: series.collect(),
    }
}

fn forgetting(results: &Results) -> Markup {
    let matrix = &results.finished.class_incremental;
    let Some(last) = matrix.rows.last() else {
        return html! {};
    };
    html! {
        h2 { "Forgetting" }
        div.wide { table {
            thead { tr { th { "task" } th { "right after it" } th { "best" } th { "at the end" } th { "lost since the best" } } }
            tbody { @for (task, end) in last.iter().enumerate() {
                @let best = matrix.rows[task..].iter().map(|row| row[task]).fold(0.0, f64::max);
                tr {
                    td { (task + 1) } td { (percent(matrix.rows[task][task])) } td { (percent(best)) }
                    td { (percent(*end)) } td { (percent(best - end)) }
                }
            } }
        } }
    }
}

fn costs(results: &Results) -> Markup {
    let costs = &results.costs;
    let tasks = results.finished.task_seconds.iter();
    let tasks: Vec<String> = tasks.map(|seconds| duration(*seconds)).collect();
    let rows = [
        ("steps of the optimiser", count(costs.steps)),
        (
            "images forward and backward, replayed ones too",
            count(costs.images),
        ),
        ("train-MACs", count(costs.train_macs)),
        ("MACs of evaluations", count(costs.evaluation_macs)),
        ("time in all", duration(costs.seconds)),
        ("time of training steps", duration(costs.step_seconds)),
        ("time of each task's steps", tasks.join(", ")),
        ("bytes in the memory", bytes(costs.memory_bytes as u64)),
        ("weights", count(costs.parameters as u64)),
    ];
    html! {
        div.wide { table { tbody { @for (name, value) in rows { tr { td style="white-space:normal" { (name) } td style="white-space:normal" { (value) } } } } } }
        p { "Train-MACs: steps (three times those of a forward pass), the previous network's outputs, and what the ends of tasks compute, such as importances. GDumb's fresh networks are a part of the evaluations." }
    }
}

fn memory_sheet(memory: &Memory, data: &LoadedData) -> Result<Vec<u8>> {
    let places: Vec<usize> = (0..memory.len()).collect();
    let kept = memory.examples(&places);
    let names = data.train.class_names().to_vec();
    let kept = Dataset::new(
        "memory",
        data.train.shape(),
        kept.images,
        kept.labels,
        names,
    )?;
    Ok(contact_sheet(&kept, SHEET_COLUMNS)?.to_png())
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let at = |index: usize| u32::from(part.get(index).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for letter in 0..4 {
            let is_there = letter <= part.len();
            let index = (word >> (18 - 6 * letter)) & 63;
            text.push(if is_there {
                LETTERS[index as usize] as char
            } else {
                '='
            });
        }
    }
    text
}

/// The page of several methods over seeds.
pub fn comparison(
    compared: &Compared,
    header: &[&str],
    rows: &[Vec<String>],
    command: &str,
) -> String {
    let over_stream = compared.methods.iter().enumerate().map(|(index, method)| {
        let runs: Vec<Vec<f64>> = method
            .matrices
            .iter()
            .map(AccuracyMatrix::mean_after_each_task)
            .collect();
        let tasks = runs.iter().map(Vec::len).min().unwrap_or(0);
        let means: Vec<f64> = (0..tasks)
            .map(|task| runs.iter().map(|run| run[task]).sum::<f64>() / runs.len() as f64)
            .collect();
        over_tasks(&method.name, index % 5, &means)
    });
    let points = compared.methods.iter().enumerate().map(|(index, method)| {
        let found = &method.class_incremental;
        let text = format!(
            "{}: {} ± {}",
            method.name,
            percent(found.mean),
            percent(found.half_width)
        );
        Series {
            name: method.name.clone(),
            mark: Mark::Discs,
            colour: index % 5,
            points: vec![(method.train_macs / 1e9, 100.0 * found.mean, text)],
        }
    });
    // A legend of many names would leave the chart.
    let groups = |series: Vec<Series>| -> Vec<Vec<Series>> {
        series.chunks(5).map(<[Series]>::to_vec).collect()
    };
    let stream_charts = groups(over_stream.collect())
        .into_iter()
        .map(|series| Chart {
            title: "mean accuracy over the stream, by method".into(),
            x_label: "tasks learnt".into(),
            y_label: "accuracy among all classes seen, %".into(),
            series,
        });
    let cost_charts = groups(points.collect()).into_iter().map(|series| Chart {
        title: "final accuracy against training cost".into(),
        x_label: "train-MACs, 10⁹".into(),
        y_label: "final accuracy, %".into(),
        series,
    });
    let body = html! {
        h1 { "Methods compared" }
        p { "Seeds " (compared.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")) "; forgetting by the definition of " (compared.convention_name) "." }
        div.wide { table {
            thead { tr { @for name in header { th style="white-space:normal" { (name) } } } }
            tbody { @for row in rows { tr { @for cell in row { td { (cell) } } } } }
        } }
        p {
            "Mean ± half of the 95 % interval of the mean (Student's t), standard deviation in brackets. "
            "The difference to the first recipe is paired: runs of one seed share the stream, "
            "the initial weights of equal networks and the draws of the memory."
        }
        div.charts { @for chart in stream_charts { (figure(&chart, "Mean over the seeds of the mean accuracy on the tasks learnt so far.")) } }
        div.charts { @for chart in cost_charts { (figure(&chart, "Cost does not depend on the machine.")) } }
        p { "Made by " code { (command) } ". Every run's raw matrix is in its folder." }
    };
    page("Methods compared", body)
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_gives_the_examples_of_the_standard() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in pairs {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
