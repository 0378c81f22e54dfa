//! All ways to an answer give the same bits: row by row, in blocks of every size, by the splits asked all at once, and by the
//! table of cells.

use lambda_inference::{Model, Scorer};

use crate::builder::{File, Random, Tree, leaf, split};

const ANY: f64 = f64::INFINITY;
const TINY: f64 = 1e-35_f32 as f64;

/// Trees and how they are compared and added.
struct Ensemble {
    trees: Vec<Tree>,
    base: Vec<f64>,
    argument: u32,
    /// What is refused before the trees, as the argument of a `require` step.
    refused: u32,
}

impl Ensemble {
    fn random(random: &mut Random, argument: u32, features: u16, few_thresholds: bool) -> Ensemble {
        let outputs = 1 + random.below(3);
        let one_value = argument & 4 != 0;
        let count = outputs * (1 + random.below(12));
        let width = if one_value { 1 } else { outputs };
        let trees = (0..count).map(|_| {
            let depth = random.below(8) as u32;
            tree(random, depth, features, width, few_thresholds)
        });
        let trees = trees.collect();
        Ensemble { trees, base: (0..outputs).map(|_| random.unit() as f32 as f64).collect(), argument, refused: 0 }
    }

    /// Whether a row is refused, and if so in which feature.
    fn refuses(&self, row: &[f64]) -> Option<usize> {
        row.iter().position(|value| match self.refused {
            refused if value.is_nan() => refused & 1 != 0,
            refused if value.is_infinite() => refused & 6 != 0,
            refused => refused & 4 != 0 && (*value as f32).is_infinite(),
        })
    }

    /// A file whose probabilities are the sums, each led through a sigmoid of its own.
    fn model(&self, features: usize) -> Model {
        let names: Vec<String> = (0..features).map(|index| format!("x{index}")).collect();
        let features: Vec<(&str, u32, f64, f64)> = names.iter().map(|name| (name.as_str(), 0, -ANY, ANY)).collect();
        let labels: Vec<i64> = (0..self.base.len() as i64).collect();
        let mut file = File::empty(&features, &labels, 0);
        if self.refused != 0 {
            file.step([1, self.refused, 0, features.len() as u32, 0, 0, 0, 0], &[], &[]);
        }
        let mut numbers = self.base.clone();
        let outputs = self.base.len();
        for tree in &self.trees {
            file.tree(tree, &mut |values| {
                if self.argument & 4 != 0 {
                    return (values[0], 0);
                }
                numbers.extend(values);
                (0.0, (numbers.len() / outputs - 2) as u32)
            });
        }
        let (inputs, outputs) = (features.len() as u32, outputs as u32);
        let trees = self.trees.len() as u32;
        let sums = file.step([8, self.argument, 0, inputs, outputs, 0, 0, trees], &numbers, &[]);
        let slot = file.step([16, 0, sums, outputs, outputs, 0, 0, 0], &[1.0], &[]);
        (file.model[1], file.model[4]) = (slot, slot);
        file.model()
    }

    fn probabilities(&self, row: &[f64]) -> Vec<f64> {
        let mut sums = self.base.clone();
        for (index, tree) in self.trees.iter().enumerate() {
            let values = reached(tree, row, self.argument & 3);
            let output = index % sums.len();
            match self.argument & 12 {
                0 | 8 => sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
                4 => sums[output] += values[0],
                _ => sums[output] = f64::from(sums[output] as f32 + values[0] as f32),
            }
        }
        sums.iter().map(|sum| 1.0 / (1.0 + (-sum).exp())).collect()
    }
}

fn tree(random: &mut Random, depth: u32, features: u16, width: usize, few_thresholds: bool) -> Tree {
    if depth == 0 || random.below(6) == 0 {
        let values: Vec<f64> = (0..width).map(|_| (random.unit() - 0.5) as f32 as f64).collect();
        return leaf(&values);
    }
    let threshold = match random.below(16) {
        0 => [ANY, -ANY, 0.0, -0.0, TINY, -TINY, 3.5e38][random.below(7)],
        _ if few_thresholds => random.below(4) as f64 / 3.0,
        _ => (random.unit() - 0.5) * 20.0,
    };
    let mut child = || tree(random, depth - 1, features, width, few_thresholds);
    let children = (child(), child());
    let missing_left = random.below(2) == 0;
    split(random.below(usize::from(features)) as u16, threshold, missing_left, children.0, children.1)
}

fn reached<'a>(tree: &'a Tree, row: &[f64], conversion: u32) -> &'a [f64] {
    match tree {
        Tree::Leaf(values) => values,
        Tree::Split { feature, threshold, missing_left, children } => {
            let value = row[usize::from(*feature)];
            let value = match conversion {
                0 => value,
                1 => f64::from(value as f32),
                _ if value.abs() <= TINY => 0.0,
                _ => value,
            };
            let left = (value.is_nan() && *missing_left) || value <= *threshold;
            reached(&children[usize::from(!left)], row, conversion)
        }
    }
}

/// Values as they come, and some on thresholds.
fn value(random: &mut Random, missing: bool) -> f64 {
    let value = match random.below(5) {
        0 => random.below(4) as f64 / 3.0,
        1 => (random.below(4) as f64 / 3.0).next_up(),
        2 => [TINY, -TINY, 0.0, -0.0, TINY.next_up(), 1e-40, 1.0][random.below(7)],
        _ => random.value(),
    };
    if value.is_nan() && !missing { 0.25 } else { value }
}

fn check(ensemble: &Ensemble, random: &mut Random, features: usize, rows: usize) -> usize {
    let model = ensemble.model(features);
    let missing = random.below(2) == 0;
    let rows: Vec<f64> = (0..rows * features).map(|_| value(random, missing)).collect();
    let expected: Vec<Result<Vec<u64>, usize>> = rows
        .chunks(features)
        .map(|row| match ensemble.refuses(row) {
            Some(feature) => Err(feature),
            None => Ok(ensemble.probabilities(row).iter().map(|value| value.to_bits()).collect()),
        })
        .collect();
    let found = |scorer: &Scorer<'_>, row: usize| match scorer.prediction(row) {
        Ok(_) => Ok(scorer.probabilities_of(row).iter().map(|value| value.to_bits()).collect()),
        Err(error) => Err(error.feature(&model).expect("a value of the row is refused")),
    };
    let mut alone = model.scorer();
    for (row, expected) in rows.chunks(features).zip(&expected) {
        let _ = alone.predict(row);
        assert_eq!(&found(&alone, 0), expected, "{row:?}");
    }
    // One scorer for all sizes: at some row it may begin to use a table.
    let mut together = model.scorer();
    let sizes: &[usize] = if cfg!(miri) { &[2, 17, 300] } else { &[2, 15, 16, 17, 64, 300] };
    for size in sizes.iter().copied() {
        for (rows, expected) in rows.chunks(features * size).zip(expected.chunks(size)) {
            together.predict_block(rows);
            for (row, expected) in expected.iter().enumerate() {
                assert_eq!(&found(&together, row), expected, "{size}");
            }
        }
    }
    expected.len()
}

#[test]
fn all_ways_give_the_same_bits() {
    let mut random = Random(11);
    let mut compared = 0;
    // Every sixteenth under Miri, which takes its time: still every way of comparing and adding, and rows beyond a block of each kind.
    let (step, rows, least) = if cfg!(miri) { (16, 70, 500) } else { (1, 150, 20_000) };
    for round in (0..180_u32).step_by(step) {
        let conversion = round % 3;
        let argument = conversion | [0, 4, 12][(round / 3 % 3) as usize];
        // Few features and thresholds make tables, many do not; beyond 1,024 features a node no longer fits its eight bytes.
        let (features, few) = [(3, true), (40, false), (1, true), (2, false), (1_100, false)][(round / 9 % 5) as usize];
        let mut ensemble = Ensemble::random(&mut random, argument, features, few);
        ensemble.refused = [0, 0, 1, 4, 7][(round % 5) as usize];
        compared += check(&ensemble, &mut random, usize::from(features), if features > 1_000 { 20 } else { rows });
    }
    assert!(compared > least, "{compared}");
}

#[test]
fn a_row_without_an_answer_does_not_disturb_its_block() {
    let tree = split(0, 0.5, false, leaf(&[0.25, 0.75]), leaf(&[0.5, 0.5]));
    let model = File::new(&[("x", 0, -ANY, ANY)], &[0, 1], 1, &tree).model();
    let mut scorer = model.scorer();
    scorer.predict_block(&[0.0, ANY, 1.0, 1e300, f64::NAN]);
    let found: Vec<Option<f64>> =
        (0..5).map(|row| scorer.prediction(row).ok().map(|found| found.probability)).collect();
    assert_eq!(found, [Some(0.75), None, Some(0.5), None, Some(0.5)]);
    scorer.predict_block(&[]);
    scorer.predict_block(&[1.0]);
    assert_eq!(scorer.prediction(0).unwrap().probability, 0.5);
}
