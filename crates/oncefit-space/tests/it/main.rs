//! Check values from outside this crate, laws of random spaces, and what errors say.

mod built;
mod envelopes;
mod families;
mod language;
mod laws;
mod members;
mod settings;

use oncefit_space::{Choice, Space, Step, Subnet, Trace};

fn family(name: &str) -> Space {
    Space::builtin(name).unwrap()
}

fn parse(text: &str) -> Space {
    Space::parse(text, "s.space").unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// All members in the order of their numbers, by walking the tree of decisions.
fn enumerate(space: &Space) -> Vec<Subnet> {
    let mut open = vec![Trace::default()];
    let mut members = Vec::new();
    while let Some(trace) = open.pop() {
        match space.step(&trace).unwrap() {
            Step::Decide(slot) => {
                for value in slot.domain.values.iter().rev() {
                    let mut next = trace.clone();
                    next.choices.push(Choice {
                        path: slot.path.clone(),
                        name: slot.name.clone(),
                        value: value.clone(),
                    });
                    open.push(next);
                }
            }
            Step::Done(subnet) => members.push(subnet),
            Step::Hole(reason) => panic!("{reason}"),
        }
    }
    members
}
