//! What has to hold for any input, good or hostile: model files, requests, rows of files and answers of the Runtime API, each held
//! against another reader or against another way to the same answer. The tests here and the fuzz targets of `fuzz/` ask the same
//! questions.

pub mod answers;
pub mod builder;
mod json;
pub mod models;
pub mod requests;
pub mod rows;
