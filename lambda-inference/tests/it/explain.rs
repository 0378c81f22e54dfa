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
    for round in 0..60 {
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
