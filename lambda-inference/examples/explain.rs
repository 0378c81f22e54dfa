//! Measures explanations: `explain MODEL ROWS CONTRIBUTIONS` explains rows (f64, little-endian, one after the other) one by one and in
//! blocks, writes base values and, row by row, contributions in the same form, and prints the processor times of a row as JSON.

use std::path::Path;

use lambda_inference::Model;

/// Rows that are timed one by one, at most.
const ALONE: usize = 1_000_000;
/// Rows of a block.
const BLOCK: usize = 256;
/// How long each is measured, in nanoseconds.
const LIMIT: f64 = 1e9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, rows, found] = arguments.as_slice() else {
        return Err("usage: explain MODEL ROWS CONTRIBUTIONS".into());
    };
    let model = Model::from_bytes(&std::fs::read(model)?)?;
    let rows = numbers(Path::new(rows))?;
    let width = model.features().len();

    let begun = processor_time()?;
    let mut alone = 0;
    for row in rows.chunks_exact(width).cycle().take(ALONE) {
        // As for a request: what one explanation leaves behind serves no other.
        let mut explainer = model.explainer()?;
        std::hint::black_box(explainer.explain(std::hint::black_box(row))).map_err(|error| format!("{error:?}"))?;
        alone += 1;
        if alone % 64 == 0 && processor_time()? - begun > LIMIT {
            break;
        }
    }
    let one_row = (processor_time()? - begun) / f64::from(alone);

    let mut explainer = model.explainer()?;
    let mut contributions = explainer.base().to_vec();
    for block in rows.chunks(width * BLOCK) {
        explainer.explain_block(block);
        for row in 0..block.len() / width {
            contributions.extend(explainer.explanation(row).map_err(|error| format!("{error:?}"))?.contributions);
        }
    }
    let begun = processor_time()?;
    let mut blocks = 0;
    for block in rows.chunks_exact(width * BLOCK).cycle() {
        explainer.explain_block(std::hint::black_box(block));
        blocks += 1;
        if blocks % 8 == 0 && processor_time()? - begun > LIMIT {
            break;
        }
    }
    let batch = (processor_time()? - begun) / f64::from(blocks) / BLOCK as f64;
    let bytes: Vec<u8> = contributions.iter().flat_map(|number| number.to_le_bytes()).collect();
    std::fs::write(found, bytes)?;
    println!("{{\"one_row\": {one_row}, \"batch\": {batch}}}");
    Ok(())
}

/// Nanoseconds that this program has had of a processor: other programs beside it do not count.
fn processor_time() -> Result<f64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

fn numbers(path: &Path) -> std::io::Result<Vec<f64>> {
    Ok(std::fs::read(path)?.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}
