//! What `score` makes of rows of each format, good and bad, with and without explanations.

use std::fs;

use crate::builder::{self, Random, credit, leaf, split};
use crate::place::{GOOD, HEADER, NO, OTHER, Place, YES, names};

const ANY: f64 = f64::INFINITY;

#[test]
fn rows_are_scored_in_order() {
    let place = Place::new();
    let expected = format!("prediction,probability\n{YES}{NO}{YES}");
    place.csv(&format!("{HEADER}2,90000,1,1\n0,1,0,0\n2,90000,1,1\n")).is(&expected);
    place.csv(&format!("{HEADER}2,90000,1,1\n0,1,0,0\n2,90000,1,1")).is(&expected);
    place.csv("Own_Housing,Income,Own_Car,Num_Children\n1,9e4,1,2\n0,1.0,0,0\n1,+90000,1, 2 \n").is(&expected);
}

#[test]
fn other_columns_are_ignored_with_a_note() {
    let scored = Place::new().csv("Group,Num_Children,Income,Own_Car,Own_Housing,Target\nx,2,90000,1,1,\n");
    scored.is(&format!("prediction,probability\n{YES}"));
    assert!(scored.err.contains("ignored columns, which the model does not have: 2"), "{}", scored.err);
}

#[test]
fn a_column_that_is_missing_or_doubled_is_an_error() {
    let place = Place::new();
    for (header, reason) in [
        ("Num_Children,Income,Own_Car", "no column Own_Housing"),
        ("Num_Children,income,Own_Car,Own_Housing", "no column Income"),
        ("Num_Children,Income,Own_Car,Own_Housing,Income", "two columns Income"),
        ("\n", "the input is empty"),
        ("", "the input is empty"),
        ("\u{feff}", "the input is empty"),
    ] {
        let scored = place.csv(&format!("{header}\n"));
        scored.fails(1, reason);
        assert_eq!(scored.out, "");
    }
    place.csv("").fails(1, "the input is empty");
}

#[test]
fn a_header_alone_gives_a_header() {
    let place = Place::new();
    place.csv(HEADER).is("prediction,probability\n");
    place.csv(HEADER.trim_end()).is("prediction,probability\n");
    place.ndjson("").is("prediction,probability\n");
    place.ndjson("\n \n").is("prediction,probability\n");
}

#[test]
fn bad_rows_keep_the_order_and_are_reported_with_their_line() {
    let place = Place::new();
    for ending in ["\n", "\r\n"] {
        let rows =
            ["2,90000,1,1", "2,many,1,1", "\"0\",\"1\",0,0", "2,90000,1", "2,90000,1,1,1", "2,9e99,1,1", "2,90000,1,1"];
        let text = format!("{HEADER}{}\n", rows.join("\n")).replace('\n', ending);
        let scored = place.csv(&text);
        assert_eq!(scored.out, format!("prediction,probability\n{YES},\n{NO},\n,\n,\n{YES}"));
        scored.fails(1, "line 3: Income is \"many\", not a number");
        scored.fails(1, "line 5: 3 fields, the header has 4");
        scored.fails(1, "line 6: 5 fields, the header has 4");
        scored.fails(1, "line 7: Income is too large: 9e99");
        scored.fails(1, "rows that could not be read: 4");
    }
}

#[test]
fn what_is_no_number_is_no_number() {
    let place = Place::new();
    for value in [
        "x", "nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e39", "-1e39", "1e999", "0x10", "1_000", "1,5", "--1",
        "1 2", "null", "true", "1e", "e1", ".", "-", "\u{661}", "1\u{0}",
    ] {
        let scored = place.csv(&format!("{HEADER}2,\"{value}\",1,1\n"));
        assert_eq!(scored.out, "prediction,probability\n,\n", "{value:?}");
        scored.fails(1, "line 2: Income");
    }
    for value in ["90000", "+90000", "90000.", "9e4", "9E+4", " 90000 ", "090000"] {
        place.csv(&format!("{HEADER}2,{value},1,1\n")).is(&format!("prediction,probability\n{YES}"));
    }
    // The greatest that is no infinity in single precision.
    place.csv(&format!("{HEADER}2,3.4028235e38,1,1\n")).is(&format!("prediction,probability\n{YES}"));
    let mut bytes = format!("{HEADER}2,").into_bytes();
    bytes.extend(b"\xff\xfe,1,1\n");
    place.run(&["--model", "model.bin"], &bytes).fails(1, "line 2: Income");
    let long = place.csv(&format!("{HEADER}2,{},1,1\n", "x".repeat(100_000)));
    assert!(long.code == 1 && long.err.len() < 300, "{:.400}", long.err);
}

#[test]
fn only_the_first_bad_rows_are_reported_but_all_are_counted() {
    let scored = Place::new().csv(&format!("{HEADER}{}", "x,1,1,1\n".repeat(1_000)));
    assert_eq!(scored.err.lines().count(), 21, "{}", scored.err);
    scored.fails(1, "rows that could not be read: 1000");
    assert_eq!(scored.out.lines().count(), 1_001);
}

#[test]
fn an_empty_field_is_a_missing_value() {
    let (file, tree) = credit();
    let place = Place::with(&file);
    let nan = f64::NAN;
    let rows = [
        ("2,,1,1", [2.0, nan, 1.0, 1.0]),
        (",,,", [nan; 4]),
        (",90000,1, ", [nan, 9e4, 1.0, nan]),
        ("\"\",1,0,0", [nan, 1.0, 0.0, 0.0]),
    ];
    for (text, row) in rows {
        let probabilities = tree.probabilities(&row);
        let class = u8::from(probabilities[1] > probabilities[0]);
        let expected = format!("prediction,probability\n{class},{:?}\n", probabilities[1]);
        place.csv(&format!("{HEADER}{text}\n")).is(&expected);
    }
    place
        .ndjson(r#"{"Num_Children": 2, "Income": null, "Own_Car": 1, "Own_Housing": 1}"#)
        .is(&format!("prediction,probability\n1,{:?}\n", tree.probabilities(&[2.0, nan, 1.0, 1.0])[1]));
}

#[test]
fn quotes_line_ends_and_byte_order_marks_are_understood() {
    let place = Place::new();
    let expected = format!("prediction,probability\n{YES}{NO}");
    place.csv("\"Num_Children\",\"Income\",Own_Car,\"Own_Housing\"\n\"2\",\"90000\",1,1\n0,1,\"0\",0\n").is(&expected);
    place.csv(&format!("{HEADER}2,90000,1,1\n0,1,0,0\n").replace('\n', "\r\n")).is(&expected);
    place.csv(&format!("\u{feff}{HEADER}2,90000,1,1\n0,1,0,0\n")).is(&expected);
    place.csv(&format!("\u{feff}\"Num_Children\"{}2,90000,1,1\n0,1,0,0\n", &HEADER[12..])).is(&expected);
    place.csv(&format!("{HEADER}\n2,90000,1,1\n\r\n\n0,1,0,0\n\n")).is(&expected);
    // Commas, quotes and line ends inside an ignored column.
    let scored = place.csv("a,Num_Children,Income,Own_Car,Own_Housing\n\"x,\n\"\"y\",2,90000,1,1\nz,0,x,0,0\n");
    assert_eq!(scored.out, format!("prediction,probability\n{YES},\n"));
    scored.fails(1, "line 4: Income");
    place.csv(&format!("{HEADER}\n\r\n\"x\r\n\",90000,1,1\r\n\n")).fails(1, "line 4: Num_Children");
    place.csv(&format!("{HEADER}\n\n\"\nx\",90000,1,1\n")).fails(1, "line 4: Num_Children");
    place.csv(&format!("{HEADER}\"2,90000,1,1\n0,1,0,0\n")).fails(1, "line 2: 1 fields, the header has 4");
}

#[test]
fn ndjson_is_scored() {
    let place = Place::new();
    let good = r#"{"Own_Housing": 1, "Num_Children": 2.0, "Income": 9e4, "Own_Car": 1, "Group": [{"x": null}]}"#;
    let other = r#"{"Num_Children": 0, "Income": 1, "Own_Car": 0, "Own_Housing": 0}"#;
    let expected = format!("prediction,probability\n{YES}{NO}");
    place.ndjson(&format!("{good}\n{other}\n")).is(&expected);
    place.ndjson(&format!("{good}\r\n\r\n\n  \n{other}")).is(&expected);
    place.ndjson(&format!("\u{feff}{good}\n{other}")).is(&expected);
    fs::write(place.path("rows.ndjson"), format!("{good}\n{other}\n")).unwrap();
    fs::write(place.path("rows.jsonl"), format!("{good}\n{other}\n")).unwrap();
    place.run(&["--model", "model.bin", "--input", "rows.ndjson"], b"").is(&expected);
    place.run(&["--model", "model.bin", "--input", "rows.jsonl"], b"").is(&expected);
}

#[test]
fn bad_ndjson_is_reported_with_its_line() {
    let place = Place::new();
    let good = r#"{"Num_Children": 2, "Income": 90000, "Own_Car": 1, "Own_Housing": 1}"#;
    let deep = "[".repeat(100_000);
    for (bad, reason) in [
        ("x", "no JSON object"),
        ("[]", "no JSON object"),
        ("1", "no JSON object"),
        (r#"{"Num_Children": 2"#, "no JSON object"),
        (r#"{"Num_Children": NaN, "Income": 1, "Own_Car": 1, "Own_Housing": 1}"#, "no JSON object"),
        (deep.as_str(), "no JSON object"),
        (r#"{"Num_Children": 2, "Own_Car": 1, "Own_Housing": 1}"#, "Income is missing"),
        (r#"{"Num_Children": 2, "Income": "1", "Own_Car": 1, "Own_Housing": 1}"#, r#"Income is "\"1\"", not a number"#),
        (r#"{"Num_Children": 2, "Income": true, "Own_Car": 1, "Own_Housing": 1}"#, "Income is \"true\""),
        (r#"{"Num_Children": 2, "Income": [1], "Own_Car": 1, "Own_Housing": 1}"#, "Income is \"[1]\""),
        (r#"{"Num_Children": 2, "Income": 1e39, "Own_Car": 1, "Own_Housing": 1}"#, "Income is too large"),
        (r#"{"Num_Children": 2, "Income": 1e999, "Own_Car": 1, "Own_Housing": 1}"#, "Income is too large"),
        (r#"{"Num_Children": 2, "Income": 1, "Income": 1, "Own_Car": 1, "Own_Housing": 1}"#, "Income is given twice"),
        (
            r#"{"Num_Children": 2, "Income": null, "Income": 1, "Own_Car": 1, "Own_Housing": 1}"#,
            "Income is given twice",
        ),
    ] {
        let scored = place.ndjson(&format!("{good}\n\n{bad}\n{good}"));
        assert_eq!(scored.out, format!("prediction,probability\n{YES},\n{YES}"), "{bad:.200}");
        scored.fails(1, &format!("line 3: {reason}"));
    }
    let invalid = [good.as_bytes(), b"\n\xff\n", good.as_bytes()].concat();
    place.run(&["--model", "model.bin", "--format", "ndjson"], &invalid).fails(1, "line 2: no UTF-8");
}

#[test]
fn more_than_two_classes_have_a_column_each() {
    let tree = split(0, 0.0, false, leaf(&[0.2, 0.5, 0.3]), leaf(&[0.7, 0.1, 0.2]));
    let place = Place::with(&builder::File::new(&[("x", 0, -ANY, ANY)], &[-1, 0, 7], 2, &tree));
    let scored = place.csv("x\n-1\nx\n1\n");
    let expected = "prediction,probability_-1,probability_0,probability_7\n0,0.2,0.5,0.3\n,,,\n-1,0.7,0.1,0.2\n";
    assert_eq!((scored.code, scored.out.as_str()), (1, expected));
    let single = Place::with(&builder::File::new(&[("x", 0, -ANY, ANY)], &[4], 0, &leaf(&[1.0])));
    single.csv("x\n-1\n").is("prediction,probability\n4,1.0\n");
}

#[test]
fn probabilities_read_back_to_the_same_bits() {
    let mut random = Random(6);
    for _ in 0..20 {
        let values: Vec<f64> = (0..8)
            .map(|_| match random.below(3) {
                0 => f64::from_bits(random.next() % 1_f64.to_bits()),
                _ => random.unit(),
            })
            .collect();
        let leaves: Vec<_> = values.iter().map(|value| leaf(&[1.0 - value, *value])).collect();
        let mut tree = leaves[0].clone();
        for (index, next) in leaves.iter().enumerate().skip(1) {
            tree = split(0, index as f64, false, tree, next.clone());
        }
        let place = Place::with(&builder::File::new(&[("x", 0, -ANY, ANY)], &[0, 1], 1, &tree));
        let scored = place.csv(&(0..8).fold("x\n".to_string(), |text, index| format!("{text}{index}.5\n")));
        let read: Vec<u64> = scored
            .out
            .lines()
            .skip(1)
            .map(|line| line.split_once(',').unwrap().1.parse::<f64>().unwrap().to_bits())
            .collect();
        // `x = 0.5` is right of nothing but below 1, and so on upwards.
        let expected: Vec<u64> =
            (0..8).map(|index| tree.probabilities(&[f64::from(index) + 0.5])[1].to_bits()).collect();
        assert_eq!(read, expected);
    }
}

#[test]
fn texts_infinities_and_refused_values_are_told_apart() {
    // The probability of a text, or of a number that may be infinite.
    let mut file = builder::File::empty(&[("size", 0, -ANY, ANY), ("town", 0, -ANY, ANY)], &[0, 1], 1);
    file.texts(&["Bonn", "a,b"]);
    let coded = file.step([6, 0, 1, 1, 1, 0, 0, 0], &[0.0, 1.0, 0.25, 0.75, 0.5, 0.0], &[2, 2, 0, 0]);
    let pair = file.step([17, 0, coded, 1, 2, 0, 0, 0], &[], &[]);
    (file.model[1], file.model[4]) = (pair, pair);
    let place = Place::with(&file);
    let scored = place.csv("size,town\n1,Bonn\ninf,\"a,b\"\n-inf,\n1e999,Bonn\n1,bonn\n");
    assert_eq!(scored.out, "prediction,probability\n0,0.25\n1,0.75\n0,0.5\n,\n,\n");
    scored.fails(1, "line 5: size is too large: 1e999");
    scored.fails(1, "line 6: town is none of the values that the model knows");
    let scored = place
        .ndjson("{\"size\": 1, \"town\": \"a,b\"}\n{\"size\": null, \"town\": null}\n{\"size\": 1, \"town\": 2}\n");
    assert_eq!(scored.out, "prediction,probability\n1,0.75\n0,0.5\n,\n");
    scored.fails(1, "line 3: town is no text");
    file.steps.clear();
    (file.numbers, file.indices, file.model[0]) = (Vec::new(), Vec::new(), 2);
    file.step([1, 3, 0, 1, 0, 0, 0, 0], &[], &[]);
    let coded = file.step([6, 0, 1, 1, 1, 0, 0, 0], &[0.0, 1.0, 0.25, 0.75, 0.5, 0.0], &[2, 2, 0, 0]);
    let pair = file.step([17, 0, coded, 1, 2, 0, 0, 0], &[], &[]);
    (file.model[1], file.model[4]) = (pair, pair);
    let scored = Place::with(&file).csv("size,town\ninf,Bonn\n,Bonn\n1,Bonn\n");
    assert_eq!(scored.out, "prediction,probability\n,\n,\n0,0.25\n");
    scored.fails(1, "line 2: size is too large: inf");
    scored.fails(1, "line 3: size is missing");
}

/// The expected output for some rows: predictions and explanations as the library gives them one by one.
fn explained(file: &builder::File, header: &str, rows: &[Option<&[f64]>]) -> String {
    let model = file.model();
    let names: Vec<&str> = model.features().iter().map(|feature| feature.name.as_str()).collect();
    let mut explainer = model.explainer().expect("explanations");
    let mut lines = format!("{header}\n");
    for row in rows {
        let Some(row) = row else {
            lines += &format!("{}\n", ",".repeat(header.matches(',').count()));
            continue;
        };
        let base = explainer.base();
        let reasons = explainer.reasons(row).expect("reasons");
        let reasons: Vec<&str> = reasons.iter().map(|reason| names[reason.feature]).collect();
        let mut scorer = model.scorer();
        let prediction = scorer.predict(row).expect("a prediction");
        let probabilities = if model.classes().len() > 2 { scorer.probabilities() } else { &[prediction.probability] };
        let contributions = explainer.explain(row).expect("an explanation").contributions;
        let numbers = probabilities.iter().chain(base).chain(contributions).map(|number| format!("{number:?}"));
        let numbers: Vec<String> = numbers.collect();
        lines += &format!("{},{},{}\n", prediction.class, numbers.join(","), reasons.join(";"));
    }
    lines
}

#[test]
fn explanations_stand_behind_the_predictions() {
    let header = "prediction,probability,base,contribution_Num_Children,contribution_Income,contribution_Own_Car,\
                  contribution_Own_Housing,reasons";
    let (file, place) = (credit().0, Place::new());
    let explain = ["--model", "model.bin", "--explain"];
    let rows = [[2.0, 9e4, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0], [9.0, f64::NAN, 1.0, 1.0]];
    let expected = explained(&file, header, &[Some(&rows[0]), None, Some(&rows[1]), None, Some(&rows[2])]);
    let input = format!("{HEADER}{GOOD}\n2,x,1,1\n{OTHER}\n2,9e99,1,1\n9,,1,1\n");
    let scored = place.run(&explain, input.as_bytes());
    assert_eq!(scored.out, expected);
    scored.fails(1, "line 3: Income is \"x\", not a number");
    scored.fails(1, "line 5: Income is too large: 9e99");
    // The denied row has its reasons, and what is explained adds up.
    let denied: Vec<&str> = scored.out.lines().nth(3).unwrap().split(',').collect();
    assert_eq!((denied[0], denied[7]), ("0", "Income;Own_Housing"));
    assert_eq!(scored.out.lines().nth(1).unwrap().rsplit(',').next(), Some(""));
    let sum: f64 = denied[2..7].iter().map(|number| number.parse::<f64>().unwrap()).sum();
    assert!((sum - 0.1).abs() < 1e-12, "{sum}");
    place.run(&explain, HEADER.as_bytes()).is(&format!("{header}\n"));
}

#[test]
fn explanations_are_alike_by_any_number_of_threads_with_and_without_a_table() {
    let (file, place) = (credit().0, Place::new());
    let mut random = Random(5);
    let rows: Vec<[f64; 4]> = (0..20_000)
        .map(|_| {
            let mut below = |bound| random.below(bound) as f64;
            [below(6), 50_000.0 + below(50_000), below(2), below(2)]
        })
        .collect();
    let input = rows.iter().fold(HEADER.to_string(), |text, [a, b, c, d]| text + &format!("{a},{b},{c},{d}\n"));
    let header = "prediction,probability,base,contribution_Num_Children,contribution_Income,contribution_Own_Car,\
                  contribution_Own_Housing,reasons";
    let expected = explained(&file, header, &rows.iter().map(|row| Some(&row[..])).collect::<Vec<_>>());
    for threads in ["1", "2", "7"] {
        let scored = place.run(&["--model", "model.bin", "--explain", "--threads", threads], input.as_bytes());
        assert!(scored.code == 0 && scored.out == expected, "{threads} threads answer something else");
    }
}

#[test]
fn explanations_of_several_classes_name_the_class_and_columns_are_quoted_where_they_must_be() {
    let tree = split(
        0,
        0.0,
        false,
        leaf(&[0.2, 0.5, 0.3]),
        split(1, 0.0, true, leaf(&[0.7, 0.1, 0.2]), leaf(&[0.0, 0.0, 1.0])),
    );
    let mut file = builder::File::new(&[("x", 0, -ANY, ANY), ("a, \"b\"", 0, -ANY, ANY)], &[-1, 0, 7], 2, &tree);
    file.weigh();
    let place = Place::with(&file);
    let scored = place.run(&["--model", "model.bin", "--explain"], b"x,\"a, \"\"b\"\"\"\n-1,1\n1,1\n1,\n");
    let header = "prediction,probability_-1,probability_0,probability_7,base_-1,base_0,base_7,contribution_x_-1,\
                  \"contribution_a, \"\"b\"\"_-1\",contribution_x_0,\"contribution_a, \"\"b\"\"_0\",contribution_x_7,\
                  \"contribution_a, \"\"b\"\"_7\",reasons";
    let rows = [[-1.0, 1.0], [1.0, 1.0], [1.0, f64::NAN]];
    let expected = explained(&file, header, &rows.each_ref().map(|row| Some(&row[..])));
    scored.is(&expected.replace("a, \"b\"\n", "\"a, \"\"b\"\"\"\n").replace(",x;a", ",\"x;a"));
    assert!(scored.out.ends_with(",\"a, \"\"b\"\"\"\n"), "{}", scored.out);
}

#[test]
fn a_model_without_explanations_is_an_error_before_anything_is_written() {
    let mut file = credit().0;
    file.covers.clear();
    let place = Place::with(&file);
    let arguments = ["--model", "model.bin", "--explain", "--output", "out.csv"];
    let scored = place.run(&arguments, format!("{HEADER}{GOOD}\n").as_bytes());
    scored.fails(1, "the model has no explanations: its file lacks the nodes' training weights");
    assert_eq!(names(&place), ["model.bin"]);
    place.csv(&format!("{HEADER}{GOOD}\n")).is(&format!("prediction,probability\n{YES}"));
}
