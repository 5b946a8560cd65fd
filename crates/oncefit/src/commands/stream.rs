//! `oncefit data stream`

use oncefit_continual::{Stream, TaskSummary, learning_stream};
use oncefit_data::{Dataset, contact_sheet};
use oncefit_train::write_atomically;

use super::learn::load;
use super::print;
use crate::cli::learning::DataStreamArgs;
use crate::error::{Error, Result};
use crate::format::table;

pub fn data_stream(args: &DataStreamArgs) -> Result<()> {
    let mut recipe = load(&args.recipe)?;
    if let Some(seed) = args.seed {
        recipe.seed = seed;
    }
    let stream = learning_stream(&recipe)?;
    let rows = TaskSummary::all(&stream).into_iter().enumerate();
    let rows = rows.map(|(index, task)| {
        vec![
            format!("{}", index + 1),
            task.train.to_string(),
            task.test.to_string(),
            stream.batches(index).to_string(),
            task.pixels,
            match task.classes.len() == stream.classes() {
                true => format!("all {}", task.classes.len()),
                false => task.classes.join(", "),
            },
        ]
    });
    let header = [
        "task",
        "train",
        "measured on",
        "batches",
        "pixels",
        "classes",
    ];
    print(&table(&header, rows));
    let data = stream.data();
    print(&format!(
        "{} of `{}`, measured on `{}`, images of {}; batches of {}, {}",
        counted(stream.tasks().len(), "task"),
        data.train.name(),
        data.test.name(),
        data.train.shape(),
        recipe.training.batch_size,
        counted(recipe.training.epochs, "epoch")
    ));
    if let Some(path) = &args.sheet {
        write_atomically(path, &sheet(&stream, args.per_task)?)?;
        print(&format!(
            "contact sheet, a row for each task: {}",
            path.display()
        ));
    }
    Ok(())
}

/// `1 task`, `5 tasks`
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The first training images of each task as it shows them, a row for each.
fn sheet(stream: &Stream, per_task: usize) -> Result<Vec<u8>> {
    if per_task == 0 {
        return Err(Error::Request("--per-task must be at least 1".into()));
    }
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for task in stream.tasks() {
        let order = stream.epoch_order(task.index, 0);
        let shown = stream.train_examples(task.index, &order[..per_task.min(order.len())]);
        labels.extend(std::iter::repeat_n(task.index as u32, shown.len()));
        images.extend(shown.images);
    }
    let names = (1..=stream.tasks().len()).map(|task| format!("task {task}"));
    let shape = stream.data().train.shape();
    let tasks = Dataset::new("stream", shape, images, labels, names.collect())?;
    Ok(contact_sheet(&tasks, per_task)?.to_png())
}
