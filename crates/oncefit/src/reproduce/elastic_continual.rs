//! A supernet that keeps learning, beside networks of its sizes that learn the same stream alone.

use maud::html;
use oncefit_continual::{Metrics, interval};
use oncefit_train::write_atomically;

use super::arms::{Arm, Course, Measured, data, measure};
use super::{Claim, Comparison, Paper, Request, Tried};
use crate::chart::Chart;
use crate::error::{Error, Result};
use crate::format::{count, percent};
use crate::learning_report::over_tasks;
use crate::page::{figure, page};

pub const PAPER: Paper = Paper {
    name: "elastic-continual",
    title: "A supernet that keeps learning",
    about: "Both sides learn at the recipe's rate, which was chosen for neither.",
    claims: &CLAIMS,
    first_seed: 1000,
    first_seeds_of: &[],
    run,
    seeds: (5, 5),
};

const SETTING: &str = "fm-nano at 28×28 with replay, the supernet (largest, smallest and a random member in each step) against that network alone; as many steps";

const CLAIMS: [Claim; 4] = [
    Claim {
        id: "elastic-continual.E1",
        claim: "within a supernet that keeps learning the smallest network ends better than alone",
        setting: SETTING,
    },
    Claim {
        id: "elastic-continual.E2",
        claim: "the middle one does",
        setting: SETTING,
    },
    Claim {
        id: "elastic-continual.E3",
        claim: "the largest does",
        setting: SETTING,
    },
    Claim {
        id: "elastic-continual.E4",
        claim: "within a supernet networks forget less than alone",
        setting: "forgetting, the mean of smallest, middle and largest, alone less within; else as E1",
    },
];

/// As in `recipes/continual/elastic-er.toml`.
fn recipe(request: &Request, network: &str) -> String {
    let epochs = if request.is_quick { 3 } else { 1 };
    format!(
        "{}[method]\nname = \"er\"\n[training]\nbatch_size = 32\nreplay_batch = 32\nepochs = {epochs}\n\
         [network]\ncalibration = \"balanced\"\n{network}[network.space]\nfamily = \"fm-nano\"\nfix = {{ resolution = [28] }}\n",
        data(request)
    )
}

/// A size of network, seed by seed: within the supernet, and a network of it that learnt alone.
struct Size {
    name: String,
    within: Vec<(Metrics, Course)>,
    alone: Vec<(Metrics, Course)>,
}

/// The means over seeds of what courses have after each task.
fn means(courses: &[(Metrics, Course)], of: Quantity) -> Vec<f64> {
    let tasks = courses.iter().map(|(_, course)| of(course).len()).min();
    let mean = |task: usize| {
        let sum: f64 = courses.iter().map(|(_, course)| of(course)[task]).sum();
        sum / courses.len() as f64
    };
    (0..tasks.unwrap_or(0)).map(mean).collect()
}

/// One of the quantities that a course has after each task.
type Quantity = fn(&Course) -> &Vec<f64>;

const QUANTITIES: [(&str, Quantity); 2] = [
    ("accuracy", |course| &course.accuracy),
    ("forgetting", |course| &course.forgetting),
];

impl Size {
    fn courses(&self) -> [(&'static str, &[(Metrics, Course)]); 2] {
        [("within", &self.within), ("alone", &self.alone)]
    }

    /// Accuracy and forgetting after every task.
    fn notes(&self) -> Vec<String> {
        let percents = |values: Vec<f64>| -> String {
            let all: Vec<String> = values
                .iter()
                // Adding 0 takes the sign off a rounded -0.
                .map(|one| format!("{:.1}", (1000.0 * one).round() / 10.0 + 0.0))
                .collect();
            all.join(", ")
        };
        let mut notes = Vec::new();
        for (quantity, of) in QUANTITIES {
            for (where_, courses) in self.courses() {
                notes.push(format!(
                    "{} {where_}: {quantity} after each task, %: {}",
                    self.name,
                    percents(means(courses, of))
                ));
            }
        }
        notes
    }

    /// Accuracy, or forgetting, over the stream within and alone.
    fn chart(&self, quantity: &str, of: fn(&Course) -> &Vec<f64>) -> Chart {
        let series = self.courses().into_iter().enumerate();
        Chart {
            title: format!("{quantity} of the {} network over the stream", self.name),
            x_label: "tasks learnt".into(),
            y_label: format!("{}: {quantity}, %", self.name),
            series: series
                .map(|(index, (name, courses))| over_tasks(name, index, &means(courses, of)))
                .collect(),
        }
    }
}

/// The curves of all sizes, and the numbers at the end.
fn page_of(sizes: &[Size], cost: &str, request: &Request) -> Result<String> {
    let at_end = |courses: &[(Metrics, Course)], of: fn(&Metrics) -> f64| -> Result<String> {
        let values: Vec<f64> = courses.iter().map(|(metrics, _)| of(metrics)).collect();
        let found = interval(&values)?;
        let (mean, half) = (percent(found.mean), percent(found.half_width));
        Ok(format!("{mean} ± {half}"))
    };
    let body = html! {
        h1 { "A supernet that keeps learning" }
        p {
            "Each size within the supernet, and a network of that size that learnt the same stream alone, in as many steps. Means of "
            (request.seeds) " seeds from " (request.first_seed) "; " (cost) "."
        }
        div.wide { table {
            thead { tr { th { "size" } th { "final accuracy within" } th { "alone" } th { "forgetting within" } th { "alone" } } }
            tbody { @for size in sizes { tr {
                td { (size.name) }
                @for of in [final_accuracy as fn(&Metrics) -> f64, forgetting] {
                    td { (at_end(&size.within, of)?) }
                    td { (at_end(&size.alone, of)?) }
                }
            } } }
        } }
        p { "Mean ± half of the 95 % interval of the mean over the seeds. The seeds are paired: see the claims' files for differences." }
        @for (quantity, of) in QUANTITIES {
            h2 { (quantity) }
            div.charts { @for size in sizes {
                (figure(&size.chart(quantity, of), "Among all classes seen, mean over the seeds."))
            } }
        }
    };
    Ok(page("A supernet that keeps learning", body))
}

fn final_accuracy(metrics: &Metrics) -> f64 {
    metrics.final_average_accuracy
}

/// As points.
fn points(values: impl Iterator<Item = f64>) -> Vec<f64> {
    values.map(|value| 100.0 * value).collect()
}

fn forgetting(metrics: &Metrics) -> f64 {
    metrics.forgetting.unwrap_or(0.0)
}

/// The courses of a network in each seed, with the metrics that `of` finds.
fn with_courses(
    found: &[Measured],
    index: usize,
    of: impl Fn(&Measured) -> Metrics,
) -> Vec<(Metrics, Course)> {
    let course = |one: &Measured| one.courses.get(index).cloned().unwrap_or_default();
    found.iter().map(|one| (of(one), course(one))).collect()
}

fn run(id: &str, request: &Request) -> Result<Tried> {
    let network = "kind = \"supernet\"\nelastic = { random = 1 }\n";
    let arm = Arm {
        name: "supernet".into(),
        recipe: recipe(request, network),
    };
    let within = measure(request, &arm, request.seeds())?;
    let Some(first) = within.first() else {
        return Err(Error::Request("no seed was given".into()));
    };
    let (mut sizes, mut apart) = (Vec::new(), 0);
    for (index, (name, text, _)) in first.subnets.iter().enumerate() {
        let network = format!("kind = \"member\"\nsubnet = \"{text}\"\n");
        let arm = Arm {
            name: format!("alone-{name}"),
            recipe: recipe(request, &network),
        };
        let alone = measure(request, &arm, request.seeds())?;
        apart += alone.iter().map(|one| one.train_macs).sum::<u64>();
        sizes.push(Size {
            name: name.clone(),
            within: with_courses(&within, index, |one| one.subnets[index].2),
            alone: with_courses(&alone, 0, |one| one.class_incremental),
        });
    }
    let together = within.iter().map(|one| one.train_macs).sum::<u64>();
    let seeds = request.seeds as u64;
    let cost = format!(
        "train-MACs of a seed: supernet {}, the three alone {} ({:.2} of the supernet's)",
        count(together / seeds),
        count(apart / seeds),
        apart as f64 / together as f64
    );
    let text = page_of(&sizes, &cost, request)?;
    write_atomically(
        &request.folder.join("elastic-continual.html"),
        text.as_bytes(),
    )?;
    let (what, one, other, about) = match id {
        "elastic-continual.E4" => {
            let mean = |of: fn(&Size) -> &Vec<(Metrics, Course)>| -> Vec<f64> {
                let of_seed = |seed: usize| {
                    let all = sizes.iter().map(|size| forgetting(&of(size)[seed].0));
                    all.sum::<f64>() / sizes.len() as f64
                };
                points((0..within.len()).map(of_seed))
            };
            let what = "forgetting alone − within, mean of the sizes, points".to_owned();
            (
                what,
                mean(|size| &size.alone),
                mean(|size| &size.within),
                &sizes[..0],
            )
        }
        _ => {
            let index = match id {
                "elastic-continual.E1" => 0,
                "elastic-continual.E2" => 1,
                _ => 2,
            };
            let accuracies = |found: &[(Metrics, Course)]| {
                points(found.iter().map(|(metrics, _)| final_accuracy(metrics)))
            };
            let size = &sizes[index];
            let what = format!("{}: within − alone, final accuracy, points", size.name);
            let about = &sizes[index..=index];
            (
                what,
                accuracies(&size.within),
                accuracies(&size.alone),
                about,
            )
        }
    };
    let (comparison, verdict) = Comparison::new(&what, one, other)?;
    Ok(Tried {
        verdict,
        comparisons: vec![comparison],
        notes: [vec![cost], about.iter().flat_map(Size::notes).collect()].concat(),
    })
}
