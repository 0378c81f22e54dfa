//! The predictor: reads a model file, checks an application against it, and predicts what the library that trained the
//! model predicts, bit for bit.
//!
//! [`Model`] is a model file that was checked once and is used in place. [`request`] turns an event of the function into a
//! row of feature values or into an error that names the field, and a prediction into an answer. [`runtime_api`] brings
//! events and takes answers. [`batch`] scores files of any size.

pub mod batch;
pub mod model;
pub mod request;
pub mod runtime_api;

pub use model::{
    Explainer, Explanation, Feature, FeatureKind, Model, ModelError, Prediction, Reason, Refusal, RowError, Scorer,
};
