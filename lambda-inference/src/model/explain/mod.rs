//! Explanations: how much each feature of a row adds to the model's raw score.
//!
//! The raw score is what the trees or the linear model give before any link, calibration or threshold: of scikit-learn's trees and forests
//! a probability, of boosted trees and linear models log-odds. Trees are explained by exact Shapley values (see [`forest`]),
//! linear models by coefficient times value minus training mean, as for independent features. What belongs to a column that
//! preprocessing derived counts for the feature that it was derived from. Of several calibrated models it is the mean.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::nodes::{Node, Tree};
use super::steps::{Kind, LOOKUP, Parts, SINGLE_VALUES, Step};
use super::{BLOCK, FEW_CELLS, Model, ModelError, Prediction, ROWS_A_CELL, RowError, Scorer, refused};

mod forest;
mod quadrature;
mod reasons;

use forest::{Block, Forest, LANES};
pub use reasons::Reason;

/// Most splits of a path: what a tree costs grows with the square of it.
const MOST_SPLITS: u32 = 1024;
/// Most contributions of a table: four megabytes.
const MOST_CONTRIBUTIONS: usize = 1 << 19;
/// Values that are explained together: half a megabyte, which stays in the processor's cache.
const MOST_VALUES: usize = 1 << 16;

/// What explaining needs of a model beyond predicting; made when the first row is to be explained.
pub(super) struct Plan {
    /// Steps that make raw scores.
    scored: Vec<Scored>,
    /// Of each slot the feature that it was derived from.
    sources: Vec<usize>,
    /// The raw scores where nothing is known of a row.
    base: Vec<f64>,
    /// The contributions in every cell of the model, cell after cell.
    table: OnceLock<Vec<f64>>,
    /// Rows that were explained.
    rows: AtomicU64,
    /// Of each feature the values at which a decision may change, ascending, wherever a row lies; see [`reasons`].
    turns: Vec<OnceLock<Vec<f64>>>,
}

/// A step that makes raw scores.
struct Scored {
    step: usize,
    /// For each explained score the step's output, and what it is multiplied by.
    outputs: Vec<(usize, f64)>,
    /// Where its inputs' training means begin, if it is linear.
    means: usize,
}

impl Plan {
    fn new(model: &Model) -> Result<Plan, ModelError> {
        let parts = model.parts();
        let mut plan = Plan {
            scored: Vec::new(),
            sources: sources(model, parts),
            base: Vec::new(),
            table: OnceLock::new(),
            rows: AtomicU64::new(0),
            turns: model.features.iter().map(|_| OnceLock::new()).collect(),
        };
        let mut means = 0;
        for (index, step) in model.steps.iter().enumerate() {
            if !matches!(step.kind, Kind::Trees | Kind::Linear) {
                continue;
            }
            if step.kind == Kind::Trees && parts.covers.is_empty() {
                return refused("the model has no explanations: its file lacks the nodes' training weights");
            }
            if step.kind == Kind::Linear && parts.means.is_empty() {
                return refused(
                    "the model has no explanations: its file lacks training means; export it with training rows",
                );
            }
            if plan.sources[step.input.clone()].contains(&NO_SOURCE) {
                return refused("the model has no explanations: a step scores what was computed from several features");
            }
            if parts.trees[step.trees.clone()].iter().any(|tree| tree.depth > MOST_SPLITS) {
                return refused(format!("the model has no explanations: a tree is deeper than {MOST_SPLITS} splits"));
            }
            let outputs = explained_outputs(model, step)?;
            let next = model.steps.get(index + 1);
            let divide = next.filter(|next| next.kind == Kind::Divide && next.input == step.output);
            let divisor = divide.map_or(1.0, |divide| parts.numbers[divide.numbers.start]);
            let outputs = outputs.into_iter().map(|(output, sign)| (output, sign / divisor)).collect();
            plan.scored.push(Scored { step: index, outputs, means });
            means += if step.kind == Kind::Linear { step.input.len() } else { 0 };
        }
        let count = plan.scored.len();
        if count == 0 {
            return refused("the model has no explanations: it has neither trees nor a linear step");
        }
        let share = 1.0 / count as f64;
        plan.scored.iter_mut().flat_map(|scored| &mut scored.outputs).for_each(|(_, factor)| *factor *= share);
        plan.base = plan.base(model, parts);
        Ok(plan)
    }

    fn base(&self, model: &Model, parts: Parts<'_>) -> Vec<f64> {
        let mut base = vec![0.0; self.scored[0].outputs.len()];
        for scored in &self.scored {
            let step = &model.steps[scored.step];
            for (base, (output, factor)) in base.iter_mut().zip(&scored.outputs) {
                *base += factor * scored.expected(step, parts, *output);
            }
        }
        base
    }
}

impl Scored {
    /// The mean of one of the step's outputs.
    fn expected(&self, step: &Step, parts: Parts<'_>, output: usize) -> f64 {
        let numbers = &parts.numbers[step.numbers.clone()];
        if step.kind == Kind::Linear {
            let weights = &numbers[output * (step.input.len() + 1)..];
            let means = &parts.means[self.means..][..step.input.len()];
            return weights[0] + weights[1..].iter().zip(means).map(|(weight, mean)| weight * mean).sum::<f64>();
        }
        let forest = forest_of(step, parts);
        let means = trees_of(step, parts).enumerate().map(|(index, (tree, end))| match only_output(step, index) {
            Some(own) if own != output => 0.0,
            _ => forest.expected(tree, end, |leaf| leaf_value(step, parts, leaf, output)),
        });
        numbers[output] + means.sum::<f64>()
    }
}

/// Stands for a slot that was computed from several features, or that is none of the row's.
const NO_SOURCE: usize = usize::MAX;

/// Of each slot the feature that it was derived from, column by column.
fn sources(model: &Model, parts: Parts<'_>) -> Vec<usize> {
    let mut sources: Vec<usize> = (0..model.features.len()).collect();
    for step in &model.steps {
        let input = sources[step.input.clone()].to_vec();
        let indices = &parts.indices[step.indices.clone()];
        match step.kind {
            Kind::Select => {
                let chosen: Vec<usize> = indices.iter().map(|slot| sources[*slot as usize]).collect();
                sources.extend(chosen);
            }
            Kind::Impute | Kind::Standardize | Kind::Rescale | Kind::Ordinal | Kind::MarkMissing => {
                sources.extend(input)
            }
            Kind::OneHot => {
                // A column without an output may be said to begin behind the last one.
                let last = step.output.len();
                let begins = indices.as_chunks::<LOOKUP>().0.iter().map(|column| (column[2] as usize).min(last));
                let ends = begins.clone().skip(1).chain([last]);
                sources.extend(std::iter::repeat_n(NO_SOURCE, begins.clone().next().unwrap_or_default()));
                for ((begin, end), source) in begins.zip(ends).zip(input) {
                    sources.extend(std::iter::repeat_n(source, end - begin));
                }
            }
            _ => sources.resize(step.output.end, NO_SOURCE),
        }
    }
    sources
}

/// For each score that is explained the step's output and its sign: of two classes the positive one's, else all.
fn explained_outputs(model: &Model, step: &Step) -> Result<Vec<(usize, f64)>, ModelError> {
    let (classes, outputs, positive) = (model.classes.len(), step.output.len(), model.positive);
    match (classes, outputs) {
        // The score of the second class: the first one's is its negative.
        (2, 1) => Ok(vec![(0, if positive == 1 { 1.0 } else { -1.0 })]),
        (2, 2) => Ok(vec![(positive, 1.0)]),
        _ if classes == outputs => Ok((0..outputs).map(|output| (output, 1.0)).collect()),
        _ => refused(format!("the model has no explanations: a step gives {outputs} scores for {classes} classes")),
    }
}

/// A row's prediction and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Explanation<'a> {
    /// What the model says of the row.
    pub prediction: Prediction,
    /// What each feature adds to the raw score, in the order of the features. With more than two classes for each class one after the
    /// other; else to the positive class. With [`Explainer::base`] it adds up to the raw score.
    pub contributions: &'a [f64],
}

/// A model with the memory that explaining rows needs.
pub struct Explainer<'a> {
    plan: &'a Plan,
    scorer: Scorer<'a>,
    /// A step's inputs and contributions, of some rows side by side.
    values: Vec<f64>,
    sums: Vec<f64>,
    contributions: Vec<f64>,
    memory: forest::Memory,
}

impl Model {
    /// What explains row after row.
    ///
    /// # Errors
    /// The model has no explanations; the reason says what its file lacks.
    pub fn explainer(&self) -> Result<Explainer<'_>, ModelError> {
        let plan = self.plan.get_or_init(|| Plan::new(self)).as_ref().map_err(Clone::clone)?;
        Ok(Explainer {
            plan,
            scorer: self.scorer(),
            values: Vec::new(),
            sums: Vec::new(),
            contributions: Vec::new(),
            memory: forest::Memory::default(),
        })
    }
}

impl<'a> Explainer<'a> {
    /// The raw scores of a row of which nothing is known: of the positive class, or with more than two classes of each one.
    pub fn base(&self) -> &'a [f64] {
        &self.plan.base
    }

    /// What predicted the rows of the last block.
    pub(crate) fn scorer(&self) -> &Scorer<'a> {
        &self.scorer
    }

    /// Explains one row of as many values as there are features; NaN is a missing value.
    ///
    /// # Errors
    /// The row has a value that the library refuses.
    ///
    /// # Panics
    /// The row has another number of values than there are features.
    pub fn explain(&mut self, row: &[f64]) -> Result<Explanation<'_>, RowError> {
        assert_eq!(row.len(), self.scorer.model.features.len(), "a row has one value for each feature");
        self.explain_block(row);
        self.explanation(0)
    }

    /// Explains a block of rows, which lie one after the other; [`Explainer::explanation`] has the answers. Blocks of some hundred
    /// rows are quickest.
    ///
    /// # Panics
    /// There are not as many values as whole rows have.
    pub fn explain_block(&mut self, rows: &[f64]) {
        let features = self.scorer.model.features.len();
        let count = (rows.len() / features) as u64;
        let so_far = count + self.plan.rows.fetch_add(count, Ordering::Relaxed);
        self.contributions.clear();
        if self.look_up(rows) {
            return;
        }
        self.compute(rows);
        self.make_table(so_far);
    }

    /// Takes the contributions out of the table; false if there is none, or a row has no cell in it.
    fn look_up(&mut self, rows: &[f64]) -> bool {
        let Some(table) = self.plan.table.get() else { return false };
        self.scorer.predict_block(rows);
        let width = self.width();
        for cell in &self.scorer.cells {
            self.contributions.extend_from_slice(&table[*cell as usize * width..][..width]);
        }
        !self.contributions.is_empty()
    }

    /// Contributions of a row.
    fn width(&self) -> usize {
        self.plan.base.len() * self.scorer.model.features.len()
    }

    /// Has the steps compute a block, and explains what they computed.
    fn compute(&mut self, rows: &[f64]) {
        self.scorer.cells.clear();
        self.scorer.run(rows);
        let model = self.scorer.model;
        self.contributions.resize(self.scorer.failed.len() * self.width(), 0.0);
        for scored in &self.plan.scored {
            let step = &model.steps[scored.step];
            match step.kind {
                Kind::Linear => self.explain_linear(scored, step),
                _ => self.explain_trees(scored, step),
            }
        }
    }

    /// Makes the table of all contributions, if there can be one and the rows so far have paid for it: at once where it is small.
    fn make_table(&self, so_far: u64) {
        let model = self.scorer.model;
        let Some(cells) = model.cells.get().and_then(Option::as_ref) else { return };
        let (count, width) = (cells.count(), self.width());
        let paid = count <= FEW_CELLS || so_far >= ROWS_A_CELL * count as u64;
        if !paid || count * width > MOST_CONTRIBUTIONS || model.table.get().is_none() {
            return;
        }
        self.plan.table.get_or_init(|| {
            let Ok(mut explainer) = model.explainer() else { return Vec::new() };
            let mut table = Vec::with_capacity(count * width);
            let mut rows = Vec::new();
            for begin in (0..count).step_by(BLOCK) {
                let block = begin..count.min(begin + BLOCK);
                rows.clear();
                rows.resize(block.len() * model.features.len(), 0.0);
                for (cell, row) in block.zip(rows.chunks_exact_mut(model.features.len())) {
                    cells.inside(cell, row);
                }
                explainer.contributions.clear();
                explainer.compute(&rows);
                table.extend_from_slice(&explainer.contributions);
            }
            table
        });
    }

    /// The explanation of a row of the last block.
    ///
    /// # Errors
    /// The row has a value that the library refuses.
    ///
    /// # Panics
    /// The last block had no such row.
    pub fn explanation(&self, row: usize) -> Result<Explanation<'_>, RowError> {
        let prediction = self.scorer.prediction(row)?;
        let width = self.width();
        Ok(Explanation { prediction, contributions: &self.contributions[row * width..][..width] })
    }

    /// Adds a row's contributions of a step's inputs, score after score, to those of the features.
    fn add(&mut self, row: usize, scored: &Scored, step: &Step, change: impl Fn(usize, usize) -> f64) {
        let features = self.scorer.model.features.len();
        let sources = &self.plan.sources[step.input.clone()];
        let contributions = &mut self.contributions[row * scored.outputs.len() * features..];
        for (place, (contributions, (_, factor))) in
            contributions.chunks_exact_mut(features).zip(&scored.outputs).enumerate()
        {
            for (input, source) in sources.iter().enumerate() {
                contributions[*source] += factor * change(place, input);
            }
        }
    }

    /// The slots of each row of the last block.
    fn slots(&self, row: usize) -> &[f64] {
        let stride = self.scorer.model.slots;
        &self.scorer.slots[row * stride..][..stride]
    }

    fn explain_linear(&mut self, scored: &Scored, step: &Step) {
        let parts = self.scorer.parts;
        let numbers = &parts.numbers[step.numbers.clone()];
        let means = &parts.means[scored.means..][..step.input.len()];
        let mut inputs = Vec::new();
        for row in 0..self.scorer.failed.len() {
            inputs.clear();
            inputs.extend_from_slice(&self.slots(row)[step.input.clone()]);
            self.add(row, scored, step, |place, input| {
                let weights = &numbers[scored.outputs[place].0 * (inputs.len() + 1)..];
                weights[1 + input] * (inputs[input] - means[input])
            });
        }
    }

    fn explain_trees(&mut self, scored: &Scored, step: &Step) {
        let (width, conversion, count) = (step.input.len(), step.conversion(), self.scorer.failed.len());
        let together = (MOST_VALUES / (width * (1 + scored.outputs.len()))).next_multiple_of(LANES).max(LANES);
        for begin in (0..count).step_by(together) {
            let rows = begin..count.min(begin + together);
            let lanes = if rows.len() == 1 { 1 } else { LANES };
            self.values.clear();
            self.values.resize(rows.len().next_multiple_of(lanes) * width, 0.0);
            for row in rows.clone() {
                let (group, lane) = ((row - begin) / lanes, (row - begin) % lanes);
                let slots = &self.scorer.slots[row * self.scorer.model.slots..][step.input.clone()];
                let values = &mut self.values[group * lanes * width..];
                for (values, value) in values.chunks_exact_mut(lanes).zip(slots) {
                    values[lane] = conversion.apply(*value);
                }
            }
            self.sum_trees(scored, step, lanes);
            let sums = std::mem::take(&mut self.sums);
            let outputs = scored.outputs.len();
            for row in rows {
                let (group, lane) = ((row - begin) / lanes, (row - begin) % lanes);
                let sums = &sums[group * lanes * width * outputs..];
                self.add(row, scored, step, |place, input| sums[(place * width + input) * lanes + lane]);
            }
            self.sums = sums;
        }
    }

    /// Adds up the contributions of all trees of a step for the values that lie there.
    fn sum_trees(&mut self, scored: &Scored, step: &Step, lanes: usize) {
        let (parts, outputs) = (self.scorer.parts, scored.outputs.len());
        self.sums.clear();
        self.sums.resize(self.values.len() * outputs, 0.0);
        let forest = forest_of(step, parts);
        let mut block = Block { lanes, values: &self.values, sums: &mut self.sums, outputs };
        for (index, (tree, _)) in trees_of(step, parts).enumerate() {
            let only = only_output(step, index);
            let all = scored.outputs.iter().enumerate();
            let own = all.filter(|(_, (output, _))| only.is_none_or(|only| only == *output));
            let values = own.map(|(place, (output, _))| (place, |leaf: &Node| leaf_value(step, parts, leaf, *output)));
            forest.explain(tree, &values.collect::<Vec<_>>(), &mut block, &mut self.memory);
        }
    }
}

fn forest_of<'a>(step: &Step, parts: Parts<'a>) -> Forest<'a> {
    Forest { nodes: parts.nodes, covers: parts.covers, conversion: step.conversion(), width: step.input.len() }
}

/// A step's trees and where the nodes of each end.
fn trees_of<'a>(step: &Step, parts: Parts<'a>) -> impl Iterator<Item = (Tree, usize)> + use<'a> {
    let trees = &parts.trees[step.trees.clone()];
    let ends = trees.iter().skip(1).map(|tree| tree.root as usize).chain([step.nodes.end]);
    trees.iter().copied().zip(ends)
}

/// The only output that a tree adds to; none if it adds to all.
fn only_output(step: &Step, tree: usize) -> Option<usize> {
    (step.argument & SINGLE_VALUES != 0).then(|| tree % step.output.len())
}

fn leaf_value(step: &Step, parts: Parts<'_>, leaf: &Node, output: usize) -> f64 {
    if step.argument & SINGLE_VALUES != 0 {
        return leaf.threshold;
    }
    let outputs = step.output.len();
    parts.numbers[step.numbers.clone()][outputs * (1 + leaf.child as usize) + output]
}
