//! A supernet that keeps learning, beside networks of its sizes that learn the same stream alone.

use super::arms::{Arm, Measured, data, measure};
use super::{Claim, Comparison, Paper, Request, Tried};
use crate::error::{Error, Result};
use crate::format::count;

pub const PAPER: Paper = Paper {
    name: "elastic-continual",
    title: "A supernet that keeps learning",
    claims: &CLAIMS,
    run,
    seeds: (10, 5),
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
         [network]\n{network}[network.space]\nfamily = \"fm-nano\"\nfix = {{ resolution = [28] }}\n",
        data(request)
    )
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
    let mut alone = Vec::new();
    for (name, text, _) in &first.subnets {
        let network = format!("kind = \"member\"\nsubnet = \"{text}\"\n");
        let arm = Arm {
            name: format!("alone-{name}"),
            recipe: recipe(request, &network),
        };
        alone.push(measure(request, &arm, request.seeds())?);
    }
    let cost = |found: &[Measured]| found.iter().map(|one| one.train_macs).sum::<u64>();
    let (together, apart) = (
        cost(&within),
        alone.iter().map(|found| cost(found)).sum::<u64>(),
    );
    let seeds = request.seeds as u64;
    let notes = vec![format!(
        "train-MACs of a seed: supernet {}, the three alone {} ({:.2} of the supernet's)",
        count(together / seeds),
        count(apart / seeds),
        apart as f64 / together as f64
    )];
    let at = |index: usize| -> Result<Tried> {
        let name = &first.subnets[index].0;
        let of_subnet = within.iter().map(|one| one.subnets[index].2);
        let one = of_subnet
            .map(|found| found.final_average_accuracy)
            .collect();
        let other = alone[index].iter().map(|one| one.class_incremental);
        let other = other.map(|found| found.final_average_accuracy).collect();
        let what = format!("{name}: within − alone, final accuracy");
        let (comparison, verdict) = Comparison::new(&what, one, other)?;
        Ok(Tried {
            verdict,
            comparisons: vec![comparison],
            notes: notes.clone(),
        })
    };
    match id {
        "elastic-continual.E1" => at(0),
        "elastic-continual.E2" => at(1),
        "elastic-continual.E3" => at(2),
        _ => {
            let sizes = first.subnets.len();
            let mean = |of: &dyn Fn(usize) -> Option<f64>| {
                (0..sizes).filter_map(of).sum::<f64>() / sizes as f64
            };
            let seeds = 0..within.len();
            let one = seeds
                .clone()
                .map(|seed| mean(&|index| alone[index][seed].class_incremental.forgetting));
            let other = seeds.map(|seed| mean(&|index| within[seed].subnets[index].2.forgetting));
            let what = "forgetting alone − within, mean of the sizes";
            let (comparison, verdict) = Comparison::new(what, one.collect(), other.collect())?;
            Ok(Tried {
                verdict,
                comparisons: vec![comparison],
                notes,
            })
        }
    }
}
