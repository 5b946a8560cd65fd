//! `oncefit space`

use std::collections::{HashMap, HashSet};

use num_bigint::BigUint;
use oncefit_random::Draws;
use oncefit_space::{Candidate, Space, Subnet};
use serde::Serialize;

use super::show::{operation_name, show_space};
use super::{print, print_json, space_of};
use crate::cli::space::{
    SpaceCheckArgs, SpaceCommand, SpaceDiffArgs, SpaceDrawArgs, SpaceEnumerateArgs, SpaceSampleArgs,
};
use crate::drawing::drawing;
use crate::error::{Error, Result};
use crate::format::{bytes, count, percent, table};

pub fn space(command: &SpaceCommand) -> Result<()> {
    match command {
        SpaceCommand::Check(args) => check(args),
        SpaceCommand::Show(args) => show_space(&space_of(&args.space)?, args.subnet.as_deref()),
        SpaceCommand::Count(args) => {
            let space = space_of(&args.space)?;
            let found = Counted::of(&space)?;
            if args.json {
                print_json(&found);
            } else {
                print(&format!(
                    "{} members, 10^{:.3}",
                    found.members, found.log10_members
                ));
            }
            Ok(())
        }
        SpaceCommand::Sample(args) => sample(args),
        SpaceCommand::Enumerate(args) => enumerate(args),
        SpaceCommand::Rank(args) => {
            let space = space_of(&args.space)?;
            let subnet = space.parse_subnet(&args.subnet)?;
            print(&space.rank(&subnet)?.to_string());
            Ok(())
        }
        SpaceCommand::Unrank(args) => {
            let space = space_of(&args.space)?;
            print(&space.unrank(&args.number)?.text());
            Ok(())
        }
        SpaceCommand::Diff(args) => diff(args),
        SpaceCommand::Draw(args) => draw(args),
    }
}

#[derive(Serialize)]
struct Counted {
    space: String,
    hash: String,
    /// Exact, as text: it may have hundreds of digits.
    members: String,
    log10_members: f64,
    decisions: usize,
}

impl Counted {
    fn of(space: &Space) -> Result<Self> {
        Ok(Self {
            space: space.name().to_owned(),
            hash: space.hash(),
            members: space.count()?.to_string(),
            log10_members: space.log10_count()?,
            decisions: space.decisions().len(),
        })
    }
}

#[derive(Serialize)]
struct Checked {
    #[serde(flatten)]
    counted: Counted,
    /// Members that were built or tried.
    tried: usize,
    /// Whether these are all members.
    is_complete: bool,
    /// Members tried whose shapes do not meet.
    holes: usize,
    /// The first of them.
    hole: Option<String>,
    /// Different members among those built: random ones may be drawn twice.
    distinct: usize,
    /// Different networks among these.
    networks: usize,
    /// Two members that are one network.
    duplicates: Option<[String; 2]>,
    fewest_decisions: usize,
    most_decisions: usize,
    fewest_macs: Option<u64>,
    most_macs: Option<u64>,
    fewest_parameters: Option<u64>,
    most_parameters: Option<u64>,
}

fn check(args: &SpaceCheckArgs) -> Result<()> {
    if args.limit == 0 {
        return Err(Error::Request("--limit must be at least 1".into()));
    }
    let space = space_of(&args.space)?;
    let is_complete = space.count()? <= BigUint::from(args.limit);
    let mut draws = Draws::new(args.seed, "space check", 0, 0);
    let mut next: Option<Candidate> = Some(match is_complete {
        true => space.candidate(|_, _| 0)?,
        false => space.sample_candidate_uniform(&mut draws)?,
    });
    let mut members = HashSet::new();
    let mut networks: HashMap<String, Candidate> = HashMap::new();
    let mut duplicates = None;
    let (mut tried, mut holes, mut hole) = (0, 0, None);
    let (mut depths, mut macs, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(candidate) = next {
        tried += 1;
        depths.push(candidate.active().count());
        match space.subnet_of(&candidate) {
            Ok(subnet) => {
                members.insert(candidate.positions().to_vec());
                let id = subnet.graph().structure_id();
                let first = networks.entry(id).or_insert_with(|| candidate.clone());
                if *first != candidate && duplicates.is_none() {
                    let pair = [&*first, &candidate];
                    duplicates = Some(pair.map(|member| space.trace_of(member).text()));
                }
                macs.push(subnet.graph().macs());
                parameters.push(subnet.graph().parameters());
            }
            Err(error) => {
                holes += 1;
                let text = space.trace_of(&candidate).text();
                hole.get_or_insert_with(|| format!("{text}: {error}"));
            }
        }
        next = match is_complete {
            true => space.next_candidate(&candidate)?,
            false if tried < args.limit => Some(space.sample_candidate_uniform(&mut draws)?),
            false => None,
        };
    }
    let found = Checked {
        counted: Counted::of(&space)?,
        tried,
        is_complete,
        holes,
        hole,
        distinct: members.len(),
        networks: networks.len(),
        duplicates,
        fewest_decisions: depths.iter().copied().min().unwrap_or(0),
        most_decisions: depths.iter().copied().max().unwrap_or(0),
        fewest_macs: macs.iter().copied().min(),
        most_macs: macs.iter().copied().max(),
        fewest_parameters: parameters.iter().copied().min(),
        most_parameters: parameters.iter().copied().max(),
    };
    if args.json {
        print_json(&found);
        return Ok(());
    }
    let counted = &found.counted;
    print(&format!(
        "space {}, hash {}: {} members (10^{:.3}), {} decisions",
        counted.space, counted.hash, counted.members, counted.log10_members, counted.decisions
    ));
    let which = match is_complete {
        true => "all members".to_owned(),
        false => format!("{tried} random members, seed {}", args.seed),
    };
    print(&format!(
        "{which}: {} cannot be built ({}), {} different networks among {} different members",
        found.holes,
        percent(found.holes as f64 / tried as f64),
        found.networks,
        found.distinct
    ));
    if let Some([one, other]) = &found.duplicates {
        print(&format!("for example, {one} and {other} are one network"));
    }
    if let Some(hole) = &found.hole {
        print(&format!("the first that cannot be built: {hole}"));
    }
    let range = |range: (Option<u64>, Option<u64>)| match range {
        (Some(low), Some(high)) => format!("{} to {}", count(low), count(high)),
        _ => "none".into(),
    };
    print(&format!(
        "{} to {} decisions each, {} MACs, {} parameters",
        found.fewest_decisions,
        found.most_decisions,
        range((found.fewest_macs, found.most_macs)),
        range((found.fewest_parameters, found.most_parameters)),
    ));
    Ok(())
}

#[derive(Serialize)]
struct Listed {
    /// As text: it may have hundreds of digits.
    number: String,
    subnet: String,
    id: Option<String>,
    macs: Option<u64>,
    parameters: Option<u64>,
    /// Why it cannot be built, if its shapes do not meet.
    hole: Option<String>,
}

fn listed(space: &Space, candidate: &Candidate) -> Result<Listed> {
    let built = space.subnet_of(candidate);
    let subnet = built.as_ref().ok();
    Ok(Listed {
        number: space.rank_candidate(candidate)?.to_string(),
        subnet: space.trace_of(candidate).text(),
        id: subnet.map(Subnet::id),
        macs: subnet.map(|subnet| subnet.graph().macs()),
        parameters: subnet.map(|subnet| subnet.graph().parameters()),
        hole: built.err().map(|hole| hole.reason()),
    })
}

fn print_list(found: &[Listed], json: bool) {
    if json {
        return print_json(&found);
    }
    let cost = |cost: Option<u64>| cost.map_or(NONE.into(), count);
    let rows = found.iter().map(|one| {
        let hole = one.hole.as_ref();
        let hole = hole.map(|reason| format!(" cannot be built: {reason}"));
        vec![
            one.number.clone(),
            cost(one.macs),
            cost(one.parameters),
            format!("{}{}", one.subnet, hole.unwrap_or_default()),
        ]
    });
    print(&table(&["number", "MACs", "parameters", "subnet"], rows));
}

fn sample(args: &SpaceSampleArgs) -> Result<()> {
    if args.count == 0 {
        return Err(Error::Request("--count must be at least 1".into()));
    }
    let space = space_of(&args.space)?;
    let mut draws = Draws::new(args.seed, "space sample", 0, 0);
    let mut found = Vec::with_capacity(args.count);
    for _ in 0..args.count {
        let candidate = match args.uniform {
            true => space.sample_candidate_uniform(&mut draws)?,
            false => space.sample_candidate(&mut draws)?,
        };
        found.push(listed(&space, &candidate)?);
    }
    print_list(&found, args.json);
    Ok(())
}

fn enumerate(args: &SpaceEnumerateArgs) -> Result<()> {
    let space = space_of(&args.space)?;
    let mut next = Some(space.unrank_candidate(&args.from)?);
    let mut found = Vec::new();
    while let Some(candidate) = next.take().filter(|_| found.len() < args.limit) {
        found.push(listed(&space, &candidate)?);
        next = space.next_candidate(&candidate)?;
    }
    print_list(&found, args.json);
    let left = space.count()? - &args.from - BigUint::from(found.len());
    if !args.json && left > BigUint::ZERO {
        print(&format!("and {left} more (--limit, --from)"));
    }
    Ok(())
}

fn diff(args: &SpaceDiffArgs) -> Result<()> {
    let space = space_of(&args.space)?;
    match (&args.other, &args.subnet[..]) {
        (Some(other), _) => diff_spaces(&space, &space_of(other)?),
        (None, [left, right]) => {
            diff_members(&space.parse_subnet(left)?, &space.parse_subnet(right)?);
            Ok(())
        }
        (None, given) => Err(Error::Request(format!(
            "name another space, or two members of this one by two --subnet, not {}",
            given.len()
        ))),
    }
}

const NONE: &str = "–";

/// Rows of what two lists say of the same names, where they say different things.
fn differences(left: &[(String, String)], right: &[(String, String)]) -> Vec<Vec<String>> {
    let by_name =
        |list: &[(String, String)]| -> HashMap<String, String> { list.iter().cloned().collect() };
    let (lefts, rights) = (by_name(left), by_name(right));
    let new = right.iter().filter(|(name, _)| !lefts.contains_key(name));
    let row = |name: &String| {
        let cell = |from: &HashMap<String, String>| from.get(name).cloned();
        vec![
            name.clone(),
            cell(&lefts).unwrap_or_else(|| NONE.into()),
            cell(&rights).unwrap_or_else(|| NONE.into()),
        ]
    };
    left.iter()
        .chain(new)
        .filter(|(name, _)| lefts.get(name) != rights.get(name))
        .map(|(name, _)| row(name))
        .collect()
}

fn diff_spaces(left: &Space, right: &Space) -> Result<()> {
    let domains = |space: &Space| -> Vec<(String, String)> {
        let slots = space.decisions().iter();
        slots
            .map(|slot| {
                let values: Vec<String> =
                    slot.domain.values.iter().map(ToString::to_string).collect();
                let mark = if slot.domain.ordered {
                    ""
                } else {
                    "unordered "
                };
                (slot.path.clone(), format!("{mark}({})", values.join(", ")))
            })
            .collect()
    };
    let mut rows = vec![
        vec!["hash".into(), left.hash(), right.hash()],
        vec![
            "members".into(),
            left.count()?.to_string(),
            right.count()?.to_string(),
        ],
    ];
    rows.retain(|row| row[1] != row[2]);
    rows.extend(differences(&domains(left), &domains(right)));
    print_differences(left.name(), right.name(), rows);
    Ok(())
}

fn diff_members(left: &Subnet, right: &Subnet) {
    let said = |subnet: &Subnet| -> Vec<(String, String)> {
        let choices = subnet.trace().choices.iter();
        let choices = choices.map(|choice| (choice.path.clone(), choice.value.to_string()));
        let graph = subnet.graph();
        let costs = [
            ("MACs", count(graph.macs())),
            ("parameters", count(graph.parameters())),
            ("peak activations", bytes(graph.peak_activation_bytes())),
        ];
        let layers = graph.nodes.iter().map(|node| {
            let what = format!("{} → {}", operation_name(&node.op), node.shape);
            (format!("layer {}", node.path), what)
        });
        let costs = costs.map(|(name, cost)| (name.to_owned(), cost));
        choices.chain(costs).chain(layers).collect()
    };
    print_differences("first", "second", differences(&said(left), &said(right)));
}

fn print_differences(left: &str, right: &str, rows: Vec<Vec<String>>) {
    match rows.is_empty() {
        true => print("no difference"),
        false => print(&table(&["", left, right], rows)),
    }
}

fn draw(args: &SpaceDrawArgs) -> Result<()> {
    let space = space_of(&args.space)?;
    let subnet = match &args.subnet {
        Some(text) => space.parse_subnet(text)?,
        None => space.sample(&mut Draws::new(args.seed, "space draw", 0, 0))?,
    };
    let svg = drawing(
        &format!("{}: {}", space.name(), subnet.text()),
        subnet.graph(),
    );
    std::fs::write(&args.out, svg).map_err(|source| Error::File {
        action: "write",
        path: args.out.clone(),
        source,
    })?;
    print(&format!(
        "{}: {} of {}",
        args.out.display(),
        subnet.text(),
        space.name()
    ));
    Ok(())
}
