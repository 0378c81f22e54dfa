//! Measures the function's own part of an invocation: `handler MODEL EVENT` answers the event again and again, from its bytes to
//! those of the answer as `bootstrap` does, and prints the median time in nanoseconds as JSON.

use std::hint::black_box;
use std::time::Instant;

use lambda_inference::{Model, request};

/// Calls before the clock counts, and counted ones.
const WARMING: usize = 1_000;
const CALLS: usize = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, event] = arguments.as_slice() else { return Err("usage: handler MODEL EVENT".into()) };
    let model = Model::from_bytes(&std::fs::read(model)?)?;
    let (mut times, mut answer) = (Vec::with_capacity(CALLS), Vec::new());
    for _ in 0..WARMING + CALLS {
        let begun = Instant::now();
        answer.clear();
        let event = std::str::from_utf8(black_box(event.as_bytes()))?;
        serde_json::to_writer(&mut answer, &request::answer(&model, event))?;
        black_box(&answer);
        times.push(begun.elapsed().as_nanos());
    }
    let times = &mut times[WARMING..];
    times.sort_unstable();
    println!("{{\"median\": {}, \"answer\": {}}}", times[CALLS / 2], String::from_utf8(answer)?);
    Ok(())
}
