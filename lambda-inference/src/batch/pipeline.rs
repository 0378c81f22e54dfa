//! The threads of a batch. Each takes the next chunk, makes its lines, and hands them over; whoever finds the output free
//! writes all that follows on what is written.
//!
//! No thread is there for reading or writing alone, so that `threads` processors are busy and no more. A thread waits only
//! where it would run too far ahead of the output.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZero;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::lines::Lines;
use super::rows::{Part, Rows};
use super::{BatchError, Chunk, Decoder, Input, Source};
use crate::model::Model;

/// Chunks for each thread that may be on their way between input and output.
const AHEAD: u64 = 4;

/// How a batch is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Threads that score.
    pub threads: NonZero<usize>,
    /// Whether every line also has the base value, the contributions, and the reasons of a denial.
    pub explain: bool,
}

/// What a batch came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Rows, and lines below the header of the output.
    pub rows: u64,
    /// Rows that could not be read or predicted, whose lines are empty.
    pub bad: u64,
}

/// Scores all rows of an input and writes a header and a line for each row, in their order. `watch` is told of every part
/// that was written.
///
/// # Errors
/// The input ends with an error, after all rows before it were written, the output takes no more, or nothing is written because the
/// model has no explanations that were asked for.
///
/// # Panics
/// A thread panicked.
pub fn score(
    model: &Model,
    input: &mut Input<'_>,
    output: &mut (dyn Write + Send),
    settings: Settings,
    watch: &mut (dyn FnMut(&Part) + Send),
) -> Result<Totals, BatchError> {
    let base = if settings.explain { Some(model.explainer().map_err(BatchError::Model)?.base()) } else { None };
    let lines = Lines::new(model, base);
    let threads = settings.threads;
    output.write_all(lines.header().as_bytes()).map_err(BatchError::Output)?;
    let batch = Batch {
        model,
        lines: &lines,
        explain: settings.explain,
        decoder: &*input.decoder,
        queue: Mutex::new(Queue { source: &mut *input.source, next: 0, ended: false }),
        order: Mutex::new(Order { writer: Some(Writer { output, watch }), ..Order::default() }),
        moved: Condvar::new(),
        ahead: AHEAD * threads.get() as u64,
    };
    thread::scope(|scope| {
        for _ in 1..threads.get() {
            // Where the system gives no more threads, those that there are do the work.
            if thread::Builder::new().spawn_scoped(scope, || batch.work()).is_err() {
                break;
            }
        }
        batch.work();
    });
    let Order { totals, error, .. } = batch.order.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    output.flush().map_err(BatchError::Output)?;
    Ok(totals)
}

/// What the threads share.
struct Batch<'a> {
    model: &'a Model,
    lines: &'a Lines,
    explain: bool,
    decoder: &'a dyn Decoder,
    queue: Mutex<Queue<'a>>,
    order: Mutex<Order<'a>>,
    /// Tells that a part was written, or that the work is over.
    moved: Condvar,
    ahead: u64,
}

/// The input.
struct Queue<'a> {
    source: &'a mut dyn Source,
    /// Number of the next chunk.
    next: u64,
    ended: bool,
}

/// The output, and what waits for it.
#[derive(Default)]
struct Order<'a> {
    /// Absent while a thread writes.
    writer: Option<Writer<'a>>,
    /// Parts that are ready before their turn.
    ready: BTreeMap<u64, Part>,
    /// Number of the part to be written next.
    next: u64,
    /// Parts that are written, for their memory.
    free: Vec<Part>,
    totals: Totals,
    error: Option<BatchError>,
    stopped: bool,
}

struct Writer<'a> {
    output: &'a mut (dyn Write + Send),
    watch: &'a mut (dyn FnMut(&Part) + Send),
}

impl<'a> Batch<'a> {
    /// The work of one thread.
    fn work(&self) {
        let _stop = StopOnPanic(self);
        let mut rows = match Rows::new(self.model, self.lines, self.explain) {
            Ok(rows) => rows,
            Err(error) => {
                self.order().error.get_or_insert(BatchError::Model(error));
                return;
            }
        };
        let mut chunk = Chunk::default();
        while let Some(number) = self.next_chunk(&mut chunk) {
            rows.begin(self.order().free.pop().unwrap_or_default());
            self.decoder.decode(&chunk, &mut rows);
            self.hand_over(number, rows.finish(chunk.read));
        }
    }

    /// Takes the next chunk, once the output has come near enough; gives its number.
    fn next_chunk(&self, chunk: &mut Chunk) -> Option<u64> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.ended || !self.wait_for_output(queue.next) {
            return None;
        }
        match queue.source.next(chunk) {
            Ok(true) => {
                queue.next += 1;
                Some(queue.next - 1)
            }
            Ok(false) => {
                queue.ended = true;
                None
            }
            Err(reason) => {
                queue.ended = true;
                self.order().error.get_or_insert(BatchError::Input(reason));
                None
            }
        }
    }

    /// Waits until a chunk of this number is not too far ahead; false if the work is over.
    fn wait_for_output(&self, number: u64) -> bool {
        let mut order = self.order();
        while !order.stopped && number >= order.next + self.ahead {
            order = self.moved.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        !order.stopped
    }

    /// Hands a part over, and writes what its turn has come for unless another thread does.
    fn hand_over(&self, number: u64, part: Part) {
        let mut order = self.order();
        order.ready.insert(number, part);
        let Some(writer) = order.writer.take() else { return };
        while let Some(part) = order.take_ready() {
            drop(order);
            let written = writer.output.write_all(&part.lines);
            if written.is_ok() {
                (writer.watch)(&part);
            }
            order = self.order();
            if let Err(error) = written {
                order.error = Some(BatchError::Output(error));
                order.stopped = true;
            }
            order.written(part);
            self.moved.notify_all();
        }
        order.writer = Some(writer);
    }

    fn order(&self) -> MutexGuard<'_, Order<'a>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order<'_> {
    /// The part whose turn it is, if it is ready.
    fn take_ready(&mut self) -> Option<Part> {
        if self.stopped { None } else { self.ready.remove(&self.next) }
    }

    fn written(&mut self, part: Part) {
        self.next += 1;
        self.totals.rows += part.rows;
        self.totals.bad += part.bad;
        self.free.push(part);
    }
}

/// Ends the work of all threads when one of them panics: the others would wait for its part for ever.
struct StopOnPanic<'a, 'b>(&'a Batch<'b>);

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.order().stopped = true;
            self.0.moved.notify_all();
        }
    }
}
