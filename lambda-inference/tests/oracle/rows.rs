//! Files of any bytes: the rows of a CSV or of NDJSON are scored as other readers read them.

use std::num::NonZero;

use lambda_inference::Model;
use lambda_inference::batch::{self, Settings};
use serde_json::Value;

use super::builder::Tree;
use super::json::Object;
use super::requests::NAMES;

/// One thread, and predictions alone.
pub const SETTINGS: Settings = Settings { threads: NonZero::<usize>::MIN, explain: false };

/// Scores an input and compares the output with what another reader makes of it; gives the rows and the bad ones.
#[track_caller]
pub fn agrees(model: &Model, tree: &Tree, csv: bool, bytes: &[u8]) -> (u64, u64) {
    let expected = if csv { csv_rows(bytes) } else { Some(json_rows(bytes)) };
    let mut output = Vec::new();
    let input = if csv { batch::csv(model, bytes) } else { Ok(batch::ndjson(model, bytes)) };
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    let (mut input, expected) = match (input, expected) {
        (Ok(input), Some(expected)) => (input, expected),
        (Err(_), None) => return (0, 0),
        (Ok(_), None) => panic!("the columns should not have been taken: {:?}", shown()),
        (Err(error), Some(_)) => panic!("{error}: {:?}", shown()),
    };
    let mut read = 0;
    let totals = batch::score(model, &mut input, &mut output, SETTINGS, &mut |part| {
        assert!(part.read > read, "{:?}", shown());
        read = part.read;
    });
    let totals = totals.expect("score");
    assert!(expected.is_empty() || read == bytes.len() as u64, "{read} bytes read of {:?}", shown());
    let lines = expected.iter().map(|row| line(tree, row.as_deref()));
    let lines: String = std::iter::once("prediction,probability\n".to_string()).chain(lines).collect();
    assert_eq!(String::from_utf8_lossy(&output), lines, "{:?}", shown());
    let bad = lines.lines().filter(|line| *line == ",").count() as u64;
    assert_eq!((totals.rows, totals.bad), (expected.len() as u64, bad), "{:?}", shown());
    (totals.rows, totals.bad)
}

/// The line of a row: empty for one that could not be read, or holds what is infinite in single precision.
fn line(tree: &Tree, row: Option<&[f64]>) -> String {
    match row.filter(|row| row.iter().all(|value| !(*value as f32).is_infinite())) {
        None => ",\n".to_string(),
        Some(row) => {
            let probabilities = tree.probabilities(row);
            format!("{},{:?}\n", u8::from(probabilities[1] > probabilities[0]), probabilities[1])
        }
    }
}

/// The rows of a whole CSV; none if its columns are not the model's.
fn csv_rows(bytes: &[u8]) -> Option<Vec<Option<Vec<f64>>>> {
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true).terminator(csv::Terminator::Any(b'\n'));
    let mut records = builder.from_reader(bytes).into_byte_records().map(|record| record.expect("in memory"));
    let header: Vec<Vec<u8>> = records.next()?.iter().map(<[u8]>::to_vec).collect();
    let without_end = |name: &[u8]| name.strip_suffix(b"\r").unwrap_or(name).to_vec();
    let header: Vec<Vec<u8>> = match header.split_last() {
        Some((last, others)) => others.iter().cloned().chain([without_end(last)]).collect(),
        None => Vec::new(),
    };
    let columns = NAMES.iter().map(|name| {
        let places: Vec<usize> = (0..header.len()).filter(|place| header[*place] == name.as_bytes()).collect();
        (places.len() == 1).then(|| places[0])
    });
    let columns = columns.collect::<Option<Vec<usize>>>()?;
    let rows = records.filter(|record| record.len() > 1 || record.as_slice() != b"\r").map(|record| {
        if record.len() != header.len() {
            return None;
        }
        columns.iter().map(|column| csv_number(&record[*column])).collect()
    });
    Some(rows.collect())
}

fn csv_number(field: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(field.trim_ascii()).ok()?;
    if text.is_empty() {
        return Some(f64::NAN);
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

fn json_rows(bytes: &[u8]) -> Vec<Option<Vec<f64>>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    lines.map(|line| json_row(std::str::from_utf8(line).ok()?)).collect()
}

fn json_row(text: &str) -> Option<Vec<f64>> {
    let fields = Object::read(text).ok()?;
    NAMES
        .iter()
        .map(|name| match serde_json::from_str(fields.field(name).ok()??).ok()? {
            Value::Null => Some(f64::NAN),
            Value::Number(number) => number.as_f64(),
            _ => None,
        })
        .collect()
}
