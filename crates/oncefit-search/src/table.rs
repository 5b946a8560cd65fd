//! Objectives that are looked up: benchmarks, measurements, predictions of another program.

use std::collections::HashMap;

use oncefit_space::{Candidate, Space};

use crate::error::{Result, SearchError};
use crate::outcome::{Outcome, Trial};
use crate::search::Evaluate;

/// What the keys of a table are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableKey {
    /// The compact text of a subnet: `depth=2:kernel=3,5`.
    Text,
    /// The index of each active decision's value, one digit each: `02012100`.
    Digits,
}

/// Scores by key.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Table {
    rows: HashMap<String, Vec<f64>>,
}

impl Table {
    /// Reads `{"key": number}` or `{"key": {"column": number, "list": [number, …]}}`; a column of
    /// a list is written `list[0]`. With bare numbers, `columns` is ignored.
    ///
    /// # Errors
    /// If the text is no such table; the message names the key and the columns there are.
    pub fn from_json(text: &str, name: &str, columns: &[&str]) -> Result<Self> {
        let error = |message: String| SearchError::Table {
            table: name.to_owned(),
            message,
        };
        let values: HashMap<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|problem| error(problem.to_string()))?;
        let mut rows = HashMap::with_capacity(values.len());
        for (key, value) in values {
            let numbers = if let Some(number) = value.as_f64() {
                vec![number]
            } else {
                let each = columns.iter().map(|column| {
                    json_column(&value, column).ok_or_else(|| {
                        let there = value.as_object().map(|fields| {
                            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                            names.join(", ")
                        });
                        error(format!(
                            "`{key}` has no number `{column}`; it has {}",
                            there.unwrap_or_else(|| "no columns".into())
                        ))
                    })
                });
                each.collect::<Result<_>>()?
            };
            rows.insert(key, numbers);
        }
        Ok(Self { rows })
    }

    /// Reads comma-separated values: a line of column names, then lines that begin with a key. A
    /// key that holds commas stands between double quotes.
    ///
    /// # Errors
    /// If the text is no such table; the message names the line.
    pub fn from_csv(text: &str, name: &str, columns: &[&str]) -> Result<Self> {
        let error = |line: usize, message: String| SearchError::Table {
            table: name.to_owned(),
            message: format!("line {line}: {message}"),
        };
        let mut lines = text.lines().enumerate();
        let Some((_, first)) = lines.next() else {
            return Err(error(1, "no column names".into()));
        };
        let names = csv_fields(first);
        let places = columns
            .iter()
            .map(|column| {
                let place = names.iter().position(|other| other == column);
                place.ok_or_else(|| {
                    error(
                        1,
                        format!("no column `{column}`; there are {}", names.join(", ")),
                    )
                })
            })
            .collect::<Result<Vec<usize>>>()?;
        let mut rows = HashMap::new();
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let mut fields = csv_fields(line);
            let numbers = places.iter().map(|&place| {
                let field = fields.get(place).map_or("", String::as_str);
                field
                    .parse::<f64>()
                    .map_err(|_| error(index + 1, format!("`{field}` is no number")))
            });
            let numbers = numbers.collect::<Result<Vec<f64>>>()?;
            rows.insert(fields.swap_remove(0), numbers);
        }
        Ok(Self { rows })
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no key.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The numbers of a key.
    pub fn get(&self, key: &str) -> Option<&[f64]> {
        self.rows.get(key).map(Vec::as_slice)
    }
}

fn json_column(value: &serde_json::Value, column: &str) -> Option<f64> {
    match column
        .strip_suffix(']')
        .and_then(|rest| rest.split_once('['))
    {
        Some((list, index)) => value.get(list)?.get(index.parse::<usize>().ok()?)?.as_f64(),
        None => value.get(column)?.as_f64(),
    }
}

/// The fields of a line of comma-separated values; `""` inside quotes is a quote.
fn csv_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let last = fields.len() - 1;
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                fields[last].push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            other => fields[last].push(other),
        }
    }
    fields.iter().map(|field| field.trim().to_owned()).collect()
}

/// Scores the members of a space by a table; a member that it lacks is a failure.
#[derive(Clone, Debug)]
pub struct TableObjective {
    space: Space,
    table: Table,
    key: TableKey,
    /// Rising; none if every trial is evaluated in full.
    budgets: Vec<u64>,
}

impl TableObjective {
    /// A table for a space.
    pub fn new(space: &Space, table: Table, key: TableKey) -> Self {
        Self {
            space: space.clone(),
            table,
            key,
            budgets: Vec::new(),
        }
    }

    /// The same for a table of learning curves: a row has the same number of scores for each of these
    /// budgets, which rise. A trial without a budget is evaluated at the last one.
    ///
    /// # Errors
    /// If budgets do not rise, or a row has other than `scores` numbers for each.
    pub fn with_budgets(mut self, budgets: &[u64], scores: usize) -> Result<Self> {
        let wanted = budgets.len() * scores;
        let short = self.table.rows.iter().find(|(_, row)| row.len() != wanted);
        if !budgets.is_sorted_by(|one, next| one < next) || budgets.is_empty() {
            return Err(SearchError::Settings(format!(
                "the budgets of a table rise, these are {budgets:?}"
            )));
        }
        if let Some((key, row)) = short {
            return Err(SearchError::Settings(format!(
                "a table with {} budgets and {scores} scores for each needs {wanted} numbers in a row, `{key}` has {}",
                budgets.len(),
                row.len()
            )));
        }
        self.budgets = budgets.to_vec();
        Ok(self)
    }

    /// The scores of a row at a budget.
    fn at_budget<'r>(&self, row: &'r [f64], budget: Option<u64>) -> Option<&'r [f64]> {
        let Some(last) = self.budgets.len().checked_sub(1) else {
            return Some(row);
        };
        let place = match budget {
            None => last,
            Some(budget) => self.budgets.iter().position(|other| *other == budget)?,
        };
        let scores = row.len() / self.budgets.len();
        row.get(place * scores..(place + 1) * scores)
    }

    /// The key of a candidate.
    pub fn key(&self, candidate: &Candidate) -> String {
        match self.key {
            TableKey::Text => self.space.trace_of(candidate).text(),
            TableKey::Digits => candidate
                .active()
                .filter_map(|(_, index)| char::from_digit(index as u32, 36))
                .collect(),
        }
    }

    /// The numbers of a candidate.
    pub fn get(&self, candidate: &Candidate) -> Option<&[f64]> {
        self.table.get(&self.key(candidate))
    }
}

impl Evaluate for TableObjective {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let each = trials.iter().map(|trial| {
            let key = self.key(&trial.candidate);
            let Some(row) = self.table.get(&key) else {
                return Outcome::Failed(format!("the table has no `{key}`"));
            };
            match self.at_budget(row, trial.budget) {
                Some(scores) => Outcome::of_all(scores.to_vec()),
                None => Outcome::Failed(format!(
                    "the table has no budget {}; it has {:?}",
                    trial.budget.unwrap_or(0),
                    self.budgets
                )),
            }
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space::parse("space two\ndecide a in (3, 5)\ndecide b in (1, 2, 4)\ninput(a, a, b)\nglobal_average_pool\nlinear(2)\n", "two").unwrap()
    }

    fn outcome(table: Table, key: TableKey, positions: [usize; 2]) -> Outcome {
        let space = space();
        let candidate = space.candidate(|slot, _| positions[slot]).unwrap();
        let trial = Trial {
            number: 0,
            candidate,
            budget: None,
            rung: None,
        };
        TableObjective::new(&space, table, key)
            .evaluate(&[trial])
            .remove(0)
    }

    #[test]
    fn tables_are_read_from_json_and_csv() {
        let json =
            r#"{"02": {"acc": [0.5, 0.6], "cost": 7}, "11": {"acc": [0.7, 0.8], "cost": 9}}"#;
        let table = Table::from_json(json, "t", &["acc[1]", "cost"]).unwrap();
        assert_eq!(
            outcome(table.clone(), TableKey::Digits, [0, 2]),
            Outcome::of_all(vec![0.6, 7.0])
        );
        let Outcome::Failed(reason) = outcome(table, TableKey::Digits, [1, 0]) else {
            panic!();
        };
        assert!(reason.contains("no `10`"), "{reason}");
        let csv = "subnet,score,other\n\"a=3:b=4\",0.25,x\na=5:b=1,0.75,y\n";
        let table = Table::from_csv(csv, "t", &["score"]).unwrap();
        assert_eq!(outcome(table, TableKey::Text, [0, 2]), Outcome::of(0.25));
    }

    #[test]
    fn learning_curves_have_scores_for_each_budget() {
        let csv = "key,first,cost,last\n02,0.3,7,0.6\n11,0.4,9,0.5\n";
        let columns = ["first", "cost", "last", "cost"];
        let table = Table::from_csv(csv, "t", &columns).unwrap();
        let space = space();
        let curves = TableObjective::new(&space, table.clone(), TableKey::Digits);
        let mut curves = curves.with_budgets(&[1, 9], 2).unwrap();
        let mut at = |budget: Option<u64>| {
            let trial = Trial {
                number: 0,
                candidate: space.candidate(|slot, _| [0, 2][slot]).unwrap(),
                budget,
                rung: None,
            };
            curves.evaluate(&[trial]).remove(0)
        };
        assert_eq!(at(Some(1)), Outcome::of_all(vec![0.3, 7.0]));
        assert_eq!(at(Some(9)), Outcome::of_all(vec![0.6, 7.0]));
        assert_eq!(at(None), at(Some(9)));
        let Outcome::Failed(reason) = at(Some(3)) else {
            panic!();
        };
        assert!(reason.contains("no budget 3; it has [1, 9]"), "{reason}");
        for (budgets, part) in [
            (&[9, 1][..], "rise"),
            (&[], "rise"),
            (&[1, 3, 9], "needs 6 numbers in a row"),
        ] {
            let curves = TableObjective::new(&space, table.clone(), TableKey::Digits);
            let message = curves.with_budgets(budgets, 2).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn wrong_tables_say_where() {
        for (result, part) in [
            (
                Table::from_json(r#"{"0": {"a": 1}}"#, "t", &["b"]),
                "`0` has no number `b`; it has a",
            ),
            (Table::from_json("[]", "t", &["b"]), "invalid type"),
            (Table::from_csv("k,a\n", "t", &["b"]), "no column `b`"),
            (
                Table::from_csv("k,a\nx,?\n", "t", &["a"]),
                "line 2: `?` is no number",
            ),
        ] {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
