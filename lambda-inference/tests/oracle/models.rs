//! Model files of any bytes: refused with a reason, or answering with sense whatever is asked.

use lambda_inference::{Explainer, FeatureKind, Model, Scorer};

use super::builder::{Random, rehash};

/// Rows that are asked: some for each way of computing blocks.
const ROWS: usize = 17;

/// Loads a file of any bytes, whose length and checksum are set right so that everything behind them is reached. Whether it was taken;
/// then it was asked.
pub fn withstands(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 24 {
        let length = bytes.len() as u64;
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
    }
    rehash(&mut bytes);
    match Model::from_bytes(&bytes) {
        Ok(model) => {
            exercise(&model, &bytes);
            true
        }
        Err(reason) => {
            assert!(!reason.to_string().is_empty());
            false
        }
    }
}

/// Scores and explains rows with a model that was taken: the answers may be any, but have to make sense and to be the same by all ways.
pub fn exercise(model: &Model, file: &[u8]) {
    assert!(model.metadata().trim_ascii().starts_with('{'));
    let rows = rows(model, file);
    let mut block = model.scorer();
    block.predict_block(&rows);
    let mut single = model.scorer();
    let width = model.features().len();
    for (place, row) in rows.chunks_exact(width).enumerate() {
        let found = single.predict(row);
        assert_eq!(found, block.prediction(place));
        if let Ok(prediction) = found {
            assert!((0.0..=1.0).contains(&prediction.probability), "{prediction:?}");
            assert!(model.classes().contains(&prediction.class));
        }
    }
    if let Ok(mut explainer) = model.explainer() {
        explain(model, &rows, &mut single, &mut explainer);
    }
}

/// Rows of ordinary and extreme values, and of those at both sides of whatever numbers stand in the file, thresholds among them.
fn rows(model: &Model, file: &[u8]) -> Vec<f64> {
    let mut random = Random(u64::from(crc32fast::hash(file)));
    let numbers: Vec<f64> = file.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    let value = |_| {
        let number = numbers[random.below(numbers.len())];
        match random.below(6) {
            0 => number,
            1 => number.next_up(),
            2 => number.next_down(),
            _ => random.value(),
        }
    };
    (0..ROWS * model.features().len()).map(value).collect()
}

fn explain(model: &Model, rows: &[f64], scorer: &mut Scorer<'_>, explainer: &mut Explainer<'_>) {
    let width = model.features().len();
    let mut alone = model.explainer().expect("explanations, as before");
    explainer.explain_block(rows);
    for (place, row) in rows.chunks_exact(width).enumerate() {
        let predicted = scorer.predict(row);
        match (explainer.explanation(place), alone.explain(row)) {
            (Ok(found), Ok(other)) => {
                assert_eq!(Ok(found.prediction), predicted);
                let bits =
                    |contributions: &[f64]| contributions.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(found.contributions), bits(other.contributions));
            }
            (Err(found), Err(other)) => {
                assert_eq!((Err(found), found), (predicted, other));
                continue;
            }
            (found, other) => panic!("{found:?} in a block, {other:?} alone"),
        }
        let approved = predicted.is_ok_and(|prediction| prediction.class == model.positive_class());
        let reasons = alone.reasons(row).expect("reasons of a row that was explained");
        assert!(reasons.len() <= 4 && approved == reasons.is_empty(), "{approved}: {reasons:?}");
        for reason in reasons {
            let Some(value) = reason.counterfactual else { continue };
            let feature = &model.features()[reason.feature];
            let possible = match feature.kind {
                FeatureKind::Text => value >= 0.0 && value < feature.texts.len() as f64,
                _ => (feature.minimum..=feature.maximum).contains(&value),
            };
            assert!(possible, "{value} is outside of {feature:?}");
            let mut changed = row.to_vec();
            changed[reason.feature] = value;
            let class = scorer.predict(&changed).expect("an answer to a counterfactual").class;
            assert_eq!(class, model.positive_class());
        }
    }
}
