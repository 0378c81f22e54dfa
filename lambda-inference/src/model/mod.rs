//! The model file, format version 3 (see MODEL_FORMAT.md): checked once, then used without parsing.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

mod blend;
mod bytes;
mod cuts;
#[cfg(target_arch = "x86_64")]
mod eight;
mod explain;
mod fast;
mod features;
mod frame;
mod jump;
mod leaves;
mod links;
mod nodes;
mod ranks;
mod steps;
mod sums;
mod table;

use bytes::Bytes;
use explain::Plan;
pub use explain::{Explainer, Explanation, Reason};
pub use features::{Feature, FeatureKind};
use frame::{Sections, f64_at, sections, u32_at, u64_at};
use nodes::Nodes;
use steps::{Kind, Parts, Step};
use sums::Memory;
use table::{Cells, Table};

#[cfg(target_endian = "big")]
compile_error!("a model file is little-endian and used in place");

const MODEL: usize = 32;
/// Most nodes and cells of a model whose table is made at once: that takes some microseconds.
const FEW_NODES: usize = 64;
const FEW_CELLS: usize = 64;
/// Rows for each cell that the steps must have computed before a greater table is made.
const ROWS_A_CELL: u64 = 2;
/// Rows that the steps must have computed before a greater model's cells are counted.
const ROWS_BEFORE_CELLS: u64 = 256;
/// Cells that are computed together.
const BLOCK: usize = 256;

/// Why a file is no model that this program can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelError(String);

impl fmt::Display for ModelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ModelError {}

fn refused<T>(reason: impl Into<String>) -> Result<T, ModelError> {
    Err(ModelError(reason.into()))
}

/// What the model says of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Label of the predicted class.
    pub class: i64,
    /// Probability of the positive class, in [0, 1].
    pub probability: f64,
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is missing, and the model has no answer to that.
    Missing,
    /// It is infinite, or too large for the precision in which the library computes.
    TooLarge,
    /// It is a category that was not there in training.
    Unknown,
    /// No probability comes out.
    Undefined,
}

/// Why a row has no prediction: what the library itself would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowError {
    slot: usize,
    /// What is wrong.
    pub refusal: Refusal,
}

impl RowError {
    /// Index of the feature whose value is wrong, be it as the row has it or scaled, filled in or coded; none if it is a value
    /// computed from several.
    pub fn feature(&self, model: &Model) -> Option<usize> {
        let mut slot = self.slot;
        // Steps read what was written before them: the last ones come first.
        for step in model.steps.iter().rev().filter(|step| !step.output.is_empty()) {
            if step.output.contains(&slot) {
                slot = step.source(model.parts(), slot)?;
            }
        }
        Some(slot)
    }
}

/// A checked model file.
pub struct Model {
    bytes: Bytes,
    sections: Sections,
    digest: String,
    features: Vec<Feature>,
    classes: Vec<i64>,
    positive: usize,
    steps: Vec<Step>,
    slots: usize,
    probabilities: Range<usize>,
    decision: Decision,
    /// Rows so far that the steps computed.
    rows: AtomicU64,
    cells: OnceLock<Option<Arc<Cells>>>,
    table: OnceLock<Table>,
    /// For explanations, made when the first is asked for.
    plan: OnceLock<Result<Plan, ModelError>>,
}

/// How the class follows from the slots.
#[derive(Clone, Copy)]
enum Decision {
    /// The first of the greatest values from this slot on, one a class.
    Greatest(usize),
    /// Of two classes the second if the slot is greater than the threshold.
    Above(usize, f64),
    /// Of two classes the second if the slot is not less than the threshold.
    AtLeast(usize, f64),
    /// Of two classes the first if the slot is not less than the threshold.
    FirstAtLeast(usize, f64),
}

impl Decision {
    /// The first slot that it looks at.
    fn slot(self) -> usize {
        match self {
            Decision::Greatest(slot)
            | Decision::Above(slot, _)
            | Decision::AtLeast(slot, _)
            | Decision::FirstAtLeast(slot, _) => slot,
        }
    }
}

impl Model {
    /// Checks a file's bytes: header, hash, section table, and every index that scoring will follow.
    ///
    /// # Errors
    /// The reason why the file is refused; nothing of a refused file is used.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model, ModelError> {
        Model::new(Bytes::copy(bytes), None)
    }

    /// The same for a file, whose pages are used where they are. `digest` is what [`Model::digest`] shall say, from somebody who
    /// has computed it before: for a large file that takes longer than everything else. Without it, it is computed.
    ///
    /// # Errors
    /// The file cannot be mapped, or is refused.
    ///
    /// # Safety
    /// Nobody changes or shortens the file as long as the model lives.
    pub unsafe fn map(file: &File, digest: Option<String>) -> io::Result<Result<Model, ModelError>> {
        // SAFETY: the caller promises it.
        let bytes = unsafe { Bytes::map(file) }?;
        Ok(Model::new(bytes, digest))
    }

    fn new(content: Bytes, digest: Option<String>) -> Result<Model, ModelError> {
        let bytes = content.as_slice();
        let sections = sections(bytes)?;
        let metadata = std::str::from_utf8(&bytes[sections.metadata.clone()]);
        if !metadata.is_ok_and(|text| text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()) {
            return refused("the metadata is no JSON object");
        }
        let features = features::read(bytes, &sections)?;
        let classes: Vec<i64> =
            bytes[sections.classes.clone()].chunks_exact(8).map(|label| u64_at(label, 0).cast_signed()).collect();
        let record = &bytes[sections.model.clone()];
        if record.len() != MODEL {
            return refused("there is not exactly one model record");
        }
        let positive = u32_at(record, 8) as usize;
        let different: HashSet<&i64> = classes.iter().collect();
        if different.len() != classes.len() || positive >= classes.len() {
            return refused("the classes are not different ones with the positive one among them");
        }
        let mut model = Model {
            digest: digest.unwrap_or_else(|| format!("sha256:{}", hex::encode(Sha256::digest(bytes)))),
            features,
            classes,
            positive,
            steps: Vec::new(),
            slots: 0,
            probabilities: 0..0,
            decision: Decision::Greatest(0),
            plan: OnceLock::new(),
            sections,
            rows: AtomicU64::new(0),
            cells: OnceLock::new(),
            table: OnceLock::new(),
            bytes: content,
        };
        let records = model.section(&model.sections.steps);
        let (steps, slots) = steps::read(records, model.features.len(), model.parts())?;
        (model.steps, model.slots) = (steps, slots);
        model.read_outcome()?;
        model.check_weights()?;
        if model.parts().nodes.nodes.len() <= FEW_NODES {
            model.make_table(|cells| cells.count() <= FEW_CELLS);
        }
        Ok(model)
    }

    /// Makes the table of all answers, if there can be one and it is worth it.
    fn make_table(&self, worth: impl Fn(&Cells) -> bool) {
        let cells = self.cells.get_or_init(|| self.find_cells());
        if self.table.get().is_none()
            && let Some(cells) = cells.as_ref().filter(|cells| worth(cells))
        {
            self.table.get_or_init(|| self.scorer().table(cells));
        }
    }

    fn find_cells(&self) -> Option<Arc<Cells>> {
        let answered = self.probabilities.start.min(self.decision.slot());
        let cells = Cells::new(&self.steps, self.features.len(), self.parts());
        cells.filter(|_| answered >= self.features.len()).map(Arc::new)
    }

    /// Reads where the steps leave the answer.
    fn read_outcome(&mut self) -> Result<(), ModelError> {
        let record = self.section(&self.sections.model);
        let field = |index: usize| u32_at(record, 4 * index) as usize;
        let (slots, classes) = (self.slots, self.classes.len());
        if field(0) != slots || field(5) != 0 {
            return refused(format!("the model record says {} slots, the steps have {slots}", field(0)));
        }
        let inside = |begin: usize, count: usize| begin.checked_add(count).is_some_and(|end| end <= slots);
        let (first, kind, slot, threshold) = (field(1), field(3), field(4), f64_at(record, 24));
        let with_threshold = kind != 0;
        if !inside(first, classes) || !inside(slot, if with_threshold { 1 } else { classes }) {
            return refused("the answer lies outside the slots");
        }
        if (with_threshold && classes != 2) || (!with_threshold && threshold.to_bits() != 0) || threshold.is_nan() {
            return refused("the decision's threshold does not fit the classes");
        }
        self.probabilities = first..first + classes;
        self.decision = match kind {
            0 => Decision::Greatest(slot),
            1 => Decision::Above(slot, threshold),
            2 => Decision::AtLeast(slot, threshold),
            3 => Decision::FirstAtLeast(slot, threshold),
            other => return refused(format!("decision {other} is not known to this program")),
        };
        Ok(())
    }

    /// Checks what explanations divide by and subtract, if the file has it.
    fn check_weights(&self) -> Result<(), ModelError> {
        let parts = self.parts();
        let linear: usize =
            self.steps.iter().filter(|step| step.kind == Kind::Linear).map(|step| step.input.len()).sum();
        if !parts.means.is_empty() && (parts.means.len() != linear || !parts.means.iter().all(|mean| mean.is_finite()))
        {
            return refused("the training means are not finite ones of what the linear steps read");
        }
        if parts.covers.is_empty() { Ok(()) } else { nodes::check_covers(parts.nodes.nodes, parts.covers) }
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            numbers: bytemuck::cast_slice(self.section(&self.sections.numbers)),
            indices: bytemuck::cast_slice(self.section(&self.sections.indices)),
            trees: bytemuck::cast_slice(self.section(&self.sections.trees)),
            nodes: Nodes {
                nodes: bytemuck::cast_slice(self.section(&self.sections.nodes)),
                bitsets: bytemuck::cast_slice(self.section(&self.sections.bitsets)),
            },
            covers: bytemuck::cast_slice(self.section(&self.sections.covers)),
            means: bytemuck::cast_slice(self.section(&self.sections.means)),
        }
    }

    fn section(&self, place: &Range<usize>) -> &[u8] {
        &self.bytes.as_slice()[place.clone()]
    }

    /// SHA-256 of the whole file as `sha256:<64 hex digits>`: the model's identity.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The features, in the order of a row.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The class labels, in the library's order.
    pub fn classes(&self) -> &[i64] {
        &self.classes
    }

    /// Label of the positive class.
    pub fn positive_class(&self) -> i64 {
        self.classes[self.positive]
    }

    /// The metadata, JSON.
    pub fn metadata(&self) -> &str {
        std::str::from_utf8(self.section(&self.sections.metadata)).unwrap_or_default()
    }

    /// What predicts row after row without asking for memory again.
    pub fn scorer(&self) -> Scorer<'_> {
        let memories = self.steps.iter().map(|_| Memory::default()).collect();
        Scorer { model: self, parts: self.parts(), slots: Vec::new(), failed: Vec::new(), memories, cells: Vec::new() }
    }

    /// Predicts one row; see [`Scorer::predict`].
    ///
    /// # Errors
    /// As [`Scorer::predict`].
    ///
    /// # Panics
    /// As [`Scorer::predict`].
    pub fn predict(&self, row: &[f64]) -> Result<Prediction, RowError> {
        assert_eq!(row.len(), self.features.len(), "a row has one value for each feature");
        match self.table.get().and_then(|table| Some((table, table.cell(row)?))) {
            Some((table, cell)) => table.answer(cell),
            None => self.scorer().predict(row),
        }
    }
}

/// A model with the memory that a row's computation needs.
pub struct Scorer<'a> {
    model: &'a Model,
    parts: Parts<'a>,
    /// Those of one row after those of another.
    slots: Vec<f64>,
    failed: Vec<Option<RowError>>,
    memories: Vec<Memory>,
    /// The table's cells of the last block's rows; empty if the steps computed it.
    cells: Vec<u32>,
}

impl Scorer<'_> {
    /// Predicts one row of as many values as there are features; NaN is a missing value.
    ///
    /// # Errors
    /// The row has a value that the library refuses.
    ///
    /// # Panics
    /// The row has another number of values than there are features.
    pub fn predict(&mut self, row: &[f64]) -> Result<Prediction, RowError> {
        assert_eq!(row.len(), self.model.features.len(), "a row has one value for each feature");
        self.cells.clear();
        if let Some(table) = self.model.table.get()
            && let Some(cell) = table.cell(row)
        {
            self.cells.push(cell as u32);
            return table.answer(cell);
        }
        self.run(row);
        self.prediction(0)
    }

    /// Predicts a block of rows, which lie one after the other; [`Scorer::prediction`] has the answers. Blocks of some
    /// hundred rows are quickest; the answers are those of [`Scorer::predict`], bit for bit.
    ///
    /// # Panics
    /// There are not as many values as whole rows have.
    pub fn predict_block(&mut self, rows: &[f64]) {
        assert!(rows.len().is_multiple_of(self.model.features.len()), "a row has one value for each feature");
        self.cells.clear();
        if !self.model.table.get().is_some_and(|table| table.cells(rows, self.model.features.len(), &mut self.cells)) {
            self.cells.clear();
            self.run(rows);
        }
    }

    /// Has the steps compute a block, and makes what is quicker once the rows so far have paid for it.
    fn run(&mut self, rows: &[f64]) {
        let model = self.model;
        let count = (rows.len() / model.features.len()) as u64;
        let so_far = count + model.rows.fetch_add(count, Ordering::Relaxed);
        self.compute(rows, so_far);
        if so_far >= ROWS_BEFORE_CELLS {
            model.make_table(|cells| so_far >= ROWS_A_CELL * cells.count() as u64);
        }
    }

    fn compute(&mut self, rows: &[f64], so_far: u64) {
        let (model, stride) = (self.model, self.model.slots);
        let rows = rows.chunks_exact(model.features.len());
        self.failed.clear();
        self.failed.resize(rows.len(), None);
        self.slots.resize(rows.len() * stride, 0.0);
        for (slots, row) in self.slots.chunks_exact_mut(stride).zip(rows) {
            slots[..row.len()].copy_from_slice(row);
        }
        for (step, memory) in model.steps.iter().zip(&mut self.memories) {
            step.run_block(self.parts, &mut self.slots, stride, &mut self.failed, memory, so_far);
        }
    }

    /// The answers of all cells, computed by the steps.
    fn table(mut self, cells: &Arc<Cells>) -> Table {
        let model = self.model;
        let (mut answers, mut probabilities) = (Vec::new(), Vec::new());
        let mut rows = Vec::new();
        for block in 0..cells.count().div_ceil(BLOCK) {
            let block = block * BLOCK..cells.count().min((block + 1) * BLOCK);
            rows.clear();
            rows.resize(block.len() * model.features.len(), 0.0);
            for (cell, row) in block.zip(rows.chunks_exact_mut(model.features.len())) {
                cells.inside(cell, row);
            }
            self.compute(&rows, 0);
            for row in 0..self.failed.len() {
                answers.push(self.prediction(row));
                probabilities.extend(self.probabilities_of(row));
            }
        }
        Table::new(Arc::clone(cells), answers, probabilities, model.classes.len())
    }

    /// The prediction for a row of the last block.
    ///
    /// # Errors
    /// The row has a value that the library refuses.
    ///
    /// # Panics
    /// The last block had no such row.
    pub fn prediction(&self, row: usize) -> Result<Prediction, RowError> {
        if let Some((table, cell)) = self.cell_of(row) {
            return table.answer(cell);
        }
        if let Some(error) = &self.failed[row] {
            return Err(*error);
        }
        let (model, probabilities) = (self.model, self.probabilities_of(row));
        if let Some(place) = probabilities.iter().position(|value| !(0.0..=1.0).contains(value)) {
            return Err(RowError { slot: model.probabilities.start + place, refusal: Refusal::Undefined });
        }
        let slots = &self.slots[row * model.slots..][..model.slots];
        let class = match model.decision {
            Decision::Greatest(slot) => greatest(&slots[slot..slot + model.classes.len()]),
            Decision::Above(slot, threshold) => usize::from(slots[slot] > threshold),
            Decision::AtLeast(slot, threshold) => usize::from(slots[slot] >= threshold),
            Decision::FirstAtLeast(slot, threshold) => usize::from(slots[slot] < threshold),
        };
        Ok(Prediction { class: model.classes[class], probability: probabilities[model.positive] })
    }

    /// The probability of every class, in the order of [`Model::classes`], for the only row of the last block.
    pub fn probabilities(&self) -> &[f64] {
        self.probabilities_of(0)
    }

    /// The same for any row of the last block.
    ///
    /// # Panics
    /// The last block had no such row.
    pub fn probabilities_of(&self, row: usize) -> &[f64] {
        match self.cell_of(row) {
            Some((table, cell)) => table.probabilities(cell),
            None => &self.slots[row * self.model.slots..][self.model.probabilities.clone()],
        }
    }

    /// Where the table has the answer to a row of the last block, if that was looked up.
    fn cell_of(&self, row: usize) -> Option<(&Table, usize)> {
        if self.cells.is_empty() {
            return None;
        }
        Some((self.model.table.get()?, self.cells[row] as usize))
    }
}

/// The first of the greatest, as numpy's argmax.
fn greatest(values: &[f64]) -> usize {
    (1..values.len()).fold(0, |best, index| if values[index] > values[best] { index } else { best })
}
