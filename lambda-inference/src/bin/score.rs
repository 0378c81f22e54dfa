//! Batch scoring: rows from CSV or NDJSON, predictions as CSV, in the order of the input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lambda_inference::Model;
use lexopt::{Arg, ValueExt};
use serde_json::{Map, Value};

const USAGE: &str = "usage: score --model FILE [--input FILE|-] [--output FILE|-] [--format csv|ndjson] | score --model FILE --describe

Reads rows with the model's features by name and writes `prediction,probability` (of the positive class), a line a row, in the
order of the input. An empty CSV field and a JSON null are missing values. Other columns are ignored. A row that cannot be read is reported with
its line, written as `,`, and makes the exit code 1; wrong usage makes it 2.";

/// How many bad rows are reported one by one.
const REPORTED: u64 = 20;

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Csv,
    Ndjson,
}

struct Options {
    model: PathBuf,
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    format: Format,
    describe: bool,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("score: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(bad) => {
            eprintln!("score: {bad} rows could not be read");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("score: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The command line's options; none if help was asked for.
fn options() -> Result<Option<Options>, lexopt::Error> {
    let (mut model, mut input, mut output, mut format, mut describe) = (None, None, None, None, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("model") => model = Some(PathBuf::from(parser.value()?)),
            Arg::Long("input") => input = Some(PathBuf::from(parser.value()?)),
            Arg::Long("output") => output = Some(PathBuf::from(parser.value()?)),
            Arg::Long("describe") => describe = true,
            Arg::Long("format") => match parser.value()?.string()?.as_str() {
                "csv" => format = Some(Format::Csv),
                "ndjson" => format = Some(Format::Ndjson),
                other => return Err(format!("unknown format `{other}`").into()),
            },
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    let Some(model) = model else { return Err("--model is missing".into()) };
    let named = |path: &PathBuf| path != Path::new("-");
    let input = input.filter(named);
    let ending = input.as_ref().and_then(|path| path.extension()).and_then(|ending| ending.to_str());
    let guessed = if matches!(ending, Some("ndjson" | "jsonl")) { Format::Ndjson } else { Format::Csv };
    let format = format.unwrap_or(guessed);
    Ok(Some(Options { model, input, output: output.filter(named), format, describe }))
}

/// Scores everything; gives the number of rows that could not be read.
fn run(options: &Options) -> Result<u64, String> {
    let name = options.model.display();
    let bytes = std::fs::read(&options.model).map_err(|error| format!("read the model {name}: {error}"))?;
    let model = Model::from_bytes(bytes).map_err(|error| format!("refuse the model {name}: {error}"))?;
    if options.describe {
        println!("{}", model.metadata());
        return Ok(0);
    }
    let input: Box<dyn Read> = match &options.input {
        Some(path) => Box::new(File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?),
        None => Box::new(io::stdin().lock()),
    };
    let output: Box<dyn Write> = match &options.output {
        Some(path) => Box::new(File::create(path).map_err(|error| format!("create {}: {error}", path.display()))?),
        None => Box::new(io::stdout().lock()),
    };
    let mut output = Output::new(&model, output);
    output.header().map_err(|error| format!("write: {error}"))?;
    match options.format {
        Format::Csv => score_csv(&model, input, &mut output)?,
        Format::Ndjson => score_ndjson(&model, input, &mut output)?,
    }
    output.writer.flush().map_err(|error| format!("write: {error}"))?;
    Ok(output.bad)
}

/// Where predictions go, and what was said of bad rows.
struct Output<'a> {
    model: &'a Model,
    writer: BufWriter<Box<dyn Write>>,
    rows: u64,
    bad: u64,
    next_report: Instant,
}

impl<'a> Output<'a> {
    fn new(model: &'a Model, writer: Box<dyn Write>) -> Self {
        let writer = BufWriter::with_capacity(1 << 16, writer);
        Output { model, writer, rows: 0, bad: 0, next_report: Instant::now() + Duration::from_secs(2) }
    }

    fn header(&mut self) -> io::Result<()> {
        self.writer.write_all(b"prediction,probability\n")
    }

    /// Writes the prediction for a row, or the mark of a bad one.
    fn row(&mut self, line: u64, row: Result<&[f64], String>) -> Result<(), String> {
        self.rows += 1;
        if self.rows.is_multiple_of(100_000) && Instant::now() >= self.next_report {
            eprintln!("score: {} rows", self.rows);
            self.next_report = Instant::now() + Duration::from_secs(2);
        }
        let written = match row {
            Ok(row) => {
                let prediction = self.model.predict(row);
                writeln!(self.writer, "{},{:?}", prediction.class, prediction.probability)
            }
            Err(reason) => {
                self.bad += 1;
                if self.bad <= REPORTED {
                    eprintln!("score: line {line}: {reason}");
                }
                self.writer.write_all(b",\n")
            }
        };
        written.map_err(|error| format!("write: {error}"))
    }
}

fn score_csv(model: &Model, input: Box<dyn Read>, output: &mut Output<'_>) -> Result<(), String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let header = reader.byte_headers().map_err(|error| format!("read the header: {error}"))?.clone();
    let columns = model
        .features()
        .iter()
        .map(|feature| {
            let mut places = header.iter().enumerate().filter(|(_, name)| *name == feature.name.as_bytes());
            match (places.next(), places.next()) {
                (Some((column, _)), None) => Ok(column),
                (None, _) => Err(format!("the input has no column {}", feature.name)),
                (Some(_), Some(_)) => Err(format!("the input has two columns {}", feature.name)),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    if header.len() > columns.len() {
        eprintln!("score: {} columns that the model does not have are ignored", header.len() - columns.len());
    }
    let mut record = csv::ByteRecord::new();
    let mut row = vec![0.0; columns.len()];
    loop {
        let line = reader.position().line();
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => return Err(format!("line {line}: {error}")),
        }
        let line = record.position().map_or(line, csv::Position::line);
        let mut problem = None;
        if record.len() != header.len() {
            problem = Some(format!("{} fields, the header has {}", record.len(), header.len()));
        } else {
            for (value, (column, feature)) in row.iter_mut().zip(columns.iter().zip(model.features())) {
                match parse(&record[*column]) {
                    Some(number) => *value = number,
                    None => {
                        let text = String::from_utf8_lossy(&record[*column]).into_owned();
                        problem = Some(format!("{} is {text:?}, not a number", feature.name));
                        break;
                    }
                }
            }
        }
        output.row(line, problem.map_or(Ok(row.as_slice()), Err))?;
    }
}

/// A field's number; an empty field is a missing value.
fn parse(field: &[u8]) -> Option<f64> {
    match field.trim_ascii() {
        b"" => Some(f64::NAN),
        field => std::str::from_utf8(field).ok()?.parse().ok(),
    }
}

fn score_ndjson(model: &Model, input: Box<dyn Read>, output: &mut Output<'_>) -> Result<(), String> {
    let mut reader = BufReader::with_capacity(1 << 16, input);
    let mut text = Vec::new();
    let mut row = vec![0.0; model.features().len()];
    let mut line = 0;
    loop {
        text.clear();
        line += 1;
        match reader.read_until(b'\n', &mut text) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(format!("line {line}: {error}")),
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let problem = match serde_json::from_slice::<Map<String, Value>>(&text) {
            Ok(fields) => fill(model, &fields, &mut row).err(),
            Err(error) => Some(format!("no JSON object: {error}")),
        };
        output.row(line, problem.map_or(Ok(row.as_slice()), Err))?;
    }
}

fn fill(model: &Model, fields: &Map<String, Value>, row: &mut [f64]) -> Result<(), String> {
    for (value, feature) in row.iter_mut().zip(model.features()) {
        *value = match fields.get(&feature.name) {
            Some(Value::Null) => f64::NAN,
            Some(Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN),
            Some(other) => return Err(format!("{} is {other}, not a number", feature.name)),
            None => return Err(format!("{} is missing", feature.name)),
        };
    }
    Ok(())
}
