//! Streams of tasks from any data set, as pure functions of (data, settings, seed).
//!
//! Draws: "class-order" (seed; 0, 0), "pixel-change" (seed; task, 0), "few-shot" (seed; task, 0) and
//! "stream-order" (seed; task, epoch).

mod pixels;

use std::collections::HashSet;

use oncefit_data::{Dataset, LoadedData, Normalisation};
use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

pub use self::pixels::PixelChange;
use crate::error::{ContinualError, Result, setting};

/// What changes from task to task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// New classes. One run gives the class-incremental and, with the other classes masked, the
    /// task-incremental accuracies. The first task has `base` classes, each later one `increment`.
    Classes {
        /// Classes of the first task.
        base: usize,
        /// Classes of each later task.
        increment: usize,
    },
    /// All classes in every task, under another fixed permutation of the pixels; task 0 is as it is.
    PermutedPixels {
        /// Number of tasks.
        tasks: usize,
    },
    /// All classes in every task, turned by a random angle in [0, `largest_degrees`).
    RotatedPixels {
        /// Number of tasks.
        tasks: usize,
        /// Upper end of the angles; 180 in the usual stream.
        largest_degrees: f32,
    },
}

/// The order in which classes arrive.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassOrder {
    /// 0, 1, 2, …
    Natural,
    /// Shuffled by the stream's seed.
    Seeded,
    /// Names of classes, in order.
    Named(Vec<String>),
}

/// How a data set becomes a stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StreamSettings {
    /// What changes.
    pub scenario: Scenario,
    /// In which order classes arrive.
    pub class_order: ClassOrder,
    /// Images of a batch; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Epochs of each task; 1 is the online setting.
    pub epochs: usize,
    /// Training images of each class in the tasks after the first; all if `None`.
    pub later_shots: Option<usize>,
    /// Seed of the stream's draws.
    pub seed: u64,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            scenario: Scenario::Classes {
                base: 2,
                increment: 2,
            },
            class_order: ClassOrder::Natural,
            batch_size: 10,
            epochs: 1,
            later_shots: None,
            seed: 0,
        }
    }
}

/// Images with their labels, as bytes without augmentation.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Examples {
    /// Pixels (N, H, W, C).
    pub images: Vec<u8>,
    /// N labels.
    pub labels: Vec<u32>,
}

impl Examples {
    /// N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A task: its classes, and which images of the data set it has.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its place in the stream.
    pub index: usize,
    /// Its classes, in order of arrival.
    pub classes: Vec<u32>,
    /// What it does to pixels.
    pub pixels: PixelChange,
    /// Indices of its training images.
    pub train: Vec<usize>,
    /// Indices of training images that are kept out of training; see [`Stream::hold_out`].
    pub held_out: Vec<usize>,
    /// Indices of its test images.
    pub test: Vec<usize>,
}

/// A sequence of tasks.
#[derive(Clone, Debug)]
pub struct Stream {
    settings: StreamSettings,
    data: LoadedData,
    tasks: Vec<Task>,
}

impl Stream {
    /// The stream that `settings` make of `data`.
    ///
    /// # Errors
    /// If a class of the order is unknown or missing, classes do not fill the tasks, or a task has
    /// no images.
    pub fn new(data: &LoadedData, settings: StreamSettings) -> Result<Self> {
        if settings.batch_size == 0 || settings.epochs == 0 {
            return Err(setting(
                "the stream's batch size and epochs",
                format!("{} and {}", settings.batch_size, settings.epochs),
                "1 or more",
            ));
        }
        let order = class_order(data, &settings)?;
        let mut tasks = Vec::new();
        let mut add = |classes: Vec<u32>, pixels| {
            let chosen = |dataset: &Dataset| {
                let members: HashSet<u32> = classes.iter().copied().collect();
                let labels = dataset.labels().iter().enumerate();
                labels
                    .filter(|(_, label)| members.contains(label))
                    .map(|(index, _)| index)
                    .collect::<Vec<usize>>()
            };
            let (index, train, test) = (tasks.len(), chosen(&data.train), chosen(&data.test));
            tasks.push(Task {
                index,
                classes,
                pixels,
                train,
                held_out: Vec::new(),
                test,
            });
        };
        match settings.scenario {
            Scenario::Classes { base, increment } => {
                let rest = order.len().checked_sub(base);
                let fits = base > 0
                    && rest.is_some_and(|rest| {
                        rest == 0 || (increment > 0 && rest.is_multiple_of(increment))
                    });
                if !fits {
                    return Err(setting(
                        "the number of classes",
                        order.len(),
                        format!("base {base} and a multiple of increment {increment}"),
                    ));
                }
                add(order[..base].to_vec(), PixelChange::None);
                for classes in order[base..].chunks(increment.max(1)) {
                    add(classes.to_vec(), PixelChange::None);
                }
            }
            Scenario::PermutedPixels { tasks } => {
                let shape = data.train.shape();
                for task in 0..at_least_one_task(tasks)? {
                    let mut pixels: Vec<u32> = (0..(shape.height * shape.width) as u32).collect();
                    Draws::new(settings.seed, "pixel-change", task as u64, 0).shuffle(&mut pixels);
                    let change = match task {
                        0 => PixelChange::None,
                        _ => PixelChange::Permutation(pixels),
                    };
                    add(order.clone(), change);
                }
            }
            Scenario::RotatedPixels {
                tasks,
                largest_degrees,
            } => {
                for task in 0..at_least_one_task(tasks)? {
                    let mut draws = Draws::new(settings.seed, "pixel-change", task as u64, 0);
                    let degrees = draws.unit_f32() * largest_degrees;
                    add(order.clone(), PixelChange::Rotation(degrees));
                }
            }
        }
        if let Some(shots) = settings.later_shots {
            for task in &mut tasks[1..] {
                task.train = few(&data.train, &task.train, shots, settings.seed, task.index);
            }
        }
        for task in &tasks {
            for (part, images) in [("training", &task.train), ("test", &task.test)] {
                if images.is_empty() {
                    return Err(ContinualError::EmptyTask {
                        task: task.index,
                        part,
                        classes: task.classes.clone(),
                    });
                }
            }
        }
        Ok(Self {
            settings,
            data: data.clone(),
            tasks,
        })
    }

    /// Its settings.
    pub fn settings(&self) -> &StreamSettings {
        &self.settings
    }

    /// The data it is made of.
    pub fn data(&self) -> &LoadedData {
        &self.data
    }

    /// Its tasks.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Classes of the data set: outputs of a head for all of them.
    pub fn classes(&self) -> usize {
        self.data.train.class_names().len()
    }

    /// Keeps images of each class out of the training of each task: as many as `of_class` says for the
    /// number of classes before it, but never all.
    pub fn hold_out(mut self, of_class: impl Fn(usize) -> usize) -> Self {
        let mut before = 0;
        for task in &mut self.tasks {
            let dataset = &self.data.train;
            let count = of_class(before);
            before += task.classes.len();
            let mut order = task.train.clone();
            let index = task.index as u64;
            Draws::new(self.settings.seed, "hold-out", index, 0).shuffle(&mut order);
            let label = |index: &usize| dataset.labels()[*index];
            let mut of_label = vec![0; dataset.class_names().len()];
            for index in &task.train {
                of_label[label(index) as usize] += 1;
            }
            let mut taken = vec![0; of_label.len()];
            order.retain(|index| {
                let class = label(index) as usize;
                taken[class] += 1;
                taken[class] <= count.min(of_label[class] - 1)
            });
            task.train.retain(|index| !order.contains(index));
            task.held_out = order;
        }
        self
    }

    /// Batches in one epoch of `task`.
    pub fn batches_per_epoch(&self, task: usize) -> usize {
        self.tasks[task]
            .train
            .len()
            .div_ceil(self.settings.batch_size)
    }

    /// Batches of `task` in all epochs.
    pub fn batches(&self, task: usize) -> usize {
        self.batches_per_epoch(task) * self.settings.epochs
    }

    /// Indices of the training images in the order in which `epoch` of `task` brings them.
    pub fn epoch_order(&self, task: usize, epoch: usize) -> Vec<usize> {
        let mut order = self.tasks[task].train.clone();
        let mut draws = Draws::new(
            self.settings.seed,
            "stream-order",
            task as u64,
            epoch as u64,
        );
        draws.shuffle(&mut order);
        order
    }

    /// The batches of `task` from `first` on.
    pub fn iterate(&self, task: usize, first: usize) -> impl Iterator<Item = Examples> + '_ {
        let per_epoch = self.batches_per_epoch(task);
        let mut order = (usize::MAX, Vec::new());
        (first..self.batches(task)).map(move |batch| {
            let (epoch, place) = (batch / per_epoch, batch % per_epoch);
            if order.0 != epoch {
                order = (epoch, self.epoch_order(task, epoch));
            }
            let start = place * self.settings.batch_size;
            let end = (start + self.settings.batch_size).min(order.1.len());
            self.train_examples(task, &order.1[start..end])
        })
    }

    /// Training images of the data set as `task` shows them.
    pub fn train_examples(&self, task: usize, indices: &[usize]) -> Examples {
        examples(&self.data.train, &self.tasks[task].pixels, indices)
    }

    /// Test images of the data set as `task` shows them.
    pub fn test_examples(&self, task: usize, indices: &[usize]) -> Examples {
        examples(&self.data.test, &self.tasks[task].pixels, indices)
    }

    /// The stream of one task that has all the classes: the upper bound "joint".
    ///
    /// # Errors
    /// If it is not classes that change from task to task.
    pub fn joint(&self) -> Result<Self> {
        let Scenario::Classes { .. } = self.settings.scenario else {
            return Err(setting(
                "the scenario of joint training",
                "one that changes pixels",
                "classes",
            ));
        };
        let base = self.tasks.iter().map(|task| task.classes.len()).sum();
        Self::new(
            &self.data,
            StreamSettings {
                scenario: Scenario::Classes { base, increment: 0 },
                later_shots: None,
                ..self.settings.clone()
            },
        )
    }
}

fn at_least_one_task(tasks: usize) -> Result<usize> {
    match tasks {
        0 => Err(setting("the number of tasks", tasks, "1 or more")),
        _ => Ok(tasks),
    }
}

fn class_order(data: &LoadedData, settings: &StreamSettings) -> Result<Vec<u32>> {
    let names = data.train.class_names();
    let mut order: Vec<u32> = (0..names.len() as u32).collect();
    match &settings.class_order {
        ClassOrder::Natural => {}
        ClassOrder::Seeded => {
            Draws::new(settings.seed, "class-order", 0, 0).shuffle(&mut order);
        }
        ClassOrder::Named(wanted) => {
            order.clear();
            for name in wanted {
                let class = names.iter().position(|other| other == name);
                let class = class.ok_or_else(|| {
                    setting(
                        "a class of the stream",
                        format!("`{name}`"),
                        format!("one of the data set's: {}", names.join(", ")),
                    )
                })? as u32;
                if order.contains(&class) {
                    return Err(setting(
                        "a class of the stream",
                        format!("`{name}` for the second time"),
                        "each class once",
                    ));
                }
                order.push(class);
            }
            if order.is_empty() {
                return Err(setting("the class order", "empty", "names of classes"));
            }
        }
    }
    Ok(order)
}

/// `shots` of each class among `indices`, ascending.
fn few(dataset: &Dataset, indices: &[usize], shots: usize, seed: u64, task: usize) -> Vec<usize> {
    let mut shuffled = indices.to_vec();
    Draws::new(seed, "few-shot", task as u64, 0).shuffle(&mut shuffled);
    let mut taken = vec![0; dataset.class_names().len()];
    shuffled.retain(|&index| {
        let count = &mut taken[dataset.labels()[index] as usize];
        *count += 1;
        *count <= shots
    });
    shuffled.sort_unstable();
    shuffled
}

fn examples(dataset: &Dataset, pixels: &PixelChange, indices: &[usize]) -> Examples {
    let shape = dataset.shape();
    let mut images = Vec::with_capacity(indices.len() * shape.bytes());
    for &index in indices {
        pixels.append(dataset.image(index), shape, &mut images);
    }
    let labels = indices.iter().map(|&index| dataset.labels()[index]);
    Examples {
        images,
        labels: labels.collect(),
    }
}

/// `(v / 255 − mean) / std` for each byte.
pub(crate) fn normalised(images: &[u8], normalisation: &Normalisation) -> Vec<f32> {
    let channels = normalisation.mean.len();
    let mut table = vec![0.0f32; 256 * channels];
    for (channel, (mean, std)) in normalisation
        .mean
        .iter()
        .zip(&normalisation.std)
        .enumerate()
    {
        for value in 0..256 {
            table[channel * 256 + value] = (value as f32 / 255.0 - mean) / std;
        }
    }
    let mut values = Vec::with_capacity(images.len());
    match channels {
        1 => values.extend(images.iter().map(|byte| table[usize::from(*byte)])),
        _ => {
            for pixel in images.chunks(channels) {
                let bytes = pixel.iter().zip(table.chunks_exact(256));
                values.extend(bytes.map(|(byte, values)| values[usize::from(*byte)]));
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(settings: StreamSettings) -> Result<Stream> {
        Stream::new(&oncefit_data::embedded().unwrap(), settings)
    }

    #[test]
    fn every_image_comes_once_an_epoch_and_tasks_have_their_classes() {
        let stream = stream(StreamSettings {
            class_order: ClassOrder::Seeded,
            seed: 3,
            batch_size: 64,
            ..StreamSettings::default()
        })
        .unwrap();
        assert_eq!(stream.tasks().len(), 5);
        let mut seen = HashSet::new();
        for task in 0..5 {
            let order = stream.epoch_order(task, 0);
            assert!(order.iter().all(|index| seen.insert(*index)));
            let classes = &stream.tasks()[task].classes;
            let mut images = 0;
            for batch in stream.iterate(task, 0) {
                images += batch.len();
                assert!(batch.labels.iter().all(|label| classes.contains(label)));
            }
            assert_eq!((images, order.len()), (1600, 1600));
            assert_ne!(order, stream.epoch_order(task, 1));
        }
        assert_eq!(seen.len(), 8000);
        let resumed: Vec<_> = stream.iterate(2, 20).collect();
        assert_eq!(resumed, stream.iterate(2, 0).skip(20).collect::<Vec<_>>());
    }

    #[test]
    fn a_permutation_keeps_values_and_a_turn_by_0_keeps_the_image() {
        let permuted = stream(StreamSettings {
            scenario: Scenario::PermutedPixels { tasks: 3 },
            ..StreamSettings::default()
        })
        .unwrap();
        let (plain, mixed) = (
            permuted.test_examples(0, &[5]),
            permuted.test_examples(1, &[5]),
        );
        assert_ne!(plain, mixed);
        let sorted = |mut bytes: Vec<u8>| {
            bytes.sort_unstable();
            bytes
        };
        assert_eq!(sorted(plain.images.clone()), sorted(mixed.images));
        let shape = permuted.data().train.shape();
        let turned = |image: &[u8], degrees| {
            let mut found = Vec::new();
            PixelChange::Rotation(degrees).append(image, shape, &mut found);
            found
        };
        assert_eq!(turned(&plain.images, 0.0), plain.images);
        let quarter = turned(&plain.images, 90.0);
        assert_ne!(quarter, plain.images);
        assert_eq!(turned(&quarter, -90.0), plain.images);
    }

    #[test]
    fn joint_is_one_task_of_all_images() {
        let parted = stream(StreamSettings {
            class_order: ClassOrder::Seeded,
            ..StreamSettings::default()
        });
        let parted = parted.unwrap();
        let joint = parted.joint().unwrap();
        assert_eq!(joint.tasks().len(), 1);
        let together = |stream: &Stream, of_test: bool| {
            let tasks = stream.tasks().iter();
            let parts = tasks.map(|task| if of_test { &task.test } else { &task.train });
            let mut all: Vec<usize> = parts.flatten().copied().collect();
            all.sort_unstable();
            all
        };
        for of_test in [false, true] {
            assert_eq!(together(&joint, of_test), together(&parted, of_test));
        }
        let permuted = stream(StreamSettings {
            scenario: Scenario::PermutedPixels { tasks: 2 },
            ..StreamSettings::default()
        });
        assert!(permuted.unwrap().joint().is_err());
    }

    #[test]
    fn later_tasks_can_have_few_shots() {
        let settings = StreamSettings {
            scenario: Scenario::Classes {
                base: 6,
                increment: 2,
            },
            later_shots: Some(5),
            ..StreamSettings::default()
        };
        let stream = stream(settings).unwrap();
        let sizes: Vec<usize> = stream.tasks().iter().map(|task| task.train.len()).collect();
        assert_eq!(sizes, [4800, 10, 10]);
    }

    #[test]
    fn what_is_illegal_is_said() {
        let named = |names: &[&str]| StreamSettings {
            class_order: ClassOrder::Named(names.iter().map(|name| name.to_string()).collect()),
            ..StreamSettings::default()
        };
        let message = stream(named(&["Trouser", "Hat"])).unwrap_err().to_string();
        assert!(
            message.contains("`Hat`") && message.contains("Sneaker"),
            "{message}"
        );
        assert!(stream(named(&["Bag", "Bag"])).is_err());
        assert!(stream(named(&["Bag", "Coat", "Shirt"])).is_err());
        let data = oncefit_data::embedded().unwrap();
        let first: Vec<usize> = data.train.indices_by_class()[..9].concat();
        let partial = LoadedData::new(data.train.subset(&first).unwrap(), data.test).unwrap();
        let all = StreamSettings {
            scenario: Scenario::Classes {
                base: 9,
                increment: 1,
            },
            ..StreamSettings::default()
        };
        let error = Stream::new(&partial, all).unwrap_err();
        assert!(
            matches!(error, ContinualError::EmptyTask { task: 1, .. }),
            "{error}"
        );
    }
}
