//! Inputs that are kept because they once were, or could be, wrongly taken: replayed by every test run, and what random changes
//! begin with. `CORPUS=write` writes the model files anew, which a new format version asks for.

use std::fs;
use std::path::PathBuf;

use lambda_inference::Model;

use crate::builder::{self, credit, everything, leaf, split};
use crate::oracle::{answers, models, requests, rows};

const ANY: f64 = f64::INFINITY;

/// The kept inputs of a kind with their names, in the order of the names.
pub fn kept(kind: &str) -> Vec<(String, Vec<u8>)> {
    files(&format!("tests/corpus/{kind}"))
}

/// The files of a folder of this crate with their names, in the order of the names.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("read a kept input"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// The model files that are kept: valid ones begin with `valid`, others with `refused`.
fn made() -> Vec<(&'static str, Vec<u8>)> {
    let tree = split(0, 0.0, false, leaf(&[0.2, 0.5, 0.3]), leaf(&[0.7, 0.1, 0.2]));
    let three = builder::File::new(&[("x", 0, -ANY, ANY)], &[-1, 0, 7], 2, &tree);
    let single = builder::File::new(&[("x", 0, -ANY, ANY)], &[4], 0, &leaf(&[1.0]));
    let mut text = builder::File::empty(&[("size", 0, -ANY, ANY), ("town", 0, -ANY, ANY)], &[0, 1], 1);
    text.texts(&["Bonn", "a,b"]);
    let coded = text.step([6, 0, 1, 1, 1, 0, 0, 0], &[0.0, 1.0, 0.25, 0.75, 0.5, 0.0], &[2, 2, 0, 0]);
    let pair = text.step([17, 0, coded, 1, 2, 0, 0, 0], &[], &[]);
    (text.model[1], text.model[4]) = (pair, pair);
    let mut cycle = credit().0;
    cycle.nodes[0].child = 0;
    let mut outside = credit().0;
    outside.nodes[0].feature = 4;
    let mut slots = everything();
    slots.model[0] = u32::MAX;
    let mut step = everything();
    step.steps[0][2] = u32::MAX;
    let mut short = credit().0.bytes();
    short.truncate(64);
    vec![
        ("valid-credit.bin", credit().0.bytes()),
        ("valid-every-step.bin", everything().bytes()),
        ("valid-one-class.bin", single.bytes()),
        ("valid-text.bin", text.bytes()),
        ("valid-three-classes.bin", three.bytes()),
        ("refused-child-before-node.bin", cycle.bytes()),
        ("refused-feature-outside.bin", outside.bytes()),
        ("refused-header-alone.bin", short),
        ("refused-slots-overflow.bin", slots.bytes()),
        ("refused-step-overflow.bin", step.bytes()),
    ]
}

#[test]
fn kept_inputs_are_taken_or_refused_as_ever() {
    if std::env::var("CORPUS").is_ok_and(|value| value == "write") {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/models");
        made().iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).expect("write a model file"));
    }
    let mut count = 0;
    for (name, bytes) in kept("models") {
        match Model::from_bytes(&bytes) {
            Ok(model) => {
                assert!(name.starts_with("valid"), "{name} was taken");
                models::exercise(&model, &bytes);
            }
            Err(error) => {
                assert!(name.starts_with("refused"), "{name}: {error}; a new format version asks for CORPUS=write");
                assert!(!error.to_string().contains("version"), "{name}: {error}");
            }
        }
        count += 1;
    }
    let (file, tree) = credit();
    let model = file.model();
    for (name, bytes) in kept("requests") {
        let answered = requests::agrees(&model, &tree, &String::from_utf8_lossy(&bytes));
        assert_eq!(answered, name.starts_with("answered"), "{name}");
        count += 1;
    }
    for (name, bytes) in kept("rows") {
        rows::agrees(&model, &tree, name.ends_with(".csv"), &bytes);
        count += 1;
    }
    println!("{count} kept inputs executed");
}

/// A fuzz target's name and what it asks.
type Target<'a> = (&'a str, &'a dyn Fn(&[u8]));

#[test]
fn what_the_fuzzer_found_is_withstood() {
    let (file, tree) = credit();
    let model = file.model();
    let targets: [Target; 5] = [
        ("models", &|bytes| {
            models::withstands(bytes);
        }),
        ("requests", &|bytes| {
            requests::agrees(&model, &tree, &String::from_utf8_lossy(bytes));
        }),
        ("csv", &|bytes| {
            rows::agrees(&model, &tree, true, bytes);
        }),
        ("ndjson", &|bytes| {
            rows::agrees(&model, &tree, false, bytes);
        }),
        ("answers", &|bytes| {
            answers::withstands(bytes);
        }),
    ];
    for (target, withstands) in targets {
        let found = files(&format!("fuzz/corpus/{target}"));
        found.iter().for_each(|(_, bytes)| withstands(bytes));
        println!("{} inputs of the fuzz target {target} executed", found.len());
    }
}
