//! Random lines of CSV and NDJSON, scored as other readers read them.

use std::collections::HashMap;
use std::num::NonZero;

use lambda_inference::Model;
use lambda_inference::batch::{self, Settings};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::builder::{self, Random, Tree, credit};
use crate::corpus;

/// One thread, and predictions alone.
pub const SETTINGS: Settings = Settings { threads: NonZero::<usize>::MIN, explain: false };
const NAMES: [&str; 4] = ["Num_Children", "Income", "Own_Car", "Own_Housing"];

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
    let totals = batch::score(model, &mut input, &mut output, SETTINGS, &mut |_| {}).expect("score");
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

/// Other fields only have to be JSON: a number too large for any float is that too.
fn json_row(text: &str) -> Option<Vec<f64>> {
    let fields: HashMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
    NAMES
        .iter()
        .map(|name| match serde_json::from_str(fields.get(*name)?.get()).ok()? {
            Value::Null => Some(f64::NAN),
            Value::Number(number) => number.as_f64(),
            _ => None,
        })
        .collect()
}

/// Changes an input at a few places.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    const TOKENS: [&str; 30] = [
        "\"",
        "\"\"",
        ",",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        " ",
        "\t",
        "0",
        "1",
        "2",
        "9",
        "-",
        "+",
        ".",
        "e",
        "1e39",
        "inf",
        "nan",
        "\u{feff}",
        "ä",
        "\0",
        "null",
        "{",
        "}",
        ":",
        "[]",
        "90000",
        "999999999999999999",
    ];
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(6)).min(bytes.len());
        match random.below(5) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..end, random.pick(&TOKENS).bytes())),
            2 => drop(bytes.splice(at..at, random.pick(&TOKENS).bytes())),
            3 => {
                let piece = bytes[at..end].to_vec();
                let target = random.below(bytes.len() + 1);
                drop(bytes.splice(target..target, piece));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
}

#[test]
fn random_rows_are_scored_as_another_reader_reads_them() {
    let (file, tree) = credit();
    let model = file.model();
    let kept = corpus::kept("rows");
    let mut random = Random(32);
    let (mut rows, mut bad) = (0, 0);
    let rounds = builder::rounds(20_000);
    for round in 0..rounds {
        let csv = round % 2 == 0;
        let mut bytes = if round % 8 < 2 {
            let (name, bytes) = &kept[random.below(kept.len())];
            if name.ends_with(".csv") == csv { bytes.clone() } else { Vec::new() }
        } else {
            Vec::new()
        };
        if bytes.is_empty() {
            bytes = lines(&mut random, csv);
        }
        mutate(&mut random, &mut bytes);
        // The other reader keeps the last of doubled fields.
        let text = String::from_utf8_lossy(&bytes);
        let doubled = |line: &str| line.contains('\\') || NAMES.iter().any(|name| line.matches(name).count() > 1);
        if !csv && text.split('\n').any(doubled) {
            continue;
        }
        let (found, found_bad) = agrees(&model, &tree, csv, &bytes);
        (rows, bad) = (rows + found, bad + found_bad);
    }
    println!("{rows} random rows scored, {bad} of them bad");
    assert!(rows > 2 * rounds / 3 && bad * 20 > rows && bad * 2 < rows, "{rows} rows, {bad} bad");
}

/// A few good rows.
fn lines(random: &mut Random, csv: bool) -> Vec<u8> {
    let mut text = if csv { NAMES.join(",") + "\n" } else { String::new() };
    for _ in 0..1 + random.below(4) {
        let values = [random.below(4), random.below(200_000), random.below(2), random.below(2)];
        if csv {
            text += &values.map(|value| value.to_string()).join(",");
        } else {
            let fields: Vec<String> =
                NAMES.iter().zip(values).map(|(name, value)| format!("\"{name}\": {value}")).collect();
            text += &format!("{{{}}}", fields.join(", "));
        }
        text += "\n";
    }
    text.into_bytes()
}
