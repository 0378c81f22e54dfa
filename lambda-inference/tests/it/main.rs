//! The predictor from outside: the model file, requests, and both programs.

mod bootstrap;
mod builder;
mod corpus;
mod explain;
mod model_file;
#[cfg(feature = "parquet")]
mod parquet;
mod paths;
mod requests;
mod rows;
mod score;
