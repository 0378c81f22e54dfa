//! The steps that lead from a row to probabilities: a program without branches, over slots that are written once.
//!
//! The first slots are the row itself; every step reads slots that are already written and appends its own. What a step computes is
//! the arithmetic of the library's transformer or estimator, in its order and precision.

use std::ops::Range;
use std::sync::OnceLock;

use super::frame::u32_at;
use super::links;
use super::nodes::{Nodes, Tree, check_tree};
use super::sums::{Memory, Ways};
use super::{ModelError, Refusal, RowError, refused};

/// Bytes of a step's record.
const RECORD: usize = 32;
/// Most slots of a model: 8 MiB a row.
const MOST_SLOTS: usize = 1 << 20;
/// Words of the record of a column that is looked up.
pub(super) const LOOKUP: usize = 4;

pub(super) const REFUSE_MISSING: u32 = 1;
pub(super) const REFUSE_INFINITE: u32 = 2;
pub(super) const REFUSE_BEYOND_SINGLE: u32 = 4;

const CLIP: u32 = 1;

const COMPARE_SINGLE: u32 = 1;

pub(super) const CONVERSION: u32 = 3;
pub(super) const SINGLE_VALUES: u32 = 4;
pub(super) const SINGLE_SUM: u32 = 8;

/// What a step does with its inputs.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Require,
    Select,
    Impute,
    Standardize,
    Rescale,
    Ordinal,
    OneHot,
    Trees,
    Linear,
    Divide,
    Sigmoid,
    SigmoidSingle,
    Softmax,
    SoftmaxPairwise,
    SoftmaxSingle,
    SigmoidEach,
    Complement,
    Normalize,
    Cap,
    Interpolate,
    Platt,
    Mean,
    MarkMissing,
}

/// In the order of their numbers, which begin at 1.
const KINDS: [Kind; 23] = [
    Kind::Require,
    Kind::Select,
    Kind::Impute,
    Kind::Standardize,
    Kind::Rescale,
    Kind::Ordinal,
    Kind::OneHot,
    Kind::Trees,
    Kind::Linear,
    Kind::Divide,
    Kind::Sigmoid,
    Kind::SigmoidSingle,
    Kind::Softmax,
    Kind::SoftmaxPairwise,
    Kind::SoftmaxSingle,
    Kind::SigmoidEach,
    Kind::Complement,
    Kind::Normalize,
    Kind::Cap,
    Kind::Interpolate,
    Kind::Platt,
    Kind::Mean,
    Kind::MarkMissing,
];

/// One step, checked.
pub(super) struct Step {
    pub kind: Kind,
    pub argument: u32,
    pub input: Range<usize>,
    pub output: Range<usize>,
    pub numbers: Range<usize>,
    pub indices: Range<usize>,
    pub trees: Range<usize>,
    /// Of the step's trees.
    pub nodes: Range<usize>,
    /// Quicker ways to the sums of trees, once rows have paid for making them.
    pub ways: OnceLock<Ways>,
}

/// What the steps of a file refer to.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub numbers: &'a [f64],
    pub indices: &'a [u32],
    pub trees: &'a [Tree],
    pub nodes: Nodes<'a>,
    /// Training weight of every node, or none.
    pub covers: &'a [f64],
    /// Training means of what the linear steps read, step after step, or none.
    pub means: &'a [f64],
}

/// How far the checks have come in each section: what steps refer to follows each other in their order.
struct Progress {
    slots: usize,
    numbers: usize,
    indices: usize,
    trees: usize,
    nodes: usize,
    bitsets: usize,
}

/// Reads and checks the steps of a model with so many features; gives them and the number of slots.
pub(super) fn read(records: &[u8], features: usize, parts: Parts<'_>) -> Result<(Vec<Step>, usize), ModelError> {
    let mut at = Progress { slots: features, numbers: 0, indices: 0, trees: 0, nodes: 0, bitsets: 0 };
    let mut steps = Vec::with_capacity(records.len() / RECORD);
    for (index, record) in records.chunks_exact(RECORD).enumerate() {
        let step = read_step(record, &mut at, parts).map_err(|error| ModelError(format!("step {index}: {error}")))?;
        steps.push(step);
    }
    let rests = [
        ("numbers", at.numbers, parts.numbers.len()),
        ("indices", at.indices, parts.indices.len()),
        ("trees", at.trees, parts.trees.len()),
        ("nodes", at.nodes, parts.nodes.nodes.len()),
        ("bitsets", at.bitsets, parts.nodes.bitsets.len()),
    ];
    for (name, used, found) in rests {
        if used != found {
            return refused(format!("the steps use {used} of {found} {name}"));
        }
    }
    Ok((steps, at.slots))
}

fn read_step(record: &[u8], at: &mut Progress, parts: Parts<'_>) -> Result<Step, ModelError> {
    let field = |index: usize| u32_at(record, 4 * index);
    let Some(kind) = (field(0) as usize).checked_sub(1).and_then(|index| KINDS.get(index)) else {
        return refused(format!("kind {} is not known to this program", field(0)));
    };
    let take = |next: &mut usize, count: u32, most: usize, what: &str| {
        let begin = *next;
        match begin.checked_add(count as usize).filter(|end| *end <= most) {
            Some(end) => {
                *next = end;
                Ok(begin..end)
            }
            None => refused(format!("it reaches past the {what}")),
        }
    };
    let mut input = field(2) as usize;
    let input = take(&mut input, field(3), at.slots, "slots written before it")?;
    let mut step = Step {
        kind: *kind,
        argument: field(1),
        input,
        output: take(&mut at.slots, field(4), MOST_SLOTS, "slots")?,
        numbers: take(&mut at.numbers, field(5), parts.numbers.len(), "numbers")?,
        indices: take(&mut at.indices, field(6), parts.indices.len(), "indices")?,
        trees: take(&mut at.trees, field(7), parts.trees.len(), "trees")?,
        nodes: at.nodes..at.nodes,
        ways: OnceLock::new(),
    };
    step.check(parts, at)?;
    step.nodes.end = at.nodes;
    Ok(step)
}

impl Step {
    /// Counts that fit the kind, and everything that running it follows.
    fn check(&self, parts: Parts<'_>, at: &mut Progress) -> Result<(), ModelError> {
        let (inputs, outputs) = (self.input.len(), self.output.len());
        let (numbers, indices) = (self.numbers.len(), self.indices.len());
        let arguments = match self.kind {
            Kind::Require => 0..8,
            Kind::Rescale | Kind::MarkMissing => 0..2,
            Kind::Trees => 0..16,
            Kind::Mean => 1..u32::MAX,
            _ => 0..1,
        };
        // Outputs, numbers, indices.
        let expected = match self.kind {
            Kind::Require => (0, 0, 0),
            Kind::Select => (indices, 0, outputs),
            Kind::Impute => (inputs, inputs, 0),
            Kind::Standardize => (inputs, 2 * inputs, 0),
            Kind::Rescale => (inputs, 2 * inputs + if self.argument == CLIP { 2 } else { 0 }, 0),
            Kind::Ordinal => (inputs, numbers, LOOKUP * inputs),
            Kind::OneHot => (outputs, numbers, LOOKUP * inputs),
            Kind::Trees => (outputs, self.leaf_numbers(), 0),
            Kind::Linear => (outputs, outputs.saturating_mul(inputs + 1), 0),
            Kind::Divide | Kind::SigmoidEach | Kind::MarkMissing => (inputs, 1, 0),
            Kind::Sigmoid => (2, 1, 0),
            Kind::SigmoidSingle | Kind::Complement => (2, 0, 0),
            Kind::Softmax | Kind::SoftmaxPairwise | Kind::SoftmaxSingle | Kind::Normalize | Kind::Cap => (inputs, 0, 0),
            Kind::Interpolate => (1, numbers, 0),
            Kind::Platt => (1, 2, 0),
            Kind::Mean => (inputs / self.argument.max(1) as usize, 0, 0),
        };
        if !arguments.contains(&self.argument) || expected != (outputs, numbers, indices) {
            return refused("its counts do not fit its kind");
        }
        let one_input = match self.kind {
            Kind::Sigmoid | Kind::SigmoidSingle | Kind::Complement | Kind::Interpolate | Kind::Platt => inputs == 1,
            Kind::Select => self.input == (0..0),
            Kind::Mean => outputs > 0 && inputs == outputs * self.argument as usize,
            _ => inputs > 0 && (outputs > 0 || self.kind == Kind::Require),
        };
        if !one_input || (self.kind == Kind::Trees) == self.trees.is_empty() {
            return refused("its counts do not fit its kind");
        }
        let numbers = &parts.numbers[self.numbers.clone()];
        match self.kind {
            Kind::Ordinal | Kind::OneHot => self.check_lookups(parts),
            Kind::Select => self.check_sources(parts),
            Kind::Trees => self.check_trees(parts, at),
            Kind::Interpolate => check_curve(numbers),
            _ if numbers.iter().all(|number| number.is_finite()) || self.kind == Kind::Impute => Ok(()),
            _ => refused("one of its numbers is not finite"),
        }
    }

    /// As many numbers as the trees of this step have: where the sums begin, and rows of leaf values if leaves have rows.
    fn leaf_numbers(&self) -> usize {
        let (outputs, numbers) = (self.output.len(), self.numbers.len());
        let right = if self.argument & SINGLE_VALUES != 0 { numbers == outputs } else { self.leaf_rows() > 0 };
        let whole = outputs > 0 && numbers.is_multiple_of(outputs);
        // Any other number than the one there is refused.
        if right && whole { numbers } else { usize::MAX }
    }

    fn leaf_rows(&self) -> usize {
        (self.numbers.len() / self.output.len().max(1)).saturating_sub(1)
    }

    fn check_sources(&self, parts: Parts<'_>) -> Result<(), ModelError> {
        match parts.indices[self.indices.clone()].iter().all(|source| (*source as usize) < self.output.start) {
            true => Ok(()),
            false => refused("it selects a slot that is not yet written"),
        }
    }

    /// A column's record: number of keys, what is refused, first output, zero. Its numbers: keys, values, value of the missing, of
    /// the unknown.
    fn check_lookups(&self, parts: Parts<'_>) -> Result<(), ModelError> {
        let mut next = self.numbers.start;
        let mut column_end = 0;
        for record in parts.indices[self.indices.clone()].chunks_exact(LOOKUP) {
            let (keys, first) = (record[0] as usize, record[2] as usize);
            if record[1] > 3 || record[3] != 0 || keys > self.numbers.end || 2 * keys + 2 > self.numbers.end - next {
                return refused("a column's record is not right");
            }
            let (column, values) = parts.numbers[next..next + 2 * keys + 2].split_at(keys);
            if !column.is_sorted_by(|one, other| one < other) || column.iter().any(|key| key.is_nan()) {
                return refused("the keys of a column do not ascend");
            }
            if self.kind == Kind::OneHot {
                let width = self.output.len() as f64;
                let place = |value: &f64| {
                    *value == -1.0 || (value.fract() == 0.0 && (0.0..width - first as f64).contains(value))
                };
                if first < column_end || !values.iter().all(place) {
                    return refused("a column's place is not among the outputs");
                }
                column_end = first;
            } else if first != 0 {
                return refused("a column's record is not right");
            }
            next += 2 * keys + 2;
        }
        if next != self.numbers.end {
            return refused("it does not use all its numbers");
        }
        Ok(())
    }

    fn check_trees(&self, parts: Parts<'_>, at: &mut Progress) -> Result<(), ModelError> {
        if self.argument & CONVERSION == CONVERSION {
            return refused("its counts do not fit its kind");
        }
        let single = self.argument & SINGLE_VALUES != 0;
        if single && !self.trees.len().is_multiple_of(self.output.len()) {
            return refused("its trees do not share out among the outputs");
        }
        if !parts.numbers[self.numbers.clone()].iter().all(|number| number.is_finite()) {
            return refused("one of its numbers is not finite");
        }
        let rows = (!single).then(|| self.leaf_rows());
        for tree in &parts.trees[self.trees.clone()] {
            at.nodes = check_tree(parts.nodes, *tree, at.nodes, self.input.len(), rows, &mut at.bitsets)?;
        }
        Ok(())
    }

    /// The slot that a step of preprocessing makes one of its outputs from; none if that takes several.
    pub fn source(&self, parts: Parts<'_>, output: usize) -> Option<usize> {
        let place = output - self.output.start;
        match self.kind {
            Kind::Select => Some(parts.indices[self.indices.clone()][place] as usize),
            Kind::Impute | Kind::Standardize | Kind::Rescale | Kind::Ordinal | Kind::MarkMissing => {
                Some(self.input.start + place)
            }
            _ => None,
        }
    }

    /// Runs the step on the slots of a block of rows, each `stride` long; `failed` says why a row has no answer, and such rows are
    /// left alone. `rows` is how many there have been.
    pub fn run_block(
        &self,
        parts: Parts<'_>,
        slots: &mut [f64],
        stride: usize,
        failed: &mut [Option<RowError>],
        memory: &mut Memory,
        rows: u64,
    ) {
        self.prepare(parts, rows);
        if self.kind == Kind::Trees && failed.len() > 1 {
            return self.sum_block(parts, slots, stride, memory);
        }
        for (slots, failed) in slots.chunks_exact_mut(stride).zip(failed) {
            if failed.is_none() {
                *failed = self.run(parts, slots, memory).err();
            }
        }
    }

    /// Runs the step on the slots of one row.
    fn run(&self, parts: Parts<'_>, slots: &mut [f64], memory: &mut Memory) -> Result<(), RowError> {
        let (written, rest) = slots.split_at_mut(self.output.start);
        let (input, output) = (&written[self.input.clone()], &mut rest[..self.output.len()]);
        let numbers = &parts.numbers[self.numbers.clone()];
        match self.kind {
            Kind::Require => return self.require(input),
            Kind::Select => {
                let sources = &parts.indices[self.indices.clone()];
                output.iter_mut().zip(sources).for_each(|(out, source)| *out = written[*source as usize]);
            }
            Kind::Impute => {
                for ((out, value), fill) in output.iter_mut().zip(input).zip(numbers) {
                    *out = if value.is_nan() { *fill } else { *value };
                }
            }
            Kind::Standardize => {
                for ((out, value), number) in output.iter_mut().zip(input).zip(numbers.as_chunks::<2>().0) {
                    *out = (value - number[0]) / number[1];
                }
            }
            Kind::Rescale => {
                for ((out, value), number) in output.iter_mut().zip(input).zip(numbers.as_chunks::<2>().0) {
                    *out = value * number[0] + number[1];
                }
                if let (CLIP, [.., low, high]) = (self.argument, numbers) {
                    output.iter_mut().for_each(|value| *value = clip(*value, *low, *high));
                }
            }
            Kind::Ordinal | Kind::OneHot => return self.look_up(parts, input, output),
            Kind::Trees => self.sum_trees(parts, input, output, memory),
            Kind::Linear => {
                for (out, numbers) in output.iter_mut().zip(numbers.chunks_exact(input.len() + 1)) {
                    let products = input.iter().zip(&numbers[1..]).map(|(value, weight)| value * weight);
                    *out = products.fold(0.0, |sum, product| sum + product) + numbers[0];
                }
            }
            Kind::Divide => output.iter_mut().zip(input).for_each(|(out, value)| *out = value / numbers[0]),
            Kind::Sigmoid => fill_pair(output, links::sigmoid(numbers[0] * input[0])),
            Kind::SigmoidSingle => {
                let probability = links::sigmoid_single(input[0] as f32);
                output.copy_from_slice(&[f64::from(1.0 - probability), f64::from(probability)]);
            }
            Kind::Softmax => links::softmax(input, output, links::sum_in_order),
            Kind::SoftmaxPairwise => links::softmax(input, output, links::sum_pairwise),
            Kind::SoftmaxSingle => links::softmax_single(input, output),
            Kind::SigmoidEach => {
                output.iter_mut().zip(input).for_each(|(out, score)| *out = links::sigmoid(numbers[0] * score));
            }
            Kind::Complement => fill_pair(output, input[0]),
            Kind::Normalize => {
                let sum = links::sum_pairwise(input);
                let uniform = 1.0 / input.len() as f64;
                let share = |value: &f64| if sum == 0.0 { uniform } else { value / sum };
                output.iter_mut().zip(input).for_each(|(out, value)| *out = share(value));
            }
            Kind::Cap => {
                let cap = |value: &f64| if *value > 1.0 && *value <= 1.0 + 1e-5 { 1.0 } else { *value };
                output.iter_mut().zip(input).for_each(|(out, value)| *out = cap(value));
            }
            Kind::Interpolate => {
                let (places, heights) = numbers.split_at(numbers.len() / 2);
                output[0] = links::interpolate(input[0], places, heights);
            }
            Kind::Platt => output[0] = links::sigmoid(-(numbers[0] * input[0] + numbers[1])),
            Kind::Mean => {
                for (place, out) in output.iter_mut().enumerate() {
                    let values = input.iter().skip(place).step_by(input.len() / self.argument as usize);
                    *out = values.fold(0.0, |sum, value| sum + value) / f64::from(self.argument);
                }
            }
            Kind::MarkMissing => {
                let single = self.argument == COMPARE_SINGLE;
                let comparable = |value: f64| if single { f64::from(value as f32) } else { value };
                for (out, value) in output.iter_mut().zip(input) {
                    *out = if comparable(*value) == comparable(numbers[0]) { f64::NAN } else { *value };
                }
            }
        }
        Ok(())
    }

    /// Refuses what the library refuses of a row.
    fn require(&self, input: &[f64]) -> Result<(), RowError> {
        for (place, value) in input.iter().enumerate() {
            let refusal = if value.is_nan() {
                (self.argument & REFUSE_MISSING != 0).then_some(Refusal::Missing)
            } else if value.is_infinite() {
                (self.argument & (REFUSE_INFINITE | REFUSE_BEYOND_SINGLE) != 0).then_some(Refusal::TooLarge)
            } else {
                let beyond = self.argument & REFUSE_BEYOND_SINGLE != 0 && (*value as f32).is_infinite();
                beyond.then_some(Refusal::TooLarge)
            };
            if let Some(refusal) = refusal {
                return Err(RowError { slot: self.input.start + place, refusal });
            }
        }
        Ok(())
    }

    fn look_up(&self, parts: Parts<'_>, input: &[f64], output: &mut [f64]) -> Result<(), RowError> {
        if self.kind == Kind::OneHot {
            output.fill(0.0);
        }
        let records = parts.indices[self.indices.clone()].chunks_exact(LOOKUP);
        let mut numbers = &parts.numbers[self.numbers.clone()];
        for (place, (value, record)) in input.iter().zip(records).enumerate() {
            let keys = record[0] as usize;
            let (column, rest) = numbers.split_at(2 * keys + 2);
            numbers = rest;
            let error = |refusal| Err(RowError { slot: self.input.start + place, refusal });
            let found = if value.is_nan() {
                if record[1] & 1 != 0 {
                    return error(Refusal::Missing);
                }
                column[2 * keys]
            } else {
                let at = column[..keys].partition_point(|key| key < value);
                if at < keys && column[at] == *value {
                    column[keys + at]
                } else if record[1] & 2 != 0 {
                    return error(Refusal::Unknown);
                } else {
                    column[2 * keys + 1]
                }
            };
            if self.kind == Kind::Ordinal {
                output[place] = found;
            } else if found >= 0.0 {
                output[record[2] as usize + found as usize] = 1.0;
            }
        }
        Ok(())
    }
}

/// The probabilities of two classes from that of the second.
fn fill_pair(output: &mut [f64], probability: f64) {
    output.copy_from_slice(&[1.0 - probability, probability]);
}

/// As numpy's `clip`: what is missing stays so.
fn clip(value: f64, low: f64, high: f64) -> f64 {
    if value < low {
        low
    } else if value > high {
        high
    } else {
        value
    }
}

/// Places that do not descend, and a height for each.
fn check_curve(numbers: &[f64]) -> Result<(), ModelError> {
    let (places, heights) = numbers.split_at(numbers.len() / 2);
    let finite = numbers.iter().all(|number| number.is_finite());
    if places.is_empty() || places.len() != heights.len() || !finite || !places.is_sorted() {
        return refused("its curve is none");
    }
    Ok(())
}
