//! Random lines of CSV and NDJSON, scored as other readers read them.

use crate::builder::{Random, credit};
use crate::corpus;
use crate::mutate::mutate;
use crate::oracle::requests::NAMES;
use crate::oracle::rows::agrees;

const ROUNDS: u64 = 20_000;

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

#[test]
fn random_rows_are_scored_as_another_reader_reads_them() {
    let (file, tree) = credit();
    let model = file.model();
    let kept = corpus::kept("rows");
    let mut random = Random(32);
    let (mut rows, mut bad) = (0, 0);
    for round in 0..ROUNDS {
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
        mutate(&mut random, &mut bytes, &TOKENS);
        let (found, found_bad) = agrees(&model, &tree, csv, &bytes);
        (rows, bad) = (rows + found, bad + found_bad);
    }
    println!("{rows} random rows scored, {bad} of them bad");
    assert!(rows > 2 * ROUNDS / 3 && bad * 20 > rows && bad * 2 < rows, "{rows} rows, {bad} bad");
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
