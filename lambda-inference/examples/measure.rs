//! Measures scoring: `measure MODEL ROWS ANSWERS` predicts rows (f64, little-endian, one after the other) one by one and in
//! blocks, writes the probabilities of the positive class in the same form, and prints the median times of a row as JSON.

use std::path::Path;
use std::time::Instant;

use lambda_inference::Model;

/// Rows that are predicted one by one.
const ALONE: usize = 5_120;
/// How many of them are timed together, so that the clock, which takes longer than a small tree, does not count.
const TOGETHER: usize = 16;
/// Rows of a block, as in the program `score`.
const BLOCK: usize = 256;
/// How often all rows are predicted in blocks.
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, rows, answers] = arguments.as_slice() else { return Err("usage: measure MODEL ROWS ANSWERS".into()) };
    let model = Model::from_bytes(&std::fs::read(model)?)?;
    let rows: Vec<f64> = numbers(Path::new(rows))?;
    let width = model.features().len();

    let mut scorer = model.scorer();
    let mut alone = Vec::new();
    for rows in rows.chunks_exact(width * TOGETHER).take(ALONE / TOGETHER) {
        let begun = Instant::now();
        for row in rows.chunks_exact(width) {
            let prediction = scorer.predict(std::hint::black_box(row));
            std::hint::black_box(prediction).map_err(|error| format!("{error:?}"))?;
        }
        alone.push(begun.elapsed().as_nanos() as f64 / TOGETHER as f64);
    }

    let mut scorer = model.scorer();
    let (mut blocks, mut found) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        found.clear();
        for block in rows.chunks(width * BLOCK) {
            let begun = Instant::now();
            scorer.predict_block(block);
            let count = block.len() / width;
            for row in 0..count {
                found.push(scorer.prediction(row).map_err(|error| format!("{error:?}"))?.probability);
            }
            blocks.push(begun.elapsed().as_nanos() as f64 / count as f64);
        }
    }
    let bytes: Vec<u8> = found.iter().flat_map(|probability| probability.to_le_bytes()).collect();
    std::fs::write(answers, bytes)?;
    println!("{{\"one_row\": {}, \"batch\": {}}}", median(&mut alone), median(&mut blocks));
    Ok(())
}

fn numbers(path: &Path) -> std::io::Result<Vec<f64>> {
    Ok(std::fs::read(path)?.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
