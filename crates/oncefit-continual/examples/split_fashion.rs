//! Split-Fashion-MNIST, 5 tasks of 2 classes, online (batch 10, one epoch), memory of 200:
//! `split_fashion [method] [seeds] [embedded] [rate]` prints the class-incremental accuracy matrix.

use oncefit_continual::{
    Experiment, Learner, LearnerSettings, Method, Stream, StreamSettings, interval, mlp,
};
use oncefit_data::{DataSource, Normalisation};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "der++".into());
    let seeds: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let is_embedded = arguments.next().is_some_and(|text| text == "embedded");
    let rate: f32 = arguments.next().map_or(Ok(0.03), |text| text.parse())?;
    let source = match is_embedded {
        true => DataSource::Embedded,
        false => DataSource::FashionMnist { path: None },
    };
    let data = source.load()?;
    let mut last = Vec::new();
    for seed in 0..seeds {
        let settings = StreamSettings {
            seed,
            ..StreamSettings::default()
        };
        let mut stream = Stream::new(&data, settings)?;
        if name == "joint" {
            stream = stream.joint()?;
        }
        let learner = Learner::new(
            &mlp(784, 100, stream.classes())?,
            Method::preset(&name, stream.classes())?,
            LearnerSettings {
                learning_rate: rate,
                rule: oncefit_nn::UpdateRule::sgd(0.0),
                weight_decay: 0.0,
                memory: 200,
                batch_size: 10,
                seed,
                normalisation: Normalisation::of(&data.train)?,
                ..LearnerSettings::default()
            },
        )?;
        let mut experiment = Experiment::new(stream, learner);
        experiment.run(&mut |_| true)?;
        let found = &experiment.finished;
        for row in &found.class_incremental.rows {
            let cells: Vec<String> = row.iter().map(|value| format!("{value:.3}")).collect();
            println!("  {}", cells.join(" "));
        }
        let metrics = found.class_incremental.metrics()?;
        let by_task = found.task_incremental.metrics()?;
        println!(
            "{name} seed {seed}: class-IL {:.4}, task-IL {:.4}, forgetting {:.4}; {:.2} s ({}), {} images, memory {} bytes",
            metrics.final_average_accuracy,
            by_task.final_average_accuracy,
            metrics.forgetting.unwrap_or(0.0),
            found.seconds,
            found
                .task_seconds
                .iter()
                .map(|s| format!("{s:.2}"))
                .collect::<Vec<_>>()
                .join(" "),
            found.images,
            found.memory_bytes,
        );
        last.push(metrics.final_average_accuracy);
    }
    let found = interval(&last)?;
    println!(
        "{name}: {:.4} ± {:.4} (sd {:.4}, {} seeds)",
        found.mean, found.half_width, found.deviation, found.count
    );
    Ok(())
}
