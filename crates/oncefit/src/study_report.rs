//! The pages of studies.

use std::collections::BTreeMap;

use maud::{Markup, PreEscaped, html};
use oncefit_search::statistics::{CurvePoint, Summary, curves};
use oncefit_search::{Outcome, StudyRow, pareto_front};
use oncefit_space::Space;

use crate::blocks::drawing;
use crate::chart::{Chart, Mark, Series};
use crate::error::Result;
use crate::format::duration;
use crate::page::{BLOCKS_EXPLAINED, figure, page};
use crate::study::StudyFolder;
use crate::study_recipe::{ObjectiveKind, StudyRecipe};

/// The best so far, over the seeds.
pub type Curve = Vec<CurvePoint>;

/// The main score of the best trial after each outcome, in the order of the trials. It may fall
/// where a larger budget begins.
pub fn best_so_far(rows: &[StudyRow]) -> Vec<Option<f64>> {
    let mut best: Option<&StudyRow> = None;
    let told = rows.iter().filter(|row| row.outcome.is_some());
    told.map(|row| {
        if row.score().is_some() && best.is_none_or(|best| row.by_merit(best).is_gt()) {
            best = Some(row);
        }
        best.and_then(StudyRow::score)
    })
    .collect()
}

/// As [`best_so_far`], after as much as each full evaluation spends: a trial of a small budget is a
/// part of one, and a training that goes on spends only what is new.
///
/// # Errors
/// If the settings of the study's searcher are illegal.
pub fn best_by_cost(recipe: &StudyRecipe, rows: &[StudyRow]) -> Result<Vec<Option<f64>>> {
    let scores = best_so_far(rows);
    let Some(largest) = recipe.largest_budget()? else {
        return Ok(scores);
    };
    let goes_on = recipe.objective.kind == ObjectiveKind::Train;
    let mut before: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut spent, mut found) = (0u64, Vec::new());
    let told = rows.iter().filter(|row| row.outcome.is_some());
    let mut last = None;
    for (row, score) in told.zip(scores) {
        let budget = row.budget.unwrap_or(largest);
        let begun = before.insert(row.first(), budget).filter(|_| goes_on);
        spent += budget.saturating_sub(begun.unwrap_or(0));
        // What was known when the sum passed a whole number.
        while spent > (found.len() as u64 + 1) * largest {
            found.push(last);
        }
        last = score;
    }
    found.push(last);
    Ok(found)
}

/// A study on one page.
///
/// # Errors
/// If its logs cannot be read.
pub fn study_page(folder: &StudyFolder, command: &str) -> Result<String> {
    let recipe = &folder.recipe;
    let mut seeds = Vec::new();
    for &seed in &recipe.seeds {
        seeds.push((seed, folder.rows(seed)?));
    }
    let each: Vec<Vec<Option<f64>>> = seeds.iter().map(|(_, rows)| best_so_far(rows)).collect();
    let all = || {
        seeds
            .iter()
            .flat_map(|(seed, rows)| rows.iter().map(move |row| (*seed, row)))
    };
    let told = all().filter(|(_, row)| row.outcome.is_some()).count();
    let seconds: f64 = all().map(|(_, row)| row.seconds).sum();
    let mut best: Vec<(u64, &StudyRow)> = all().filter(|(_, row)| row.score().is_some()).collect();
    best.sort_by(|one, other| other.1.by_merit(one.1));
    // The same member may be the best of several seeds.
    let mut members: Vec<(u64, &StudyRow)> = Vec::new();
    for one in best {
        if members.len() < SHOWN && members.iter().all(|other| other.1.subnet != one.1.subnet) {
            members.push(one);
        }
    }
    let space = recipe.build_space()?;
    let drawings: Vec<(String, Markup)> = members
        .iter()
        .filter_map(|(seed, row)| {
            let subnet = space.parse_subnet(&row.subnet).ok()?;
            let said = html! {
                figcaption { "Seed " (seed) ", trial " (row.number) ": " (member_text(&row.subnet)) }
            };
            Some((drawing(subnet.graph(), &row.subnet), said))
        })
        .collect();
    let largest = all()
        .filter(|(_, row)| row.score().is_some())
        .filter_map(|(_, row)| row.budget)
        .max();
    let names = &recipe.objective.names;
    let main = format!("best {} so far", names[0].trim_start_matches('-'));
    Ok(page(
        &recipe.name,
        html! {
            h1 { (recipe.name) }
            p {
                (told) " of " (recipe.trials() * recipe.seeds.len()) " trials over " (recipe.seeds.len())
                " seed(s), " (duration(seconds)) " of evaluations. Space " code { (space.name()) } "."
            }
            h2 { "Best so far" }
            @if each.len() > 1 {
                (figure(&curve_chart(&[("mean".into(), curves(&each))], &each, &main), "Mean over the seeds, and each seed."))
            } @else {
                (figure(&curve_chart(&[("best so far".into(), curves(&each))], &[], &main), match largest {
                    None => "The best score until then.",
                    Some(_) => "The score of the best until then; where a larger budget begins, of the best there.",
                }))
            }
            @if names.len() > 1 {
                h2 { "Trade-off" }
                (figure(&front_chart(all().map(|(_, row)| row).filter(|row| row.budget == largest), names), match largest {
                    None => "Every trial, and those that no other beats in both.",
                    Some(_) => "The trials of the largest budget, and those that no other beats in both.",
                }))
            }
            @if recipe.searcher.kind.has_budgets() {
                h2 { "Rounds" }
                (rounds(recipe, &seeds)?)
            }
            h2 { "The best members" }
            div.wide {
                table {
                    thead { tr { @for name in names { th { (name.trim_start_matches('-')) } } th { "seed" } th { "trial" } @if largest.is_some() { th { "budget" } } } }
                    tbody {
                        @for (seed, row) in &members {
                            tr {
                                @for (score, name) in scores(row).iter().zip(names) { td { (shown(*score, name)) } }
                                td { (seed) } td { (row.number) }
                                @if let Some(budget) = row.budget { td { (budget) } }
                            }
                        }
                    }
                }
            }
            div.charts { @for (drawing, said) in &drawings { figure { (PreEscaped(drawing)) (said) } } }
            @if !drawings.is_empty() { (BLOCKS_EXPLAINED) }
            h2 { "What the values did" }
            (effects(&space, &all().map(|(_, row)| row).collect::<Vec<_>>(), &names[0]))
            h2 { "The study" }
            p { "Made by " code { (command) } ". Every trial stands in " code { "seed-*/study.jsonl" } "." }
            pre { (recipe.to_toml()) }
        },
    ))
}

/// A member's text that may be broken between its decisions.
fn member_text(subnet: &str) -> Markup {
    html! { code { @for (index, part) in subnet.split(':').enumerate() { @if index > 0 { ":" wbr; } (part) } } }
}

/// Decisions shown with the effects of their values.
const EFFECTS: usize = 12;

/// Each value's mean score, less that of all trials of its budget; the decisions that matter most
/// first. Marginal means: other decisions vary along.
fn effects(space: &Space, rows: &[&StudyRow], name: &str) -> Markup {
    let mut budgets: BTreeMap<Option<u64>, Vec<f64>> = BTreeMap::new();
    for row in rows {
        budgets.entry(row.budget).or_default().extend(row.score());
    }
    let mut found: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for row in rows {
        let (Some(score), Some(usual)) = (row.score(), Summary::of(&budgets[&row.budget])) else {
            continue;
        };
        let Ok(subnet) = space.parse_subnet(&row.subnet) else {
            continue;
        };
        for (slot, decision) in space.decisions().iter().enumerate() {
            let value = subnet.trace().get(&decision.path);
            if let Some(index) = value.and_then(|value| decision.domain.position(value)) {
                found
                    .entry((slot, index))
                    .or_default()
                    .push(score - usual.mean);
            }
        }
    }
    let mut decisions: Vec<(f64, Markup)> = Vec::new();
    for (slot, decision) in space.decisions().iter().enumerate() {
        let values: Vec<(String, Summary)> = (0..decision.domain.values.len())
            .filter_map(|index| {
                let scores = found.get(&(slot, index))?;
                Some((
                    decision.domain.values[index].to_string(),
                    Summary::of(scores)?,
                ))
            })
            .collect();
        let count: usize = values.iter().map(|(_, value)| value.count).sum();
        let squares = values
            .iter()
            .map(|(_, value)| value.count as f64 * value.mean.powi(2));
        let spread = (squares.sum::<f64>() / count.max(1) as f64).sqrt();
        if values.len() < 2 {
            continue;
        }
        let said = |value: &Summary| {
            let mean = if name.starts_with('-') {
                -value.mean
            } else {
                value.mean
            };
            match mean.abs() >= 100.0 {
                true => format!("{mean:+.0}"),
                false => format!("{mean:+.4}"),
            }
        };
        let markup = html! {
            tr {
                td { code { (decision.path) } }
                td.text { @for (value, summary) in &values { span.value { code { (value) } " " (said(summary)) " (" (summary.count) ") " } } }
            }
        };
        decisions.push((spread, markup));
    }
    decisions.sort_by(|one, other| other.0.total_cmp(&one.0));
    html! {
        div.wide {
            table {
                thead { tr { th { "decision" } th.text { "value, difference of mean " (name.trim_start_matches('-')) ", trials" } } }
                tbody { @for (_, decision) in decisions.iter().take(EFFECTS) { (decision) } }
            }
        }
        p { "Means over the trials that had the value; other decisions vary along, and a searcher prefers what is good." }
    }
}

/// A table of the rounds of a screening, over all seeds.
fn rounds(recipe: &StudyRecipe, seeds: &[(u64, Vec<StudyRow>)]) -> Result<Markup> {
    let mut lines = Vec::new();
    for (bracket, rounds) in recipe.brackets()?.iter().enumerate() {
        for (round, (planned, budget)) in rounds.iter().enumerate() {
            let here: Vec<&StudyRow> = seeds
                .iter()
                .flat_map(|(_, rows)| rows)
                .filter(|row| {
                    row.outcome.is_some()
                        && row
                            .rung
                            .is_some_and(|rung| (rung.bracket, rung.round) == (bracket, round))
                })
                .collect();
            let scores: Vec<f64> = here.iter().filter_map(|row| row.score()).collect();
            let best = scores.iter().copied().reduce(f64::max);
            let mean = Summary::of(&scores).map(|summary| summary.mean);
            let told = |score: Option<f64>| {
                score.map_or("–".into(), |score| {
                    shown(score, &recipe.objective.names[0])
                })
            };
            lines.push(html! {
                tr {
                    td { (bracket + 1) } td { (round + 1) } td { (budget) }
                    td { (here.len()) " of " (planned * seeds.len()) }
                    td { (told(mean)) } td { (told(best)) }
                }
            });
        }
    }
    Ok(html! {
        div.wide {
            table {
                thead { tr { th { "bracket" } th { "round" } th { "budget" } th { "tried" } th { "mean" } th { "best" } } }
                tbody { @for line in &lines { (line) } }
            }
        }
        p { "The best of each round go on to the next one, with a larger budget." }
    })
}

/// Members shown.
const SHOWN: usize = 5;

fn scores(row: &StudyRow) -> &[f64] {
    row.outcome
        .as_ref()
        .map(Outcome::scores)
        .unwrap_or_default()
}

/// A score as its name says: what is compared is negative where less is better.
pub fn shown(score: f64, name: &str) -> String {
    let value = if name.starts_with('-') { -score } else { score };
    match value.fract() == 0.0 && value.abs() >= 1.0 {
        true => format!("{value}"),
        false => format!("{value:.5}"),
    }
}

fn curve_chart(means: &[(String, Curve)], each: &[Vec<Option<f64>>], label: &str) -> Chart {
    let mut series: Vec<Series> = each
        .iter()
        .enumerate()
        .map(|(seed, curve)| Series {
            name: if seed == 0 {
                "each seed".into()
            } else {
                String::new()
            },
            mark: Mark::Steps,
            colour: 3,
            points: curve
                .iter()
                .enumerate()
                .filter_map(|(place, score)| {
                    let score = (*score)?;
                    Some((
                        (place + 1) as f64,
                        score,
                        format!("{} trials: {score:.5}", place + 1),
                    ))
                })
                .collect(),
        })
        .collect();
    series.extend(means.iter().enumerate().map(|(index, (name, curve))| {
        Series {
            name: name.clone(),
            mark: Mark::Steps,
            colour: [0, 1, 2, 4][index % 4],
            points: curve
                .iter()
                .map(|point| {
                    let [low, _, high] = point.quartiles;
                    let text = format!(
                        "{name}, {} trials: mean {:.5}, quartiles {low:.5} to {high:.5}",
                        point.evaluations, point.summary.mean
                    );
                    (point.evaluations as f64, point.summary.mean, text)
                })
                .collect(),
        }
    }));
    Chart {
        title: label.into(),
        x_label: "trials".into(),
        y_label: label.into(),
        series,
    }
}

fn front_chart<'r>(rows: impl Iterator<Item = &'r StudyRow>, names: &[String]) -> Chart {
    let points: Vec<(f64, f64, String)> = rows
        .filter_map(|row| {
            row.score()?;
            let [first, second, ..] = scores(row) else {
                return None;
            };
            Some((*second, *first, row.subnet.clone()))
        })
        .collect();
    // Both are better when higher; a cost is what is lost.
    let costs: Vec<(f64, f64)> = points.iter().map(|(x, y, _)| (-x, *y)).collect();
    let front = pareto_front(&costs);
    let sign = |name: &str| if name.starts_with('-') { -1.0 } else { 1.0 };
    let (x_sign, y_sign) = (sign(&names[1]), sign(&names[0]));
    let largest = points
        .iter()
        .fold(0.0f64, |most, (x, ..)| most.max(x.abs()));
    let (unit, unit_name) = match largest {
        1e7.. => (1e6, ", million"),
        1e4.. => (1e3, ", thousand"),
        _ => (1.0, ""),
    };
    let drawn = |(x, y, subnet): &(f64, f64, String)| {
        let text = format!("{} · {} · {subnet}", y_sign * y, x_sign * x);
        (x_sign * x / unit, y_sign * y, text)
    };
    let mut on_front: Vec<_> = front.iter().map(|&index| drawn(&points[index])).collect();
    on_front.sort_by(|one, other| one.0.total_cmp(&other.0));
    Chart {
        title: "trade-off of the first two objectives".into(),
        x_label: format!("{}{unit_name}", names[1].trim_start_matches('-')),
        y_label: names[0].trim_start_matches('-').into(),
        series: vec![
            Series {
                name: "trials".into(),
                mark: Mark::Dots,
                colour: 3,
                points: points.iter().map(drawn).collect(),
            },
            Series {
                name: "front".into(),
                mark: Mark::Line,
                colour: 0,
                points: on_front,
            },
        ],
    }
}

/// A page with the curves of several studies.
pub fn comparison_page(studies: &[(String, Curve)], objective: &str, command: &str) -> String {
    let label = format!("best {} so far", objective.trim_start_matches('-'));
    page(
        "Studies compared",
        html! {
            h1 { "Studies compared" }
            (figure(&curve_chart(studies, &[], &label), "Mean over the seeds; quartiles under the pointer."))
            p { "Made by " code { (command) } "." }
        },
    )
}

#[cfg(test)]
mod tests {
    use oncefit_search::Rung;

    use super::*;
    use crate::study_recipe::{SearcherName, SearcherRecipe};

    fn row(number: u64, first: u64, budget: u64, score: f64) -> StudyRow {
        let round = usize::from(number != first);
        StudyRow {
            number,
            subnet: String::new(),
            budget: Some(budget),
            rung: Some(Rung {
                bracket: 0,
                round,
                first,
            }),
            worker: 1,
            outcome: Some(Outcome::of(score)),
            seconds: 1.0,
        }
    }

    #[test]
    fn small_budgets_are_parts_of_a_full_evaluation() {
        let mut recipe = StudyRecipe {
            searcher: SearcherRecipe {
                kind: SearcherName::SuccessiveHalving,
                settings: toml::from_str(
                    "candidates = 3\nbudget = 1\nlargest_budget = 3\nfactor = 3",
                )
                .unwrap(),
            },
            ..StudyRecipe::default()
        };
        // The score on the larger budget counts, although it is lower.
        let rows = [
            row(0, 0, 1, 0.5),
            row(1, 1, 1, 0.9),
            row(2, 2, 1, 0.4),
            row(3, 1, 3, 0.7),
        ];
        let trials = [Some(0.5), Some(0.9), Some(0.9), Some(0.7)];
        assert_eq!(best_so_far(&rows), trials);
        // 1 + 1 + 1, then the 2 thirds that are new of the training that goes on.
        let found = best_by_cost(&recipe, &rows).unwrap();
        assert_eq!(found, [Some(0.9), Some(0.7)]);
        // A supernet's images are predicted anew: 3 + 3 thirds.
        recipe.objective.kind = ObjectiveKind::Run;
        let rows = [&rows[..], &[row(4, 0, 1, 0.8)]].concat();
        let found = best_by_cost(&recipe, &rows).unwrap();
        assert_eq!(found, [Some(0.9), Some(0.7), Some(0.7)]);
    }
}
