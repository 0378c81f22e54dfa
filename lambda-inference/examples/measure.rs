//! Measures scoring on rows of f64, little-endian, one after the other; prints JSON, times in nanoseconds a row.
//!
//! `measure MODEL ROWS ANSWERS` predicts them one by one and in blocks, on one thread, and writes the probabilities of the positive
//! class in the same form. `measure MODEL ROWS --threads` compares blocks on one thread with blocks on two, `measure MODEL ROWS
//! --memory` blocks of rows that lie in no cache with only reading these rows.

use std::ffi::OsStr;
use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use lambda_inference::{Model, Scorer};

/// Rows that are timed together where they are predicted one by one, so that reading the clock does not count.
const GROUP: usize = 64;
/// Rows of a block, as in the program `score`.
const BLOCK: usize = 256;
/// How often all rows are predicted in blocks.
const PASSES: usize = 5;
/// Rows before the clock runs: whatever a long batch makes on its way is there.
const WARM_UP: usize = 200_000;
/// The least work that threads are compared by.
const LEAST_WORK: Duration = Duration::from_millis(100);
/// Far more than a processor's cache holds.
const MEMORY: usize = 256 << 20;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, rows, task] = arguments.as_slice() else {
        return Err("usage: measure MODEL ROWS ANSWERS|--threads|--memory".into());
    };
    let model = Model::from_bytes(&std::fs::read(model)?)?;
    let rows = numbers(Path::new(rows))?;
    let width = model.features().len();
    if rows.len() < width * GROUP || !rows.len().is_multiple_of(width) {
        return Err(format!("whole rows of {width} numbers are needed, at least {GROUP} of them").into());
    }
    match task.to_str() {
        Some("--threads") => threads(&model, &rows),
        Some("--memory") => memory(&model, &rows),
        _ => one_thread(&model, &rows, task),
    }
}

fn one_thread(model: &Model, rows: &[f64], answers: &OsStr) -> Result<(), Failure> {
    let one_row = one_by_one(model, rows)?;
    let mut scorer = model.scorer();
    let mut found = Vec::new();
    warm_up(&mut scorer, rows, model);
    let width = model.features().len();
    let mut times = Vec::new();
    for _ in 0..PASSES {
        found.clear();
        for block in rows.chunks(width * BLOCK) {
            let begun = Instant::now();
            in_blocks(&mut scorer, block, model, |probability| found.push(probability))?;
            times.push(begun.elapsed().as_nanos() as f64 * width as f64 / block.len() as f64);
        }
    }
    let bytes: Vec<u8> = found.iter().flat_map(|probability| probability.to_le_bytes()).collect();
    std::fs::write(answers, bytes)?;
    println!("{{\"one_row\": {one_row:.2}, \"batch\": {:.3}}}", median(&mut times));
    Ok(())
}

/// The median over groups of rows, in nanoseconds a row.
fn one_by_one(model: &Model, rows: &[f64]) -> Result<f64, Failure> {
    let width = model.features().len();
    let mut scorer = model.scorer();
    let mut times = Vec::new();
    // Once without the clock, as the peers' rows.
    for timed in [false, true] {
        for group in rows.chunks_exact(width * GROUP) {
            let begun = Instant::now();
            for row in group.chunks_exact(width) {
                black_box(scorer.predict(black_box(row))).map_err(|error| format!("{error:?}"))?;
            }
            if timed {
                times.push(begun.elapsed().as_nanos() as f64 / GROUP as f64);
            }
        }
    }
    Ok(median(&mut times))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Predicts all rows in blocks and gives each probability.
fn in_blocks(scorer: &mut Scorer<'_>, rows: &[f64], model: &Model, mut take: impl FnMut(f64)) -> Result<(), Failure> {
    let width = model.features().len();
    for block in rows.chunks(width * BLOCK) {
        scorer.predict_block(black_box(block));
        for row in 0..block.len() / width {
            take(scorer.prediction(row).map_err(|error| format!("{error:?}"))?.probability);
        }
    }
    Ok(())
}

fn warm_up(scorer: &mut Scorer<'_>, rows: &[f64], model: &Model) {
    let width = model.features().len();
    for block in rows.chunks(width * BLOCK).cycle().take(WARM_UP / BLOCK + 1) {
        scorer.predict_block(block);
    }
}

/// The least time of several passes, as what disturbs only ever adds.
fn least(passes: usize, mut work: impl FnMut() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let mut least = Duration::MAX;
    for _ in 0..passes {
        let begun = Instant::now();
        work()?;
        least = least.min(begun.elapsed());
    }
    Ok(least)
}

fn a_row(time: Duration, model: &Model, rows: &[f64]) -> f64 {
    time.as_nanos() as f64 * model.features().len() as f64 / rows.len() as f64
}

/// One thread and two, in turns, with so many rows that starting threads does not count.
fn threads(model: &Model, rows: &[f64]) -> Result<(), Failure> {
    let mut scorer = model.scorer();
    warm_up(&mut scorer, rows, model);
    let once = least(PASSES, || in_blocks(&mut scorer, rows, model, |probability| _ = black_box(probability)))?;
    let repeats = (LEAST_WORK.as_nanos() / once.as_nanos().max(1)).max(2) as usize;
    let (mut alone, mut together) = (Duration::MAX, Duration::MAX);
    for _ in 0..2 * PASSES {
        alone = alone.min(on_threads(model, rows, 1, repeats)?);
        together = together.min(on_threads(model, rows, 2, repeats)?);
    }
    let nanoseconds = |time: Duration| a_row(time, model, rows) / repeats as f64;
    println!("{{\"one_thread\": {:.3}, \"two_threads\": {:.3}}}", nanoseconds(alone), nanoseconds(together));
    Ok(())
}

/// How long so many threads take for `repeats` times all rows, each with its own scorer and its share of them.
fn on_threads(model: &Model, rows: &[f64], threads: usize, repeats: usize) -> Result<Duration, Failure> {
    let width = model.features().len();
    let share = (rows.len() / width).div_ceil(threads) * width;
    let (begin, end) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    std::thread::scope(|scope| {
        let running: Vec<_> = rows
            .chunks(share)
            .map(|rows| {
                let (begin, end) = (&begin, &end);
                scope.spawn(move || {
                    let mut scorer = model.scorer();
                    warm_up(&mut scorer, rows, model);
                    begin.wait();
                    let done = (0..repeats).try_for_each(|_| {
                        in_blocks(&mut scorer, rows, model, |probability| _ = black_box(probability))
                    });
                    end.wait();
                    done.map_err(|error| error.to_string())
                })
            })
            .collect();
        begin.wait();
        let begun = Instant::now();
        end.wait();
        let time = begun.elapsed();
        for thread in running {
            thread.join().map_err(|_| "a thread ended by a panic")??;
        }
        Ok(time)
    })
}

/// Predicting rows that come from memory, and reading them and doing nothing with them, in turns.
fn memory(model: &Model, rows: &[f64]) -> Result<(), Failure> {
    let mut many = Vec::with_capacity(MEMORY / size_of::<f64>() + rows.len());
    while many.len() * size_of::<f64>() < MEMORY {
        many.extend_from_slice(rows);
    }
    let mut scorer = model.scorer();
    warm_up(&mut scorer, rows, model);
    let (mut scored, mut read) = (Duration::MAX, Duration::MAX);
    for _ in 0..PASSES {
        let predict = || in_blocks(&mut scorer, &many, model, |probability| _ = black_box(probability));
        scored = scored.min(least(1, predict)?);
        read = read.min(least(1, || {
            black_box(black_box(&many).iter().fold(0_u64, |sum, value| sum.wrapping_add(value.to_bits())));
            Ok(())
        })?);
    }
    let speed = size_of_val(many.as_slice()) as f64 / read.as_nanos() as f64;
    let (scored, read) = (a_row(scored, model, &many), a_row(read, model, &many));
    println!("{{\"batch\": {scored:.3}, \"read\": {read:.3}, \"gigabytes_a_second\": {speed:.2}}}");
    Ok(())
}

fn numbers(path: &Path) -> std::io::Result<Vec<f64>> {
    Ok(std::fs::read(path)?.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}
