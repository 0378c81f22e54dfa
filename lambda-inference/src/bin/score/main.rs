//! Batch scoring: rows from CSV, NDJSON or Parquet, predictions as CSV, in the order of the input.

mod options;
mod progress;
mod target;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use lambda_inference::Model;
use lambda_inference::batch::{self, Input, Settings};

use options::{Format, Options, USAGE};
use progress::Progress;
use target::Target;

fn main() -> ExitCode {
    let result = match options::read() {
        Ok(Some(options)) => run(&options),
        Ok(None) => print(USAGE).map(|()| 0),
        Err(error) => {
            note(format_args!("{error}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(bad) => {
            note(format_args!("rows that could not be read: {bad}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            note(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard error; where that is gone, nobody is left to be told.
fn note(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "score: {text}");
}

fn print(text: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{text}").map_err(|error| format!("write: {error}"))
}

/// Scores everything; gives the number of rows that could not be read.
fn run(options: &Options) -> Result<u64, String> {
    let name = options.model.display();
    let bytes = std::fs::read(&options.model).map_err(|error| format!("read the model {name}: {error}"))?;
    let model = Model::from_bytes(&bytes).map_err(|error| format!("refuse the model {name}: {error}"))?;
    if options.describe {
        return print(model.metadata()).map(|()| 0);
    }
    if let (Some(input), Some(output)) = (&options.input, &options.output)
        && let (Ok(input), Ok(output)) = (input.canonicalize(), output.canonicalize())
        && input == output
    {
        return Err(format!("input and output are the same file, {}", input.display()));
    }
    let (mut input, size) = open(options, &model)?;
    if input.ignored > 0 {
        note(format_args!("ignored columns, which the model does not have: {}", input.ignored));
    }
    let mut target = Target::open(options.output.as_deref())?;
    let mut progress = Progress::new(input.place, input.rows.or(size), options.progress);
    let settings = Settings { threads: options.threads, explain: options.explain };
    let scored = batch::score(&model, &mut input, target.writer(), settings, &mut |part| progress.follow(part));
    progress.end();
    let totals = scored.map_err(|error| error.to_string())?;
    target.keep()?;
    Ok(totals.bad)
}

/// The input, and its size in bytes if it is a file.
fn open<'a>(options: &Options, model: &'a Model) -> Result<(Input<'a>, Option<u64>), String> {
    let file = match &options.input {
        Some(path) => Some(File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?),
        None => None,
    };
    let size =
        file.as_ref().and_then(|file| file.metadata().ok()).filter(|about| about.is_file()).map(|about| about.len());
    let input = match options.format {
        Format::Csv => batch::csv(model, stream(file))?,
        Format::Ndjson => batch::ndjson(model, stream(file)),
        Format::Parquet => parquet(model, file)?,
    };
    Ok((input, size))
}

fn stream(file: Option<File>) -> Box<dyn Read + Send> {
    match file {
        Some(file) => Box::new(file),
        None => Box::new(io::stdin()),
    }
}

#[cfg(feature = "parquet")]
fn parquet(model: &Model, file: Option<File>) -> Result<Input<'_>, String> {
    let Some(file) = file else {
        return Err("Parquet is read from its end: name a file with --input, a pipe has none".to_string());
    };
    batch::parquet(model, file)
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &Model, _: Option<File>) -> Result<Input<'static>, String> {
    Err("this program was built without Parquet: \
         `cargo build --release -p lambda-inference --bin score --features parquet` builds one that reads it"
        .to_string())
}
