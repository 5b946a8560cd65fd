//! Every searcher conforms and beats random search; studies survive kills and are shared.

mod outside;
mod searchers;
mod studies;
