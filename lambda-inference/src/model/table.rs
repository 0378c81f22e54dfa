//! The answers of a whole model for every cell between its cuts.
//!
//! Where few features make few cells, the finished answer of each is looked up: one search a feature and one load a row. It is
//! exact, since all rows of a cell take the same way in every tree; a cell's answer is computed by the steps themselves, for one row that lies
//! in it. What the model refuses by a `require` step has no cell and goes the ordinary way.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::sync::Arc;

use super::cuts::Cuts;
#[cfg(target_arch = "x86_64")]
use super::eight;
use super::nodes::Conversion;
use super::steps::{Kind, Parts, REFUSE_BEYOND_SINGLE, REFUSE_INFINITE, REFUSE_MISSING, Step};
use super::{Prediction, RowError};

/// Most cells of a table: one and a half megabytes with two classes, of which most rows share a small part.
const MOST_CELLS: usize = 1 << 16;
/// Most features that a table depends on: each has two cells or more.
const MOST_AXES: usize = 16;
/// The greatest double that is finite once rounded to single precision.
const MOST_SINGLE: f64 = 3.402_823_567_797_336_6e38_f64.next_down();

/// One feature.
struct Axis {
    feature: usize,
    cuts: Cuts,
    /// The greatest magnitude that is not refused.
    limit: f64,
    /// Whether missing values have a cell, the last one.
    missing: bool,
    /// Cells of the axes before this one.
    stride: usize,
}

impl Axis {
    fn cells(&self) -> usize {
        self.cuts.len() + 1 + usize::from(self.missing)
    }

    /// The cell of a value, if it is not refused.
    #[inline]
    fn cell(&self, value: f64) -> Option<usize> {
        if value.abs() <= self.limit {
            Some(self.cuts.place(value))
        } else {
            (value.is_nan() && self.missing).then_some(self.cuts.len() + 1)
        }
    }

    /// As [`Axis::cell`], of eight values by AVX-512; none if one of them is refused.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    fn cells_of_eight(&self, values: __m512d) -> Option<__m256i> {
        let known = _mm512_cmp_pd_mask::<_CMP_LE_OQ>(_mm512_abs_pd(values), _mm512_set1_pd(self.limit));
        let places = self.cuts.places_of_eight(values);
        if known == 0xff {
            return Some(places);
        }
        let missing = _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(values, values);
        let last = _mm256_set1_epi32(self.cuts.len() as i32 + 1);
        (self.missing && known | missing == 0xff).then(|| _mm256_mask_mov_epi32(places, missing, last))
    }

    /// A value that lies in a cell.
    fn inside(&self, cell: usize) -> f64 {
        match self.cuts.get(cell) {
            Some(cut) => cut.min(self.limit),
            None if cell == self.cuts.len() => self.limit,
            None => f64::NAN,
        }
    }
}

/// The cells of a model, before their answers are worth computing.
pub(super) struct Cells {
    axes: Vec<Axis>,
    count: usize,
}

/// What the steps ask of one feature.
#[derive(Default)]
struct Questions {
    thresholds: Vec<f64>,
    conversion: Option<Conversion>,
    refused: u32,
    asked: bool,
}

impl Cells {
    /// The cells of a model with so many features; none where other steps than trees and `require` read the row, where splits ask for
    /// categories, or where there are too many cells.
    pub fn new(steps: &[Step], features: usize, parts: Parts<'_>) -> Option<Cells> {
        let mut questions: Vec<Questions> = (0..features).map(|_| Questions::default()).collect();
        for step in steps {
            ask(step, parts, &mut questions)?;
        }
        let asked = questions.into_iter().enumerate().filter(|(_, questions)| questions.asked);
        let (mut axes, mut count) = (Vec::new(), 1_usize);
        for (feature, questions) in asked {
            let cuts = Cuts::new(questions.thresholds, questions.conversion.unwrap_or(Conversion::Double))?;
            let limit = match questions.refused {
                refused if refused & REFUSE_BEYOND_SINGLE != 0 => MOST_SINGLE,
                refused if refused & REFUSE_INFINITE != 0 => f64::MAX,
                _ => f64::INFINITY,
            };
            let axis = Axis { feature, cuts, limit, missing: questions.refused & REFUSE_MISSING == 0, stride: count };
            count = count.checked_mul(axis.cells()).filter(|count| *count <= MOST_CELLS)?;
            axes.push(axis);
        }
        (axes.len() <= MOST_AXES).then_some(Cells { axes, count })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Makes a row one that lies in a cell.
    pub fn inside(&self, cell: usize, row: &mut [f64]) {
        for axis in &self.axes {
            row[axis.feature] = axis.inside(cell / axis.stride % axis.cells());
        }
    }
}

/// Notes what a step asks of the row; none where that is not a matter of cells.
fn ask(step: &Step, parts: Parts<'_>, questions: &mut [Questions]) -> Option<()> {
    let features = questions.len();
    if step.kind == Kind::Select {
        let sources = &parts.indices[step.indices.clone()];
        return sources.iter().all(|source| *source as usize >= features).then_some(());
    }
    if step.input.start >= features {
        return Some(());
    }
    let questions = questions.get_mut(step.input.clone())?;
    match step.kind {
        Kind::Require => {
            for questions in questions {
                questions.refused |= step.argument;
                questions.asked = true;
            }
        }
        Kind::Trees => {
            let conversion = step.conversion();
            for node in step.nodes(parts).iter().filter(|node| !node.is_leaf()) {
                let questions = &mut questions[usize::from(node.feature)];
                if !node.is_plain() || questions.conversion.is_some_and(|known| known != conversion) {
                    return None;
                }
                questions.conversion = Some(conversion);
                questions.thresholds.push(node.threshold);
                questions.asked = true;
            }
        }
        _ => return None,
    }
    Some(())
}

/// An answer for every cell.
pub(super) struct Table {
    cells: Arc<Cells>,
    answers: Vec<Result<Prediction, RowError>>,
    /// One row of the classes' probabilities a cell.
    probabilities: Vec<f64>,
    classes: usize,
}

impl Table {
    /// The table of these answers, one a cell, with the probabilities of so many classes each.
    pub fn new(
        cells: Arc<Cells>,
        answers: Vec<Result<Prediction, RowError>>,
        probabilities: Vec<f64>,
        classes: usize,
    ) -> Table {
        Table { cells, answers, probabilities, classes }
    }

    /// The cell of a row; none if the model refuses one of its values.
    #[inline]
    pub fn cell(&self, row: &[f64]) -> Option<usize> {
        let mut cell = 0;
        for axis in &self.cells.axes {
            cell += axis.stride * axis.cell(row[axis.feature])?;
        }
        Some(cell)
    }

    /// The cells of rows, each `width` values long; false if the model refuses one of them.
    pub fn cells(&self, rows: &[f64], width: usize, cells: &mut Vec<u32>) -> bool {
        cells.reserve(rows.len() / width);
        #[cfg(target_arch = "x86_64")]
        if eight::is_available() {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { self.cells_by_eight(rows, width, cells) };
        }
        self.cells_by_one(rows, width, cells)
    }

    fn cells_by_one(&self, rows: &[f64], width: usize, cells: &mut Vec<u32>) -> bool {
        for row in rows.chunks_exact(width) {
            ask_ahead(row);
            match self.cell(row) {
                Some(cell) => cells.push(cell as u32),
                None => return false,
            }
        }
        true
    }

    /// As [`Table::cells`], by AVX-512.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn cells_by_eight(&self, rows: &[f64], width: usize, cells: &mut Vec<u32>) -> bool {
        let mut blocks = rows.chunks_exact(8 * width);
        let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let begins = _mm256_mullo_epi32(numbers, _mm256_set1_epi32(width as i32));
        for block in &mut blocks {
            ask_ahead(block);
            let mut found = _mm256_setzero_si256();
            for axis in &self.cells.axes {
                // SAFETY: each of the eight rows begins at one of `begins`, of which none overflows, as no row has more than 65,536
                // values, and has the feature.
                let values = unsafe { eight::doubles(&block[axis.feature..], begins) };
                let Some(places) = axis.cells_of_eight(values) else { return false };
                found = _mm256_add_epi32(found, _mm256_mullo_epi32(places, _mm256_set1_epi32(axis.stride as i32)));
            }
            cells.extend_from_slice(&eight::numbers(found));
        }
        self.cells_by_one(blocks.remainder(), width, cells)
    }

    pub fn answer(&self, cell: usize) -> Result<Prediction, RowError> {
        self.answers[cell]
    }

    pub fn probabilities(&self, cell: usize) -> &[f64] {
        &self.probabilities[cell * self.classes..][..self.classes]
    }
}

/// How far ahead rows are asked for, in bytes: finding the cells of so many takes longer than memory does to answer.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 2048;
/// Bytes that the processor fetches at once.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// Has the processor fetch the rows that come [`AHEAD`] bytes behind this one, if there are any: rows out of memory then take no longer
/// than rows out of its cache.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
fn ask_ahead(row: &[f64]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(CACHE_LINE / size_of::<f64>()) {
        // SAFETY: it is a hint, which reads nothing and is allowed for every address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_byte_add(AHEAD).cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_single_is_where_rounding_begins_to_overflow() {
        assert_eq!(MOST_SINGLE as f32, f32::MAX);
        assert!((MOST_SINGLE.next_up() as f32).is_infinite());
    }

    #[test]
    fn a_cell_holds_what_lies_in_it() {
        for missing in [false, true] {
            for limit in [2.0, MOST_SINGLE, f64::INFINITY] {
                let cuts = Cuts::new(vec![-1.0, 0.0, 1.5], Conversion::Double).unwrap();
                let axis = Axis { feature: 0, cuts, limit, missing, stride: 1 };
                for cell in 0..axis.cells() {
                    assert_eq!(axis.cell(axis.inside(cell)), Some(cell));
                }
                assert_eq!(axis.cell(f64::NAN), missing.then_some(4));
                assert_eq!(axis.cell(f64::INFINITY), (limit == f64::INFINITY).then_some(3));
                assert_eq!([-1.5, -1.0, -0.0, 0.5, 1.75].map(|value| axis.cell(value)), [0, 0, 1, 2, 3].map(Some));
            }
        }
    }

    #[test]
    fn rows_together_have_the_cells_of_each() {
        let axis = |feature, cuts: &[f64], limit, missing, stride| {
            let cuts = Cuts::new(cuts.to_vec(), Conversion::Double).unwrap();
            Axis { feature, cuts, limit, missing, stride }
        };
        let many: Vec<f64> = (0..100).map(f64::from).collect();
        let axes = vec![axis(2, &many, f64::INFINITY, true, 1), axis(0, &[0.5], 1e6, false, 102)];
        let table = Table::new(Arc::new(Cells { axes, count: 204 }), Vec::new(), Vec::new(), 2);
        // Every third value of the one that may be is missing; a block of eight, a part of one, and both.
        let row = |place: usize| {
            [place as f64 % 2.0, f64::NAN, if place.is_multiple_of(3) { f64::NAN } else { place as f64 * 7.3 - 9.0 }]
        };
        for count in [0, 1, 7, 8, 9, 40] {
            let mut rows: Vec<f64> = (0..count).flat_map(row).collect();
            let expected: Vec<u32> = rows.chunks(3).map(|row| table.cell(row).unwrap() as u32).collect();
            let mut found = Vec::new();
            assert!(table.cells(&rows, 3, &mut found));
            assert_eq!(found, expected);
            for refused in [f64::NAN, 2e6, f64::NEG_INFINITY] {
                for place in 0..count {
                    let kept = std::mem::replace(&mut rows[3 * place], refused);
                    assert!(!table.cells(&rows, 3, &mut Vec::new()), "{refused} in {place} of {count}");
                    rows[3 * place] = kept;
                }
            }
        }
    }
}
