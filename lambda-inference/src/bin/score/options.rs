//! The command line.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use lexopt::{Arg, ValueExt};

pub const USAGE: &str = "usage: score --model FILE [--input FILE|-] [--output FILE|-] [--format csv|ndjson|parquet] [--explain] [--threads N] [--progress]
       score --model FILE --describe

Reads rows with the model's features by name and writes `prediction,probability` (of the positive class; with more than two
classes `prediction,probability_<class>,...`), a line a row, in the order of the input. An empty CSV field, a JSON null and a
Parquet null are missing values. Other columns are ignored. A row that cannot be read is reported with its line, written as a
line of empty fields, and makes the exit code 1; wrong usage makes it 2. An output file appears once it is complete.

  --format    what the input is, where its ending does not say it
  --explain   append `base`, `contribution_<feature>` for each feature, which add up to the raw score of the positive class, and `reasons`:
              of a denial the features that spoke most against approval, strongest first, separated by `;` (with more than two
              classes `base_<class>,contribution_<feature>_<class>,...` class after class)
  --threads   threads that score, by default one a processor; the output is the same for any number
  --progress  report the progress also where standard error is no terminal";

/// Most threads that may be asked for.
const MOST_THREADS: usize = 1024;

#[derive(Clone, Copy, PartialEq)]
pub enum Format {
    Csv,
    Ndjson,
    Parquet,
}

pub struct Options {
    pub model: PathBuf,
    /// None for standard input.
    pub input: Option<PathBuf>,
    /// None for standard output.
    pub output: Option<PathBuf>,
    pub format: Format,
    pub threads: NonZero<usize>,
    pub explain: bool,
    pub progress: bool,
    pub describe: bool,
}

/// The command line's options; none if help was asked for.
pub fn read() -> Result<Option<Options>, lexopt::Error> {
    let (mut model, mut input, mut output, mut format, mut threads) = (None, None, None, None, None);
    let (mut explain, mut progress, mut describe) = (false, false, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("model") => model = Some(PathBuf::from(parser.value()?)),
            Arg::Long("input") => input = Some(PathBuf::from(parser.value()?)),
            Arg::Long("output") => output = Some(PathBuf::from(parser.value()?)),
            Arg::Long("explain") => explain = true,
            Arg::Long("progress") => progress = true,
            Arg::Long("describe") => describe = true,
            Arg::Long("threads") => {
                let count: usize = parser.value()?.parse()?;
                let count = NonZero::new(count).filter(|count| count.get() <= MOST_THREADS);
                threads = Some(count.ok_or_else(|| format!("--threads takes 1 to {MOST_THREADS}"))?);
            }
            Arg::Long("format") => match parser.value()?.string()?.as_str() {
                "csv" => format = Some(Format::Csv),
                "ndjson" => format = Some(Format::Ndjson),
                "parquet" => format = Some(Format::Parquet),
                other => return Err(format!("unknown format `{other}`").into()),
            },
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    let Some(model) = model else { return Err("--model is missing".into()) };
    let named = |path: &PathBuf| path != Path::new("-");
    let input = input.filter(named);
    let format = format.unwrap_or_else(|| format_of(input.as_deref()));
    let threads = threads.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZero::<usize>::MIN);
    Ok(Some(Options { model, input, output: output.filter(named), format, threads, explain, progress, describe }))
}

/// What a file's ending says; CSV if it says nothing.
fn format_of(path: Option<&Path>) -> Format {
    match path.and_then(Path::extension).and_then(|ending| ending.to_str()) {
        Some("ndjson" | "jsonl") => Format::Ndjson,
        Some("parquet") => Format::Parquet,
        _ => Format::Csv,
    }
}
