//! Laws and workflows of targets.

mod costs;
mod ofa_tables;
mod predictors;
mod workflows;
