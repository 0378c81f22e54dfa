//! Running `score` in a folder with a model file.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use tempfile::TempDir;

use crate::builder::{self, credit};

/// A folder with a model file, to score in.
pub struct Place {
    pub folder: TempDir,
}

pub struct Scored {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Place {
        Place::with(&credit().0)
    }

    pub fn with(model: &builder::File) -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("model.bin"), model.bytes()).expect("write the model");
        Place { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_score"));
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Scored {
        let mut command = self.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the scorer");
        let mut pipe = child.stdin.take().expect("a pipe");
        let output = thread::scope(|scope| {
            // A program that refuses its arguments reads nothing, and the pipe breaks.
            scope.spawn(move || pipe.write_all(input));
            child.wait_with_output().expect("wait for the scorer")
        });
        Scored::of(output)
    }

    pub fn csv(&self, input: &str) -> Scored {
        self.run(&["--model", "model.bin"], input.as_bytes())
    }

    pub fn ndjson(&self, input: &str) -> Scored {
        self.run(&["--model", "model.bin", "--format", "ndjson"], input.as_bytes())
    }
}

impl Scored {
    pub fn of(output: Output) -> Scored {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        let scored = Scored {
            code: output.status.code().expect("no signal"),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        assert!(!scored.err.contains("panicked"), "{}", scored.err);
        scored
    }

    #[track_caller]
    pub fn is(&self, out: &str) {
        assert_eq!((self.code, self.out.as_str()), (0, out), "{}", self.err);
    }

    #[track_caller]
    pub fn fails(&self, code: i32, reason: &str) {
        assert_eq!(self.code, code, "{} {}", self.out, self.err);
        assert!(self.err.contains(reason), "{}", self.err);
    }
}

pub const HEADER: &str = "Num_Children,Income,Own_Car,Own_Housing\n";
pub const GOOD: &str = "2,90000,1,1";
pub const OTHER: &str = "0,1,0,0";
/// The answers for `2,90000,1,1`, for `0,1,0,0`, and for a row without a value.
pub const YES: &str = "1,1.0\n";
pub const NO: &str = "0,0.1\n";

/// Everything in the folder.
pub fn names(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.folder.path()).expect("read the folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
