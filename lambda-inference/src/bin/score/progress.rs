//! What is said on standard error while rows are scored: the first bad rows, and how far the work is.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use lambda_inference::batch::Part;

/// How many bad rows are reported one by one.
const REPORTED: u64 = 20;
/// Between two looks at the clock's state on a terminal, and between two lines elsewhere.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(5);
/// Goes to the start of the line and empties it.
const EMPTY_LINE: &str = "\r\x1b[K";

/// Follows the parts that are written.
pub struct Progress {
    place: &'static str,
    /// Bytes or rows of the whole input.
    total: Option<u64>,
    terminal: bool,
    /// How often the state is shown; never without.
    every: Option<Duration>,
    begun: Instant,
    shown: Instant,
    rows: u64,
    reported: u64,
}

impl Progress {
    /// `place` is what a row's place is called, `total` how far the input goes.
    pub fn new(place: &'static str, total: Option<u64>, wanted: bool) -> Progress {
        let terminal = io::stderr().is_terminal();
        let every = if terminal { Some(ON_TERMINAL) } else { wanted.then_some(ELSEWHERE) };
        let begun = Instant::now();
        Progress { place, total, terminal, every, begun, shown: begun, rows: 0, reported: 0 }
    }

    /// Reports a part's bad rows, and now and then the progress.
    pub fn follow(&mut self, part: &Part) {
        for (number, reason) in &part.reasons {
            if self.reported < REPORTED {
                self.reported += 1;
                self.say(&format!("score: {} {number}: {reason}\n", self.place));
            }
        }
        if let Some(state) = self.count(part) {
            let end = if self.terminal { "" } else { "\n" };
            self.say(&format!("score: {state}{end}"));
        }
    }

    /// Counts a part's rows; gives the state if it is time to show it.
    fn count(&mut self, part: &Part) -> Option<String> {
        self.rows += part.rows;
        if self.every.is_none_or(|every| self.shown.elapsed() < every) {
            return None;
        }
        self.shown = Instant::now();
        Some(state(self.rows, part.read, self.total, self.begun.elapsed()))
    }

    /// Says what the work came to.
    pub fn end(&self) {
        if self.every.is_some() {
            let took = self.begun.elapsed().as_secs_f64();
            self.say(&format!("score: {} rows in {took:.1} s ({})\n", self.rows, rate(self.rows, took)));
        }
    }

    /// Writes over the state that a terminal shows.
    fn say(&self, text: &str) {
        let start = if self.terminal { EMPTY_LINE } else { "" };
        let _ = write!(io::stderr(), "{start}{text}");
    }
}

/// The state after some time: rows, rows a second, and of an input of known size its share and the time that is left.
fn state(rows: u64, read: u64, total: Option<u64>, took: Duration) -> String {
    let took = took.as_secs_f64();
    let text = format!("{rows} rows, {}", rate(rows, took));
    match total {
        Some(total) if read > 0 && total > 0 => {
            let share = (read as f64 / total as f64).min(1.0);
            format!("{text}, {:.0} %, {:.0} s left", (share * 100.0).floor(), took * (1.0 - share) / share)
        }
        _ => text,
    }
}

fn rate(rows: u64, seconds: f64) -> String {
    format!("{:.0} rows/s", rows as f64 / seconds.max(1e-3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_tells_rate_share_and_time_left() {
        let took = Duration::from_secs(10);
        assert_eq!(state(2_000, 250, Some(1_000), took), "2000 rows, 200 rows/s, 25 %, 30 s left");
        assert_eq!(state(2_000, 999, Some(1_000), took), "2000 rows, 200 rows/s, 99 %, 0 s left");
        assert_eq!(state(2_000, 250, None, took), "2000 rows, 200 rows/s");
        assert_eq!(state(0, 0, Some(0), Duration::ZERO), "0 rows, 0 rows/s");
        // A file that has grown since it was opened.
        assert_eq!(state(2_000, 2_000, Some(1_000), took), "2000 rows, 200 rows/s, 100 %, 0 s left");
    }

    #[test]
    fn the_state_is_told_of_all_parts_when_it_is_time() {
        let mut progress = Progress::new("line", Some(1_000), false);
        let parts = [(20, 250), (30, 600)].map(|(rows, read)| Part { rows, read, ..Part::default() });
        progress.every = Some(Duration::from_secs(3600));
        assert_eq!(progress.count(&parts[0]), None);
        progress.every = None;
        assert_eq!(progress.count(&parts[0]), None);
        progress.every = Some(Duration::ZERO);
        let state = progress.count(&parts[1]).unwrap();
        assert!(state.starts_with("70 rows, ") && state.contains(", 60 %, "), "{state}");
        assert!(progress.count(&parts[1]).unwrap().starts_with("100 rows, "));
    }
}
