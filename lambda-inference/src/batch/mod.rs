//! Batch scoring: chunks of whole records are read in turn, scored by many threads, and written in the order of the input.
//!
//! An [`Input`] is a source, which only cuts the input into chunks, and a decoder, which makes rows of a chunk; the first is
//! used by one thread at a time, the second by all at once. Memory is bounded by the number of threads, whatever the size of the
//! input. The output is the same for any number of threads.

mod chunks;
mod csv;
mod lines;
mod ndjson;
#[cfg(feature = "parquet")]
mod parquet;
mod pipeline;
mod rows;
mod values;

use std::{fmt, io};

use crate::model::ModelError;

pub use csv::csv;
pub use ndjson::ndjson;
#[cfg(feature = "parquet")]
pub use parquet::parquet;
pub use pipeline::{Settings, Totals, score};
pub use rows::{Part, Rows};

/// Rows to score, in one of the formats.
pub struct Input<'a> {
    source: Box<dyn Source + 'a>,
    decoder: Box<dyn Decoder + 'a>,
    /// What a row's place is called: `line` or `row`.
    pub place: &'static str,
    /// Columns that the model does not have.
    pub ignored: usize,
    /// Rows there are, if the format tells before they are read.
    pub rows: Option<u64>,
}

/// Whole records that follow each other in the input.
#[derive(Default)]
pub struct Chunk {
    /// Their bytes, where the format is text.
    bytes: Vec<u8>,
    /// Their values, row after row, where the source has them.
    #[cfg(feature = "parquet")]
    values: Vec<f64>,
    /// Line of the first byte, or number of the first row, from 1.
    first: u64,
    /// How far the input was read for it: bytes or rows.
    read: u64,
}

/// What cuts the input into chunks, in order.
trait Source: Send {
    /// Fills a chunk; false at the end of the input.
    fn next(&mut self, chunk: &mut Chunk) -> Result<bool, String>;
}

/// What makes rows of a chunk.
trait Decoder: Sync {
    /// Hands every row of the chunk, or why it could not be read, to `rows`.
    fn decode(&self, chunk: &Chunk, rows: &mut Rows<'_>);
}

/// Why a batch was not scored to its end.
#[derive(Debug)]
pub enum BatchError {
    /// The input could not be read further; all rows before are in the output.
    Input(String),
    /// The output took no more.
    Output(io::Error),
    /// Rows were to be explained, and the model has no explanations.
    Model(ModelError),
}

impl fmt::Display for BatchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::Input(reason) => formatter.write_str(reason),
            BatchError::Output(error) => write!(formatter, "write: {error}"),
            BatchError::Model(error) => write!(formatter, "explain: {error}"),
        }
    }
}

impl std::error::Error for BatchError {}
