//! Rows of a chunk on their way to lines: predicted in blocks, bad ones noted.

use super::lines::Lines;
use crate::model::{Explainer, Model, ModelError, Refusal, RowError, Scorer};

/// Rows that are predicted together.
const BLOCK: usize = 256;
/// Most bad rows of a chunk whose reasons are kept.
const KEPT_REASONS: usize = 20;

/// What became of a chunk.
#[derive(Default)]
pub struct Part {
    /// Its lines of the output.
    pub lines: Vec<u8>,
    /// Rows in it.
    pub rows: u64,
    /// Rows that could not be read or predicted.
    pub bad: u64,
    /// Place and reason of the first of them.
    pub reasons: Vec<(u64, String)>,
    /// How far the input was read for it: bytes, or rows where the format tells their number.
    pub read: u64,
}

impl Part {
    /// Makes it ready for another chunk; memory is kept.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.reasons.clear();
        (self.rows, self.bad, self.read) = (0, 0, 0);
    }
}

/// Takes rows and makes lines of them.
pub struct Rows<'a> {
    model: &'a Model,
    lines: &'a Lines,
    scorer: Scorer<'a>,
    /// Takes the scorer's place where rows are explained.
    explainer: Option<Explainer<'a>>,
    /// Values of the rows that wait to be predicted together.
    values: Vec<f64>,
    /// Places of the rows that wait, and why a row could not be read; such a one has no values.
    waiting: Vec<(u64, Option<String>)>,
    part: Part,
}

impl<'a> Rows<'a> {
    pub(super) fn new(model: &'a Model, lines: &'a Lines, explain: bool) -> Result<Rows<'a>, ModelError> {
        let (values, waiting) = (Vec::new(), Vec::new());
        let explainer = if explain { Some(model.explainer()?) } else { None };
        Ok(Rows { model, lines, scorer: model.scorer(), explainer, values, waiting, part: Part::default() })
    }

    /// Begins a chunk with the memory of a part that is written.
    pub(super) fn begin(&mut self, part: Part) {
        self.part = part;
        self.part.clear();
    }

    /// Takes the row of a place, or why it could not be read.
    pub(super) fn take(&mut self, place: u64, row: Result<&[f64], String>) {
        match row {
            Ok(row) => {
                self.values.extend_from_slice(row);
                self.waiting.push((place, None));
            }
            Err(reason) => self.waiting.push((place, Some(reason))),
        }
        if self.waiting.len() == BLOCK {
            self.predict();
        }
    }

    /// Ends the chunk.
    pub(super) fn finish(&mut self, read: u64) -> Part {
        self.predict();
        self.part.read = read;
        std::mem::take(&mut self.part)
    }

    /// Makes lines of the rows that wait.
    fn predict(&mut self) {
        match &mut self.explainer {
            Some(explainer) => explainer.explain_block(&self.values),
            None => self.scorer.predict_block(&self.values),
        }
        let explainer = self.explainer.as_ref();
        let scorer = explainer.map_or(&self.scorer, Explainer::scorer);
        self.part.rows += self.waiting.len() as u64;
        let mut predicted = 0;
        for (place, unreadable) in self.waiting.drain(..) {
            let reason = match unreadable {
                Some(reason) => reason,
                None => {
                    let index = predicted;
                    predicted += 1;
                    match scorer.prediction(index) {
                        Ok(prediction) => {
                            self.lines.add(&mut self.part.lines, scorer, index, prediction, explainer);
                            continue;
                        }
                        Err(error) => {
                            let width = self.model.features().len();
                            refusal(self.model, &self.values[width * index..][..width], &error)
                        }
                    }
                }
            };
            self.lines.add_empty(&mut self.part.lines);
            self.part.bad += 1;
            if self.part.reasons.len() < KEPT_REASONS {
                self.part.reasons.push((place, reason));
            }
        }
        self.values.clear();
    }
}

/// What the model refuses of a row.
fn refusal(model: &Model, row: &[f64], error: &RowError) -> String {
    let Some(feature) = error.feature(model) else {
        return "the model has no answer: its values are too large".to_string();
    };
    let name = &model.features()[feature].name;
    match error.refusal {
        Refusal::Missing => format!("{name} is missing"),
        Refusal::TooLarge | Refusal::Undefined => format!("{name} is too large: {:?}", row[feature]),
        Refusal::Unknown => format!("{name} is none of the values that the model knows"),
    }
}
