//! What a person sees: progress and explanations on standard error, results on standard output.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::exit;

/// One line of explanation under a stage.
pub fn note(text: &str) {
    eprintln!("  {text}");
}

/// Something that a person should see, although it does not stop the run.
pub fn warning(text: &str) {
    if colour() {
        eprintln!("  \x1b[33mwarning\x1b[0m {text}");
    } else {
        eprintln!("  warning {text}");
    }
}

/// The end of a command that did not reach its goal.
pub fn failure(error: &anyhow::Error) {
    let word = match exit::answer_of(error) {
        Some(exit::Answer::Denied) => "denied",
        Some(exit::Answer::NothingChecked) => "nothing was checked",
        Some(exit::Answer::NotApproved) => "not approved",
        Some(exit::Answer::Usage) | None => "error",
    };
    if colour() {
        eprintln!("\x1b[1;31m{word}:\x1b[0m {error:#}");
    } else {
        eprintln!("{word}: {error:#}");
    }
}

/// Bold where the terminal can.
pub fn bold(text: &str) -> String {
    if colour() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_string() }
}

fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Says what is going on when it takes longer than two seconds; ends when dropped.
pub struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins; `log`, if given, is the file whose last line shows how far it is.
    pub fn start(what: &str, log: Option<PathBuf>) -> Progress {
        let (stop, stopped) = channel::<()>();
        let what = what.to_string();
        let begun = Instant::now();
        let live = std::io::stderr().is_terminal();
        let thread = std::thread::spawn(move || {
            let mut pause = Duration::from_secs(2);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                let last = log.as_ref().and_then(last_line).map(|line| format!(": {line}")).unwrap_or_default();
                let line: String =
                    format!("… {what} ({} s){last}", begun.elapsed().as_secs()).chars().take(100).collect();
                if live {
                    eprint!("\r\x1b[2K  {line}");
                    let _ = std::io::stderr().flush();
                    pause = Duration::from_millis(500);
                } else {
                    eprintln!("  {line}");
                    pause = Duration::from_secs(15);
                }
            }
            if live && begun.elapsed() > Duration::from_secs(2) {
                eprint!("\r\x1b[2K");
            }
        });
        Progress { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn last_line(path: &PathBuf) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
    tail.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_string)
}

/// Seconds as people read them.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.2} MB", count as f64 / 1e6),
    }
}
