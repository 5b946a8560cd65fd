//! Drawing the networks of a step.
//!
//! All networks of a step read the same batch, so they share one resolution. A phase of a training
//! may open only some values of a decision ([`StepSpace::new`]); what is drawn are members of the
//! whole space.

use std::collections::{BTreeMap, HashMap};

use oncefit_random::Draws;
use oncefit_space::{DecisionSlot, Space, SpaceError, Subnet, Value};

/// Name of the shared decision that sets the input size.
pub const RESOLUTION: &str = "resolution";

/// How a random network of a step is drawn.
#[derive(Clone, PartialEq, Debug)]
pub enum Sampler {
    /// Every decision uniform (Once-for-All).
    Uniform,
    /// The named decisions of a block take the rank of their unit's depth: the shallowest unit has
    /// the narrowest blocks (CompOFA). Others are uniform.
    Compound {
        /// Names of the decisions that follow: `expand`.
        follow: Vec<String>,
    },
    /// Several networks with about the same MACs are tried on the batch and one is trained
    /// (AttentiveNAS).
    BestOf {
        /// How many are tried.
        candidates: usize,
        /// Which one is trained.
        pick: Pick,
    },
}

/// Which of several candidates is trained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick {
    /// The one with the lowest loss on the batch (BestUp).
    Best,
    /// The one with the highest (WorstUp).
    Worst,
}

/// How many networks stand for the distribution of MACs.
const POOL: u64 = 500;
/// Networks whose MACs lie in the same one of so many equal intervals have "about the same".
const INTERVALS: u64 = 32;
/// Draws spent on finding a candidate with the wanted MACs before a member of the pool is taken.
const TRIES: usize = 64;

/// A space as one phase of a training draws from it.
#[derive(Clone, Debug)]
pub struct StepSpace {
    space: Space,
    sampler: Sampler,
    /// Which indices of a decision's values are open; absent: all.
    open: HashMap<String, Vec<usize>>,
    /// The values of [`RESOLUTION`]; one `None` where the space has no such decision.
    resolutions: Vec<Option<Value>>,
    /// Largest and smallest member at each resolution.
    ends: Vec<(Subnet, Subnet)>,
    /// Largest member of the whole space at each resolution.
    whole_largest: Vec<Subnet>,
    /// For [`Sampler::BestOf`]: members at each resolution.
    pools: Vec<Vec<Subnet>>,
}

impl StepSpace {
    /// A space to draw from, where the decisions named in `open` take only the given values.
    ///
    /// # Errors
    /// If a decision or value of `open` does not exist, or a member cannot be built.
    pub fn new(
        space: &Space,
        open: &BTreeMap<String, Vec<Value>>,
        sampler: Sampler,
    ) -> Result<Self, SpaceError> {
        let mut indices = HashMap::new();
        for (name, values) in open {
            // Says what is wrong with a name or a value.
            space.restrict(name, values)?;
            let is_meant = |slot: &&DecisionSlot| slot.name == *name || slot.path == *name;
            for slot in space.decisions().iter().filter(is_meant) {
                let positions = values
                    .iter()
                    .filter_map(|value| slot.domain.position(value));
                indices.insert(slot.path.clone(), positions.collect::<Vec<_>>());
            }
        }
        let resolutions: Vec<Option<Value>> = space
            .decisions()
            .iter()
            .find(|slot| slot.path == RESOLUTION)
            .map_or(vec![None], |slot| {
                open_indices(&indices, slot)
                    .into_iter()
                    .map(|index| Some(slot.domain.values[index].clone()))
                    .collect()
            });
        let mut step_space = Self {
            space: space.clone(),
            sampler,
            open: indices,
            resolutions,
            ends: Vec::new(),
            whole_largest: Vec::new(),
            pools: Vec::new(),
        };
        let (largest, smallest) = (space.largest()?, space.smallest()?);
        for resolution in 0..step_space.resolutions() {
            let end = |like: &Subnet, prefers_large| {
                step_space.build_at(resolution, |slot, open| {
                    let wanted = like.trace().get(&slot.path);
                    let wanted = wanted.and_then(|value| slot.domain.position(value));
                    wanted
                        .filter(|index| open.contains(index))
                        .unwrap_or_else(|| {
                            let value = |index: &&usize| &slot.domain.values[**index];
                            let found = match prefers_large {
                                true => open.iter().max_by_key(value),
                                false => open.iter().min_by_key(value),
                            };
                            found.copied().unwrap_or(0)
                        })
                })
            };
            let ends = (end(&largest, true)?, end(&smallest, false)?);
            step_space.ends.push(ends);
            let whole = step_space.at_resolution(&largest, resolution)?;
            step_space.whole_largest.push(whole);
        }
        if matches!(step_space.sampler, Sampler::BestOf { .. }) {
            for resolution in 0..step_space.resolutions() {
                // The distribution of MACs belongs to the space, not to the run.
                let draw = |index| {
                    let mut draws = Draws::new(0, "distribution of MACs", 0, index);
                    step_space.uniform(resolution, &mut draws)
                };
                let pool = (0..POOL).map(draw).collect::<Result<_, _>>()?;
                step_space.pools.push(pool);
            }
        }
        Ok(step_space)
    }

    /// The whole space, every value open, every decision uniform.
    ///
    /// # Errors
    /// If a member cannot be built.
    pub fn whole(space: &Space) -> Result<Self, SpaceError> {
        Self::new(space, &BTreeMap::new(), Sampler::Uniform)
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// How many resolutions there are.
    pub fn resolutions(&self) -> usize {
        self.resolutions.len()
    }

    /// Rows and columns of the images at a resolution.
    pub fn image_size(&self, resolution: usize) -> usize {
        self.ends[resolution].0.graph().input_shape().height
    }

    /// The largest member at a resolution.
    pub fn largest(&self, resolution: usize) -> &Subnet {
        &self.ends[resolution].0
    }

    /// The largest member of the whole space at a resolution, whatever is open.
    pub fn whole_largest(&self, resolution: usize) -> &Subnet {
        &self.whole_largest[resolution]
    }

    /// The smallest member at a resolution.
    pub fn smallest(&self, resolution: usize) -> &Subnet {
        &self.ends[resolution].1
    }

    /// Random members at a resolution, of which one is to be trained (see [`StepSpace::pick`]).
    ///
    /// # Errors
    /// If a member cannot be built.
    pub fn sample(&self, resolution: usize, draws: &mut Draws) -> Result<Vec<Subnet>, SpaceError> {
        match &self.sampler {
            Sampler::Uniform => Ok(vec![self.uniform(resolution, draws)?]),
            Sampler::Compound { follow } => Ok(vec![self.compound(resolution, follow, draws)?]),
            Sampler::BestOf { candidates, .. } => self.alike(resolution, *candidates, draws),
        }
    }

    /// Which of several candidates is trained.
    pub fn pick(&self) -> Pick {
        match self.sampler {
            Sampler::BestOf { pick, .. } => pick,
            _ => Pick::Best,
        }
    }

    /// `subnet` with the input size of a resolution.
    ///
    /// # Errors
    /// If the member cannot be built.
    pub fn at_resolution(&self, subnet: &Subnet, resolution: usize) -> Result<Subnet, SpaceError> {
        at_resolution(&self.space, subnet, self.resolutions[resolution].as_ref())
    }

    /// A member at a resolution; `choose` gets each decision with the indices that are open.
    fn build_at(
        &self,
        resolution: usize,
        mut choose: impl FnMut(&DecisionSlot, &[usize]) -> usize,
    ) -> Result<Subnet, SpaceError> {
        let fixed = self.resolutions[resolution].as_ref();
        self.space.build(&mut |slot| match fixed {
            Some(value) if slot.path == RESOLUTION => slot.domain.position(value).unwrap_or(0),
            _ => choose(slot, &open_indices(&self.open, slot)),
        })
    }

    fn uniform(&self, resolution: usize, draws: &mut Draws) -> Result<Subnet, SpaceError> {
        self.build_at(resolution, |_, open| open[draws.below(open.len())])
    }

    fn compound(
        &self,
        resolution: usize,
        follow: &[String],
        draws: &mut Draws,
    ) -> Result<Subnet, SpaceError> {
        // Rank of a unit's own decision, among how many, by the unit's path.
        let mut ranks: HashMap<String, (usize, usize)> = HashMap::new();
        self.build_at(resolution, |slot, open| {
            let unit = slot.path.split_once('[').map(|(unit, _)| unit);
            let leader = unit.and_then(|unit| ranks.get(unit));
            match leader {
                Some(&(rank, of)) if follow.contains(&slot.name) => {
                    let last = open.len() - 1;
                    open[(rank * last + (of - 1) / 2) / (of - 1).max(1)]
                }
                _ => {
                    let rank = draws.below(open.len());
                    if let Some((unit, _)) = slot.path.rsplit_once('.')
                        && !unit.contains('[')
                    {
                        ranks.insert(unit.to_owned(), (rank, open.len()));
                    }
                    open[rank]
                }
            }
        })
    }

    /// `count` members with about the MACs of a random one, which is the first.
    fn alike(
        &self,
        resolution: usize,
        count: usize,
        draws: &mut Draws,
    ) -> Result<Vec<Subnet>, SpaceError> {
        let pool = &self.pools[resolution];
        let (least, most) = (
            self.smallest(resolution).graph().macs(),
            self.largest(resolution).graph().macs(),
        );
        let interval = |subnet: &Subnet| {
            let macs = subnet.graph().macs().saturating_sub(least);
            macs * INTERVALS / (most.saturating_sub(least) + 1)
        };
        let first = pool[draws.below(pool.len())].clone();
        let wanted = interval(&first);
        let neighbours: Vec<&Subnet> = pool.iter().filter(|one| interval(one) == wanted).collect();
        let mut found = vec![first];
        'candidates: while found.len() < count {
            for _ in 0..TRIES {
                let subnet = self.uniform(resolution, draws)?;
                if interval(&subnet) == wanted {
                    found.push(subnet);
                    continue 'candidates;
                }
            }
            found.push(neighbours[draws.below(neighbours.len())].clone());
        }
        Ok(found)
    }
}

fn open_indices(open: &HashMap<String, Vec<usize>>, slot: &DecisionSlot) -> Vec<usize> {
    match open.get(&slot.path) {
        Some(indices) => indices.clone(),
        None => (0..slot.domain.values.len()).collect(),
    }
}

/// `subnet` with another input resolution (`None`: as it is).
///
/// # Errors
/// If the member cannot be built.
pub fn at_resolution(
    space: &Space,
    subnet: &Subnet,
    resolution: Option<&Value>,
) -> Result<Subnet, SpaceError> {
    space.build(&mut |slot| {
        let value = match resolution {
            Some(value) if slot.path == RESOLUTION => Some(value),
            _ => subnet.trace().get(&slot.path),
        };
        value
            .and_then(|value| slot.domain.position(value))
            .unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nano() -> Space {
        Space::builtin("fm-nano").unwrap()
    }

    fn open(name: &str, values: &[i64]) -> BTreeMap<String, Vec<Value>> {
        let values = values.iter().map(|value| Value::Int(*value)).collect();
        BTreeMap::from([(name.to_owned(), values)])
    }

    fn values(subnet: &Subnet, name: &str) -> Vec<i64> {
        let space = nano();
        let slots = space.decisions().iter().filter(|slot| slot.name == name);
        slots
            .filter_map(|slot| subnet.trace().get(&slot.path)?.as_f64())
            .map(|value| value as i64)
            .collect()
    }

    #[test]
    fn closed_values_are_never_drawn_and_ends_respect_them() {
        let space = StepSpace::new(&nano(), &open("kernel", &[3, 5]), Sampler::Uniform).unwrap();
        assert!(values(space.largest(2), "kernel").iter().all(|k| *k == 5));
        assert!(values(space.smallest(2), "kernel").iter().all(|k| *k == 3));
        assert_eq!(values(space.largest(2), "depth"), [3, 3, 3]);
        for index in 0..50 {
            let mut draws = Draws::new(1, "test", 0, index);
            let subnet = space.sample(0, &mut draws).unwrap().swap_remove(0);
            assert!(values(&subnet, "kernel").iter().all(|kernel| *kernel < 7));
            assert_eq!(subnet.graph().input_shape().height, 20);
        }
        let error = StepSpace::new(&nano(), &open("kernel", &[4]), Sampler::Uniform).unwrap_err();
        assert!(error.to_string().contains("3, 5, 7"), "{error}");
    }

    /// Every value of every decision is drawn equally often: χ² with 2 degrees of freedom stays
    /// below its 99.9 % quantile, 13.8, for each decision that is always there.
    #[test]
    fn uniform_draws_are_uniform() {
        let space = StepSpace::whole(&nano()).unwrap();
        let mut counts: HashMap<String, [f64; 3]> = HashMap::new();
        let draws = 3000;
        for index in 0..draws {
            let mut draws = Draws::new(4, "test", 0, index);
            let subnet = space.sample(1, &mut draws).unwrap().swap_remove(0);
            for slot in nano().decisions() {
                if let Some(value) = subnet.trace().get(&slot.path) {
                    let rank = slot.domain.position(value).unwrap();
                    counts.entry(slot.path.clone()).or_default()[rank] += 1.0;
                }
            }
        }
        for (path, counts) in counts.iter().filter(|(path, _)| *path != RESOLUTION) {
            let total: f64 = counts.iter().sum();
            if total < draws as f64 {
                continue;
            }
            let expected = total / 3.0;
            let squares = counts.iter().map(|count| (count - expected).powi(2));
            let chi_squared = squares.sum::<f64>() / expected;
            assert!(chi_squared < 13.8, "{path}: {counts:?}");
        }
    }

    #[test]
    fn compound_networks_have_widths_that_follow_their_depth() {
        let sampler = Sampler::Compound {
            follow: vec!["expand".into()],
        };
        let space = StepSpace::new(&nano(), &open("kernel", &[5]), sampler).unwrap();
        let mut seen = std::collections::HashSet::new();
        for index in 0..400 {
            let mut draws = Draws::new(1, "test", 0, index);
            let subnet = space.sample(2, &mut draws).unwrap().swap_remove(0);
            for unit in 1..=3 {
                let value = |path: String| subnet.trace().get(&path)?.as_f64();
                let depth = value(format!("unit{unit}.depth")).unwrap() as usize;
                for block in 0..depth {
                    let expand = value(format!("unit{unit}[{block}].expand")).unwrap();
                    assert_eq!(expand, [3.0, 4.0, 6.0][depth - 1]);
                }
            }
            seen.insert(subnet.text());
        }
        assert_eq!(seen.len(), 27, "3³ networks");
    }

    #[test]
    fn candidates_have_about_the_same_macs() {
        let sampler = Sampler::BestOf {
            candidates: 4,
            pick: Pick::Worst,
        };
        let space = StepSpace::new(&nano(), &BTreeMap::new(), sampler).unwrap();
        let range = space.largest(1).graph().macs() - space.smallest(1).graph().macs();
        let mut firsts = Vec::new();
        for index in 0..20 {
            let mut draws = Draws::new(1, "test", 0, index);
            let found = space.sample(1, &mut draws).unwrap();
            assert_eq!(found.len(), 4);
            let macs = found.iter().map(|subnet| subnet.graph().macs());
            let (least, most) = (macs.clone().min().unwrap(), macs.max().unwrap());
            assert!(most - least <= range / INTERVALS + 1);
            firsts.push(found[0].text());
        }
        firsts.sort();
        firsts.dedup();
        assert!(firsts.len() > 15);
        assert_eq!(space.pick(), Pick::Worst);
    }
}
