use lambda_inference::Model;

use crate::builder::{File, Random, Tree, credit, everything, leaf, split};

const ANY: f64 = f64::INFINITY;

/// The worth of a tree for a row of which only some features are known.
fn worth(file: &File, root: usize, row: &[f64], known: u32, leaf: &impl Fn(usize) -> f64) -> f64 {
    let node = &file.nodes[root];
    if node.flags & 1 != 0 {
        return leaf(root);
    }
    let (left, right) = (node.child as usize, node.child as usize + 1);
    let on = |child: usize| worth(file, child, row, known, leaf);
    if known >> node.feature & 1 == 0 {
        return (file.covers[left] * on(left) + file.covers[right] * on(right)) / file.covers[root];
    }
    let value = row[usize::from(node.feature)] as f32;
    let goes_left = (value.is_nan() && node.flags & 2 != 0) || f64::from(value) <= node.threshold;
    on(if goes_left { left } else { right })
}

/// Shapley values by their definition, over all sets of features.
fn shapley(features: u32, worth: impl Fn(u32) -> f64) -> Vec<f64> {
    let worths: Vec<f64> = (0..1 << features).map(worth).collect();
    let factorial = |number: u32| (1..=number).map(f64::from).product::<f64>();
    let value = |feature: u32| {
        let without = (0..1_u32 << features).filter(|set| set >> feature & 1 == 0);
        let weighed = without.map(|set| {
            let size = set.count_ones();
            let weight = factorial(size) * factorial(features - 1 - size) / factorial(features);
            weight * (worths[(set | 1 << feature) as usize] - worths[set as usize])
        });
        weighed.sum()
    };
    (0..features).map(value).collect()
}

/// A forest in which leaves hold rows of probabilities, or one value for the trees' outputs in turn.
fn forest(trees: &[Tree], features: u32, classes: usize, rows: bool) -> File {
    let names: Vec<String> = (0..features).map(|index| format!("x{index}")).collect();
    let ranges: Vec<(&str, u32, f64, f64)> = names.iter().map(|name| (name.as_str(), 0, -ANY, ANY)).collect();
    let labels: Vec<i64> = (0..classes as i64).collect();
    let mut file = File::empty(&ranges, &labels, classes as u32 - 1);
    let outputs = if rows || classes > 2 { classes } else { 1 };
    let mut numbers = vec![0.25; outputs];
    for tree in trees {
        file.tree(tree, &mut |values| {
            if !rows {
                return (values[0], 0);
            }
            numbers.extend(values);
            (0.0, (numbers.len() / outputs - 2) as u32)
        });
    }
    let argument = if rows { 1 } else { 1 | 4 };
    let sums = file.step([8, argument, 0, features, outputs as u32, 0, 0, trees.len() as u32], &numbers, &[]);
    let softmax = if outputs == 1 {
        file.step([11, 0, sums, 1, 2, 0, 0, 0], &[1.0], &[])
    } else {
        file.step([13, 0, sums, outputs as u32, outputs as u32, 0, 0, 0], &[], &[])
    };
    (file.model[1], file.model[4]) = (softmax, softmax);
    file.weigh();
    file
}

#[test]
fn contributions_are_the_shapley_values_of_the_definition() {
    let mut random = Random(7);
    // Fewer under Miri, which takes its time.
    for round in (0..60).step_by(if cfg!(miri) { 10 } else { 1 }) {
        let (features, classes, rows) = (1 + round % 7, 2 + usize::from(round % 3 == 0), round % 2 == 0);
        let depth = random.below(9) as u32;
        let trees: Vec<Tree> =
            (0..2 * classes).map(|_| Tree::random(&mut random, depth, features as u16, classes)).collect();
        let file = forest(&trees, features, classes, rows);
        let model = file.model();
        let mut explainer = model.explainer().unwrap();
        let values: Vec<f64> = (0..13 * features).map(|_| random.value()).collect();
        // All rows at once, and each on its own: bit for bit the same.
        explainer.explain_block(&values);
        let outputs = file.steps[0][4] as usize;
        let explained = if classes == 2 { vec![outputs - 1] } else { (0..outputs).collect() };
        let mut alone = model.explainer().unwrap();
        for (place, row) in values.chunks_exact(features as usize).enumerate() {
            let found = explainer.explanation(place).unwrap().contributions;
            assert_eq!(found, alone.explain(row).unwrap().contributions);
            assert_eq!(explainer.explanation(place).unwrap().prediction, model.predict(row).unwrap());
            for ((found, base), output) in found.chunks_exact(features as usize).zip(explainer.base()).zip(&explained) {
                let all = |known: u32| {
                    let trees = file.trees.iter().enumerate();
                    let own = trees.filter(|(index, _)| rows || index % outputs == *output);
                    let leaf = |node: usize| match rows {
                        true => file.numbers[outputs * (1 + file.nodes[node].child as usize) + output],
                        false => file.nodes[node].threshold,
                    };
                    0.25 + own.map(|(_, tree)| worth(&file, tree[0] as usize, row, known, &leaf)).sum::<f64>()
                };
                let expected = shapley(features, all);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
                }
                assert!((base - all(0)).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn a_path_may_ask_for_more_features_than_one_pass_has_points_for() {
    // A chain that asks for 11 features, twice each: the rest of the path is worth half of it.
    let features = 11_u16;
    let chain = (0..2 * features).fold(leaf(&[64.0]), |tree, index| {
        split(index % features, f64::from(index), false, tree, leaf(&[f64::from(index)]))
    });
    let file = forest(&[chain], u32::from(features), 2, false);
    let model = file.model();
    let mut explainer = model.explainer().unwrap();
    let mut random = Random(3);
    for _ in 0..3 {
        let row: Vec<f64> = (0..features).map(|_| random.unit() * 50.0).collect();
        let leaf = |node: usize| file.nodes[node].threshold;
        let expected = shapley(u32::from(features), |known| worth(&file, 0, &row, known, &leaf));
        for (found, expected) in explainer.explain(&row).unwrap().contributions.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-11, "{found} for {expected}");
        }
    }
}

#[test]
fn a_table_of_contributions_holds_what_is_computed() {
    let model = credit().0.model();
    let rows: Vec<f64> = (0..4_000)
        .flat_map(|index| {
            let index = f64::from(index);
            [index % 5.0, 60_000.0 + 10.0 * index, index % 2.0, f64::from(index % 3.0 == 0.0)]
        })
        .collect();
    let mut explainer = model.explainer().unwrap();
    explainer.explain_block(&rows);
    let computed: Vec<Vec<f64>> =
        (0..4_000).map(|row| explainer.explanation(row).unwrap().contributions.to_vec()).collect();
    explainer.explain_block(&rows);
    for (row, computed) in computed.iter().enumerate() {
        assert_eq!(explainer.explanation(row).unwrap().contributions, computed);
    }
    // A row that has no cell, among others that have.
    explainer.explain_block(&[0.0, ANY, 0.0, 0.0, 1.0, 75_000.0, 1.0, 1.0]);
    assert!(explainer.explanation(0).is_err());
    let found = explainer.explanation(1).unwrap().contributions.to_vec();
    assert_eq!(found, model.explainer().unwrap().explain(&[1.0, 75_000.0, 1.0, 1.0]).unwrap().contributions);
}

/// A linear model behind preprocessing: a scaled number, and a text of three as flags.
fn linear() -> File {
    let ranges = [("a", 0, -ANY, ANY), ("b", 0, -ANY, ANY)];
    let mut file = File::empty(&ranges, &[0, 1], 1);
    file.texts(&["red", "green", "blue"]);
    let scaled = file.step([4, 0, 0, 1, 1, 0, 0, 0], &[10.0, 4.0], &[]);
    let numbers = [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, -1.0, -1.0];
    file.step([7, 0, 1, 1, 3, 0, 0, 0], &numbers, &[3, 0, 0, 0]);
    let score = file.step([9, 0, scaled, 4, 1, 0, 0, 0], &[0.5, 2.0, 1.0, -1.0, 3.0], &[]);
    let sigmoid = file.step([11, 0, score, 1, 2, 0, 0, 0], &[1.0], &[]);
    (file.model[1], file.model[3], file.model[4]) = (sigmoid, 1, score);
    file.means = vec![0.5, 0.25, 0.25, 0.5];
    file
}

#[test]
fn a_linear_model_is_explained_on_the_features_that_its_inputs_were_derived_from() {
    let model = linear().model();
    let mut explainer = model.explainer().unwrap();
    // 0.5 + 2 * 0.5 + 0.25 - 0.25 + 3 * 0.5
    assert_eq!(explainer.base(), [3.0]);
    let explanation = explainer.explain(&[12.0, 1.0]).unwrap();
    // The number is 0.5 once scaled, as its mean; green: 1 * -0.25 + -1 * 0.75 + 3 * -0.5.
    assert_eq!(explanation.contributions, [0.0, -2.5]);
    let positive = |file: &mut File| {
        file.model[2] = 0;
        file.model().explainer().unwrap().explain(&[12.0, 1.0]).unwrap().contributions.to_vec()
    };
    assert_eq!(positive(&mut linear()), [-0.0, 2.5]);
}

#[test]
fn a_model_without_what_explanations_need_says_so() {
    let reason = |file: &File| match file.model().explainer() {
        Ok(_) => panic!("there are explanations"),
        Err(error) => error.to_string(),
    };
    let mut file = credit().0;
    file.covers.clear();
    assert!(reason(&file).contains("training weights"));
    let mut file = linear();
    file.means.clear();
    assert!(reason(&file).contains("training means"));
    assert!(reason(&everything()).contains("no explanations"));
    let deep = (0..1100).fold(leaf(&[1.0, 0.0]), |tree, _| split(0, 0.0, false, tree, leaf(&[0.0, 1.0])));
    let mut file = File::new(&[("a", 0, -ANY, ANY)], &[0, 1], 1, &deep);
    file.weigh();
    assert!(reason(&file).contains("deeper than 1024"));
    let nothing: &Model = &File::new(&[("a", 0, -ANY, ANY)], &[0, 1], 1, &leaf(&[0.5, 0.5])).model();
    assert!(nothing.explainer().is_err());
}

/// The values of one feature nearer to a row's own than `found`, or all if none was found: a fine grid, and both sides of every
/// threshold.
fn nearer(file: &File, own: f64, whole: bool, found: Option<f64>) -> Vec<f64> {
    let grid = (0..=4_000).map(|place| -10.0 + f64::from(place) / 200.0);
    let thresholds = file.nodes.iter().filter(|node| node.flags & 1 == 0).map(|node| node.threshold);
    let beside = thresholds.flat_map(|threshold| {
        let single = threshold as f32;
        let singles = [single.next_down(), single, single.next_up()].map(f64::from);
        // Where doubles are rounded to the next single: halfway between two of them.
        let halfway = [f64::midpoint(singles[0], singles[1]), f64::midpoint(singles[1], singles[2])];
        let halfway = halfway.into_iter().flat_map(|value| [value.next_down(), value, value.next_up()]);
        [threshold, threshold.next_up(), threshold.floor(), threshold.ceil()].into_iter().chain(singles).chain(halfway)
    });
    let all = grid.chain(beside).filter(|value| (-10.0..=10.0).contains(value) && (!whole || value.fract() == 0.0));
    all.filter(|value| found.is_none_or(|found| (value - own).abs() < (found - own).abs())).collect()
}

#[test]
fn a_counterfactual_is_the_nearest_value_that_changes_the_decision() {
    let mut random = Random(11);
    let (mut changed, mut never) = (0, 0);
    for round in 0..40 {
        let trees: Vec<Tree> = (0..1 + round % 4).map(|_| Tree::random(&mut random, 4, 3, 2)).collect();
        let mut file = forest(&trees, 3, 2, true);
        for (feature, kind) in file.features.iter_mut().zip([0, 1, 0]) {
            (feature.kind, feature.minimum, feature.maximum) = (kind, -10.0, 10.0);
        }
        let model = file.model();
        let mut explainer = model.explainer().unwrap();
        for _ in 0..6 {
            let mut row: Vec<f64> = (0..3).map(|_| random.unit() * 20.0 - 10.0).collect();
            row[1] = row[1].round();
            let contributions = explainer.explain(&row).unwrap().contributions.to_vec();
            let reasons = explainer.reasons(&row).unwrap();
            if model.predict(&row).unwrap().class == 1 {
                assert_eq!(reasons, []);
                continue;
            }
            let negative = contributions.iter().filter(|contribution| **contribution < -1e-12).count();
            assert_eq!(reasons.len(), negative.max(1));
            assert!(reasons.is_sorted_by_key(|reason| reason.contribution));
            for reason in reasons {
                assert_eq!(reason.contribution, contributions[reason.feature]);
                let with = |value: f64| {
                    let mut row = row.clone();
                    row[reason.feature] = value;
                    model.predict(&row).unwrap().class
                };
                let own = row[reason.feature];
                match reason.counterfactual {
                    Some(value) => {
                        assert_eq!(with(value), 1);
                        assert!((-10.0..=10.0).contains(&value) && (reason.feature != 1 || value.fract() == 0.0));
                        changed += 1;
                    }
                    None => never += 1,
                }
                for value in nearer(&file, own, reason.feature == 1, reason.counterfactual) {
                    assert_eq!(with(value), 0, "{value} is nearer to {own} than {:?}", reason.counterfactual);
                }
            }
        }
    }
    assert!(changed > 50 && never > 10, "{changed} changed, {never} never");
}

#[test]
fn counterfactuals_of_a_linear_model_reach_through_its_preprocessing() {
    let mut file = linear();
    (file.features[0].minimum, file.features[0].maximum) = (-100.0, 100.0);
    let model = file.model();
    // 0.5 + 2 (a - 10) / 4 + 3 for blue, -1 for green, 1 for red: green is denied up to 11.
    let reasons = model.explainer().unwrap().reasons(&[4.0, 1.0]).unwrap();
    assert_eq!(reasons.iter().map(|reason| reason.feature).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(reasons[0].counterfactual, Some(11.0_f64.next_up()));
    assert_eq!(reasons[1].counterfactual, Some(2.0));
    // A whole number goes to the next one.
    file.features[0].kind = 1;
    let reasons = file.model().explainer().unwrap().reasons(&[4.0, 1.0]).unwrap();
    assert_eq!(reasons[0].counterfactual, Some(12.0));
    // Out of range there is none, and without an end the search finds it all the same.
    (file.features[0].minimum, file.features[0].maximum) = (-100.0, 11.0);
    assert_eq!(file.model().explainer().unwrap().reasons(&[4.0, 1.0]).unwrap()[0].counterfactual, None);
    (file.features[0].kind, file.features[0].minimum, file.features[0].maximum) = (0, -ANY, ANY);
    let reasons = file.model().explainer().unwrap().reasons(&[-1e6, 1.0]).unwrap();
    assert_eq!(reasons[0].counterfactual, Some(11.0_f64.next_up()));
    // Whoever lies outside of the range is brought into it, and no less far than that; what was no whole number becomes one.
    (file.features[0].minimum, file.features[0].maximum) = (20.5, 100.0);
    assert_eq!(file.model().explainer().unwrap().reasons(&[-7.5, 1.0]).unwrap()[0].counterfactual, Some(20.5));
    file.features[0].kind = 1;
    assert_eq!(file.model().explainer().unwrap().reasons(&[-7.5, 1.0]).unwrap()[0].counterfactual, Some(21.0));
    file.features[0].minimum = -100.0;
    assert_eq!(file.model().explainer().unwrap().reasons(&[-7.5, 1.0]).unwrap()[0].counterfactual, Some(12.0));
}

#[test]
fn where_nothing_speaks_against_approval_what_helps_least_is_the_reason() {
    let tree = split(0, 0.5, false, leaf(&[0.9, 0.1]), split(1, 0.5, false, leaf(&[0.6, 0.4]), leaf(&[0.6, 0.4])));
    let mut file = File::new(&[("a", 2, 0.0, 1.0), ("b", 2, 0.0, 1.0)], &[0, 1], 1, &tree);
    file.weigh();
    let reasons = file.model().explainer().unwrap().reasons(&[1.0, 1.0]).unwrap();
    assert_eq!(reasons.len(), 1);
    assert_eq!((reasons[0].feature, reasons[0].counterfactual), (1, None));
    assert!(reasons[0].contribution.abs() < 1e-15);
}

#[test]
fn a_counterfactual_lies_in_the_range_of_its_feature() {
    let tree = split(0, 0.5, false, leaf(&[0.9, 0.1]), leaf(&[0.1, 0.9]));
    let counterfactual = |minimum: f64, maximum: f64, own: f64| {
        let mut file = File::new(&[("a", 0, minimum, maximum)], &[0, 1], 1, &tree);
        file.weigh();
        file.model().explainer().unwrap().reasons(&[own]).unwrap()[0].counterfactual
    };
    let found = counterfactual(0.0, 1.0, 0.25).unwrap();
    assert!(found > 0.5 && f64::from(found.next_down() as f32) <= 0.5);
    assert_eq!(counterfactual(0.0, found, 0.25), Some(found));
    assert_eq!(counterfactual(0.0, found.next_down(), 0.25), None);
}
