//! The predictor from outside: the model file, requests, and both programs.

mod answers;
mod bootstrap;
mod corpus;
mod explain;
mod model_file;
mod mutate;
#[cfg(feature = "parquet")]
mod parquet;
mod paths;
mod place;
mod refusals;
mod requests;
mod rows;
mod score;
mod score_files;

#[path = "../oracle/mod.rs"]
mod oracle;
use oracle::builder;
