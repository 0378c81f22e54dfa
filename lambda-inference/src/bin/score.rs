//! Batch scoring: rows from CSV or NDJSON, predictions as CSV, in the order of the input.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lambda_inference::{Feature, FeatureKind, Model, Prediction, Refusal, RowError, Scorer, request};
use lexopt::{Arg, ValueExt};

const USAGE: &str = "usage: score --model FILE [--input FILE|-] [--output FILE|-] [--format csv|ndjson] | score --model FILE --describe

Reads rows with the model's features by name and writes `prediction,probability` (of the positive class; with more than two
classes `prediction,probability_<class>,...`), a line a row, in the order of the input. An empty CSV field and a JSON null are
missing values. Other columns are ignored. A row that cannot be read is reported with its line, written as a line of empty
fields, and makes the exit code 1; wrong usage makes it 2.";

/// How much of a bad value is shown.
const SHOWN: usize = 60;

/// Rows that are predicted together.
const BLOCK: usize = 256;

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
    let result = match options() {
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
    let input: Box<dyn Read> = match &options.input {
        Some(path) => Box::new(File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?),
        None => Box::new(io::stdin().lock()),
    };
    let output: Box<dyn Write> = match &options.output {
        Some(path) => Box::new(File::create(path).map_err(|error| format!("create {}: {error}", path.display()))?),
        None => Box::new(io::stdout().lock()),
    };
    let mut output = Output::new(&model, output);
    let read = match options.format {
        Format::Csv => score_csv(&model, input, &mut output),
        Format::Ndjson => score_ndjson(&model, input, &mut output),
    };
    // What was read before an error is answered all the same.
    let written = output.finish();
    read.and(written).map(|()| output.bad)
}

/// Where predictions go, and what was said of bad rows.
struct Output<'a> {
    model: &'a Model,
    scorer: Scorer<'a>,
    writer: BufWriter<Box<dyn Write>>,
    /// Values of the rows that wait to be predicted together.
    values: Vec<f64>,
    /// Lines of the rows that wait, and why a row could not be read; such a one has no values.
    waiting: Vec<(u64, Option<String>)>,
    rows: u64,
    bad: u64,
    next_report: Instant,
}

impl<'a> Output<'a> {
    fn new(model: &'a Model, writer: Box<dyn Write>) -> Self {
        Output {
            model,
            scorer: model.scorer(),
            writer: BufWriter::with_capacity(1 << 16, writer),
            values: Vec::new(),
            waiting: Vec::new(),
            rows: 0,
            bad: 0,
            next_report: Instant::now() + Duration::from_secs(2),
        }
    }

    fn header(&mut self) -> Result<(), String> {
        let mut header = "prediction".to_string();
        match self.model.classes() {
            [] | [_] | [_, _] => header += ",probability",
            many => many.iter().for_each(|class| header += &format!(",probability_{class}")),
        }
        writeln!(self.writer, "{header}").map_err(|error| format!("write: {error}"))
    }

    /// Takes the row of a line, or why it could not be read.
    fn row(&mut self, line: u64, row: Result<&[f64], String>) -> Result<(), String> {
        self.rows += 1;
        if self.rows.is_multiple_of(100_000) && Instant::now() >= self.next_report {
            note(format_args!("{} rows", self.rows));
            self.next_report = Instant::now() + Duration::from_secs(2);
        }
        match row {
            Ok(row) => {
                self.values.extend(row);
                self.waiting.push((line, None));
            }
            Err(reason) => self.waiting.push((line, Some(reason))),
        }
        if self.waiting.len() < BLOCK { Ok(()) } else { self.predict() }
    }

    /// Writes the predictions for the rows that wait, and the marks of bad ones.
    fn predict(&mut self) -> Result<(), String> {
        self.scorer.predict_block(&self.values);
        let width = self.model.features().len();
        let mut place = 0;
        for (line, unreadable) in std::mem::take(&mut self.waiting) {
            let predicted = match unreadable {
                Some(reason) => Err(reason),
                None => {
                    place += 1;
                    let row = &self.values[width * (place - 1)..width * place];
                    self.scorer.prediction(place - 1).map_err(|error| refusal(self.model, row, &error))
                }
            };
            let written = match predicted {
                Ok(prediction) => self.prediction(prediction, place - 1),
                Err(reason) => {
                    self.bad += 1;
                    if self.bad <= REPORTED {
                        note(format_args!("line {line}: {reason}"));
                    }
                    self.bad_row()
                }
            };
            written.map_err(|error| format!("write: {error}"))?;
        }
        self.values.clear();
        Ok(())
    }

    /// Writes what still waits.
    fn finish(&mut self) -> Result<(), String> {
        self.predict()?;
        self.writer.flush().map_err(|error| format!("write: {error}"))
    }

    fn prediction(&mut self, Prediction { class, probability }: Prediction, place: usize) -> io::Result<()> {
        if self.model.classes().len() <= 2 {
            return writeln!(self.writer, "{class},{probability:?}");
        }
        write!(self.writer, "{class}")?;
        for probability in self.scorer.probabilities_of(place) {
            write!(self.writer, ",{probability:?}")?;
        }
        writeln!(self.writer)
    }

    fn bad_row(&mut self) -> io::Result<()> {
        let classes = self.model.classes().len();
        writeln!(self.writer, "{}", ",".repeat(if classes <= 2 { 1 } else { classes }))
    }
}

/// What the model refuses of a row.
fn refusal(model: &Model, row: &[f64], error: &RowError) -> String {
    let Some(feature) = error.feature(model) else {
        return "the model has no answer: its values are too large".to_string();
    };
    let name = &model.features()[feature].name;
    match error.refusal {
        Refusal::Missing => format!("{name} is missing"),
        Refusal::TooLarge | Refusal::Undefined => format!("{name} is too large: {:?}", row[feature]),
        Refusal::Unknown => format!("{name} is none of the values that the model knows"),
    }
}

fn score_csv(model: &Model, input: impl Read, output: &mut Output<'_>) -> Result<(), String> {
    // With `\n` as the only end of a record the reader knows its line; a `\r` before it is taken off here. The line end added
    // at the end of the input is no row of its own.
    let mut builder = csv::ReaderBuilder::new();
    builder.flexible(true).terminator(csv::Terminator::Any(b'\n'));
    let mut reader = builder.from_reader(input.chain(b"\n".as_slice()));
    let header = reader.byte_headers().map_err(|error| format!("read the header: {error}"))?;
    let mut header: Vec<Vec<u8>> = header.iter().map(<[u8]>::to_vec).collect();
    if let Some(last) = header.last_mut() {
        last.truncate(last.strip_suffix(b"\r").unwrap_or(last).len());
    }
    if header.is_empty() {
        return Err("the input is empty: a CSV begins with a line of column names".to_string());
    }
    let columns = model.features().iter().map(|feature| column(&header, feature)).collect::<Result<Vec<_>, _>>()?;
    if header.len() > columns.len() {
        note(format_args!("ignored columns, which the model does not have: {}", header.len() - columns.len()));
    }
    output.header()?;
    let mut record = csv::ByteRecord::new();
    let mut row = vec![0.0; columns.len()];
    let mut before = reader.position().line();
    while reader.read_byte_record(&mut record).map_err(|error| format!("read: {error}"))? {
        let after = reader.position().line();
        if record.as_slice() != b"\r" {
            // Blank lines lie before the record, and line ends within it.
            let within = record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
            let line = before.max(after.saturating_sub(1 + within));
            let filled = fill_from_csv(model, &columns, header.len(), &record, &mut row);
            output.row(line, filled.map(|()| row.as_slice()))?;
        }
        before = after;
    }
    Ok(())
}

/// The place of a feature's column.
fn column(header: &[Vec<u8>], feature: &Feature) -> Result<usize, String> {
    let mut places = header.iter().enumerate().filter(|(_, name)| name.as_slice() == feature.name.as_bytes());
    match (places.next(), places.next()) {
        (Some((column, _)), None) => Ok(column),
        (None, _) => Err(format!("the input has no column {}", feature.name)),
        (Some(_), Some(_)) => Err(format!("the input has two columns {}", feature.name)),
    }
}

fn fill_from_csv(
    model: &Model,
    columns: &[usize],
    fields: usize,
    record: &csv::ByteRecord,
    row: &mut [f64],
) -> Result<(), String> {
    if record.len() != fields {
        return Err(format!("{} fields, the header has {fields}", record.len()));
    }
    for ((value, column), feature) in row.iter_mut().zip(columns).zip(model.features()) {
        let text = String::from_utf8_lossy(record[*column].trim_ascii());
        *value = if text.is_empty() { f64::NAN } else { value_of(feature, &text)? };
    }
    Ok(())
}

fn score_ndjson(model: &Model, input: impl Read, output: &mut Output<'_>) -> Result<(), String> {
    output.header()?;
    let mut reader = BufReader::with_capacity(1 << 16, input);
    let mut bytes = Vec::new();
    let mut row = vec![0.0; model.features().len()];
    for line in 1_u64.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(|error| format!("read: {error}"))? == 0 {
            break;
        }
        // As in a CSV, a byte order mark at the start says nothing.
        let text = if line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes };
        if text.trim_ascii().is_empty() {
            continue;
        }
        let filled = fill_from_json(model, text, &mut row);
        output.row(line, filled.map(|()| row.as_slice()))?;
    }
    Ok(())
}

fn fill_from_json(model: &Model, text: &[u8], row: &mut [f64]) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|error| format!("no UTF-8: {error}"))?;
    let fields = request::fields(text).map_err(|error| format!("no JSON object: {error}"))?;
    for (value, feature) in row.iter_mut().zip(model.features()) {
        let name = &feature.name;
        let mut given = fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.get());
        *value = match (given.next(), given.next()) {
            (Some("null"), None) => f64::NAN,
            (Some(text), None) if feature.kind == FeatureKind::Text => {
                feature.code(&serde_json::from_str::<String>(text).map_err(|_| format!("{name} is no text"))?)
            }
            (Some(text), None) => number(name, text)?,
            (None, _) => return Err(format!("{name} is missing")),
            (Some(_), Some(_)) => return Err(format!("{name} is given twice")),
        };
    }
    Ok(())
}

/// A field's text as it stands in a row.
fn value_of(feature: &Feature, text: &str) -> Result<f64, String> {
    if feature.kind == FeatureKind::Text { Ok(feature.code(text)) } else { number(&feature.name, text) }
}

/// A value's number. The word `nan` is none; infinities are up to the model, what overflows to one is not.
fn number(name: &str, text: &str) -> Result<f64, String> {
    let shown = || text.chars().take(SHOWN).collect::<String>();
    let digits = text.bytes().any(|byte| byte.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(value) if digits != value.is_infinite() && !value.is_nan() => Ok(value),
        Ok(_) if digits => Err(format!("{name} is too large: {}", shown())),
        _ => Err(format!("{name} is {:?}, not a number", shown())),
    }
}
