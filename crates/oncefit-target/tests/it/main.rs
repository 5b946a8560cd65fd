//! Laws and workflows of targets.

mod costs;
