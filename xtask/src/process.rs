//! Every external program runs through here: with a time limit, its output in a file, and progress while it works.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use crate::terminal::Progress;

/// The programs that run now.
static RUNNING: Mutex<Vec<Arc<duct::Handle>>> = Mutex::new(Vec::new());
/// How many pieces of work ask to end themselves when this process is interrupted.
static HELD: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));
static INTERRUPTED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// While it lives, a first Ctrl-C does not end this process: the work waits for [`interrupted`] and brings what it does to a
/// safe end. A second one ends the process at once.
pub struct Held;

/// Asks to be told of an interruption instead of being ended by it.
pub fn hold() -> Held {
    HELD.send_modify(|held| *held += 1);
    Held
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.send_modify(|held| *held -= 1);
    }
}

/// Whether somebody interrupted this process.
pub fn is_interrupted() -> bool {
    *INTERRUPTED.borrow()
}

/// Completes when somebody interrupts this process.
pub async fn interrupted() {
    // The sender is never dropped, so there is no other end than this one.
    let _ = INTERRUPTED.subscribe().wait_for(|interrupted| *interrupted).await;
}

/// From now on, Ctrl-C or a request to terminate ends the running programs first and then this process, so that none of them
/// goes on writing into a run that somebody begins anew.
pub fn end_with_children(runtime: &tokio::runtime::Runtime) {
    runtime.spawn(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        INTERRUPTED.send_replace(true);
        if *HELD.borrow() > 0 {
            eprintln!("interrupted: bringing the work to a safe end first (again to end at once)");
            let mut held = HELD.subscribe();
            tokio::select! {
                _ = held.wait_for(|held| *held == 0) => {}
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // What the work says about its end is still to be printed.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        for handle in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = handle.kill();
        }
        eprintln!("interrupted: the same command again goes on where this one ended");
        std::process::exit(130);
    });
}

/// A program about to run.
pub struct Program {
    what: String,
    program: OsString,
    arguments: Vec<OsString>,
    folder: PathBuf,
    variables: Vec<(OsString, Option<OsString>)>,
    input: Vec<u8>,
    limit: Duration,
    quiet: bool,
}

/// How a program ended.
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Everything that it printed.
    pub log: PathBuf,
}

impl Program {
    /// `what` is a phrase for people, such as "train the model".
    pub fn new(what: &str, program: impl Into<OsString>, folder: &Path) -> Program {
        Program {
            what: what.to_string(),
            program: program.into(),
            arguments: Vec::new(),
            folder: folder.to_path_buf(),
            variables: Vec::new(),
            input: Vec::new(),
            limit: Duration::from_secs(15 * 60),
            quiet: false,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Program {
        self.arguments.push(argument.into());
        self
    }

    /// Adds several arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Program {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Program {
        self.variables.push((name.into(), Some(value.into())));
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Program {
        self.variables.push((name.into(), None));
        self
    }

    /// What it reads from its standard input; nothing unless said otherwise. The place for a secret: other users of the
    /// machine see a program's arguments.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Program {
        self.input = bytes.into();
        self
    }

    /// How long it may take; a quarter of an hour unless said otherwise.
    pub fn limit(mut self, limit: Duration) -> Program {
        self.limit = limit;
        self
    }

    /// Shows no progress of its own: of several programs that run side by side, the caller's shows for all.
    pub fn quiet(mut self) -> Program {
        self.quiet = true;
        self
    }

    /// Runs to the end, whatever the exit code, with both streams in the file `log`.
    ///
    /// # Errors
    /// The program cannot be started, or takes longer than its limit.
    pub fn run_to_end(self, log: &Path) -> Result<Ended> {
        let name = PathBuf::from(&self.program);
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        }
        let mut expression = duct::cmd(&self.program, &self.arguments)
            .dir(&self.folder)
            .stdin_bytes(self.input.as_slice())
            .stderr_to_stdout()
            .stdout_path(log)
            .unchecked();
        for (name, value) in &self.variables {
            expression = match value {
                Some(value) => expression.env(name, value),
                None => expression.env_remove(name),
            };
        }
        let progress = (!self.quiet).then(|| Progress::start(&self.what, Some(log.to_path_buf())));
        let started = expression.start().with_context(|| format!("start {} to {}", name.display(), self.what))?;
        let handle = Arc::new(started);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(handle.clone());
        let ended = self.wait(&handle, &name, log);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|running| !Arc::ptr_eq(running, &handle));
        drop(progress);
        Ok(Ended { code: ended?, log: log.to_path_buf() })
    }

    /// Waits for the exit code, within the limit.
    fn wait(&self, handle: &duct::Handle, name: &Path, log: &Path) -> Result<Option<i32>> {
        let deadline = Instant::now() + self.limit;
        let Some(output) = handle.wait_deadline(deadline).with_context(|| format!("wait for {}", name.display()))?
        else {
            handle.kill().with_context(|| format!("stop {}", name.display()))?;
            bail!(
                "{} took longer than {} s to {} and was stopped; its output is in {}",
                name.display(),
                self.limit.as_secs(),
                self.what,
                log.display()
            );
        };
        Ok(output.status.code())
    }

    /// Runs and expects exit code 0.
    ///
    /// # Errors
    /// As [`Program::run_to_end`], and for any other exit code, with the end of the output.
    pub fn run(self, log: &Path) -> Result<()> {
        let what = self.what.clone();
        let ended = self.run_to_end(log)?;
        match ended.code {
            Some(0) => Ok(()),
            code => {
                let end =
                    code.map_or("was stopped by a signal".to_string(), |code| format!("ended with exit code {code}"));
                bail!(
                    "could not {what}: it {end}\n{}\nall of its output: {}",
                    tail(&ended.log, 25),
                    ended.log.display()
                )
            }
        }
    }
}

/// The last lines of a log, indented.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_goes_to_the_file_and_a_failure_shows_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/echo.log");
        Program::new("say hello", "sh", folder.path()).args(["-c", "echo hello"]).run(&log).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "hello\n");
        let error =
            Program::new("fail", "sh", folder.path()).args(["-c", "echo why >&2; exit 7"]).run(&log).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit code 7") && text.contains("why"), "{text}");
    }

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("sleep.log");
        let error = Program::new("sleep", "sleep", folder.path())
            .arg("60")
            .limit(Duration::from_millis(50))
            .run(&log)
            .unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            Program::new("nothing", "no-such-program", folder.path()).run(&folder.path().join("x")).unwrap_err();
        assert!(format!("{error:#}").contains("no-such-program"));
    }
}
