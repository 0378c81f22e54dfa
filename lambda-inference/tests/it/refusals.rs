//! What is refused, and how; random events among it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_inference::request;
use serde_json::{Value, json};

use crate::builder::{File, Random, credit, leaf, split};
use crate::corpus;
use crate::mutate::mutate;
use crate::oracle::requests::{NAMES, agrees, ask};
use crate::requests::{GOOD, http, with};

#[test]
fn bad_values_name_their_field() {
    let model = credit().0.model();
    let anywhere = [
        "\"1\"",
        "\"\"",
        "\"approved\"",
        "null",
        "true",
        "false",
        "[]",
        "[1]",
        "{}",
        "{\"a\": 1}",
        "1e999",
        "-1e999",
        "1e400",
        "-1",
        "-1e-300",
        "2e8",
        "-5e-324",
        "\"1e5\"",
        "\"NaN\"",
        "\"Infinity\"",
        "\"\\ud800\"",
        "3.5e38",
    ];
    let mut cases: Vec<(&str, String)> = Vec::new();
    for name in NAMES {
        cases.extend(anywhere.iter().map(|value| (name, (*value).to_string())));
        cases.push((name, "9".repeat(400)));
        cases.push((name, format!("{}1{}", "[".repeat(100), "]".repeat(100))));
    }
    for value in ["0.5", "2.5", "1e-5", "21", "20.000001", "1.9999999999999998"] {
        cases.push(("Num_Children", value.to_string()));
    }
    for value in ["100000000.00000002", "1e9"] {
        cases.push(("Income", value.to_string()));
    }
    for value in ["2", "0.5", "1.0000000000000002", "5e-324", "0.9999999999999999"] {
        cases.push(("Own_Car", value.to_string()));
    }
    for (name, value) in &cases {
        let application = with(name, value);
        for event in [application.clone(), http("POST", json!(application), false)] {
            let (status, body) = ask(&model, &event);
            assert_eq!((status, body["field"].as_str()), (400, Some(*name)), "{event:.200}: {body}");
            assert!(body["error"].as_str().unwrap().contains(name), "{body}");
        }
    }
}

#[test]
fn without_bounds_single_precision_is_the_bound() {
    let tree = split(0, 0.0, false, leaf(&[1.0, 0.0]), leaf(&[0.0, 1.0]));
    let model = File::new(&[("x", 0, -f64::INFINITY, f64::INFINITY)], &[0, 1], 1, &tree).model();
    for value in ["3.4028235e38", "-3.4028235677973362e38", "1e-400"] {
        assert_eq!(ask(&model, &format!("{{\"x\": {value}}}")).0, 200, "{value}");
    }
    for value in ["3.4028235677973366e38", "-3.4028235677973366e38", "1e39", "-1e308", "1e309", "-1e999"] {
        let (status, body) = ask(&model, &format!("{{\"x\": {value}}}"));
        assert_eq!((status, &body["field"], &body["error"]), (400, &json!("x"), &json!("x is too large")), "{value}");
    }
}

#[test]
fn applications_that_are_not_the_models_are_refused() {
    let model = credit().0.model();
    let mut cases: Vec<(String, Option<&str>)> = Vec::new();
    for name in NAMES {
        let mut fields: Value = serde_json::from_str(GOOD).unwrap();
        let value = fields.as_object_mut().unwrap().remove(name).unwrap();
        cases.push((fields.to_string(), Some(name)));
        // Under another name it is both unknown and missing.
        fields[name.to_lowercase()] = value;
        let (status, body) = ask(&model, &fields.to_string());
        assert_eq!(status, 400);
        assert!([name, &name.to_lowercase()].contains(&body["field"].as_str().unwrap()), "{body}");
        cases.push((format!("{}, \"{name}\": 1}}", &GOOD[..GOOD.len() - 1]), Some(name)));
        cases.push((format!("{{\"{name}\": null, {}", &GOOD[1..]), Some(name)));
    }
    for unknown in ["Group", "income", "Income ", "", "httpMethod", "body", "\u{0}", "__proto__", "ｉncome"] {
        let mut fields: Value = serde_json::from_str(GOOD).unwrap();
        fields[unknown] = json!(1);
        cases.push((fields.to_string(), Some(unknown)));
    }
    cases.push(("{}".to_string(), Some("Num_Children")));
    cases.push((r#"{"httpMethod": "POST", "body": "{}"}"#.to_string(), Some("httpMethod")));
    let texts = [
        "",
        " ",
        "\n\t",
        "null",
        "true",
        "1",
        "-",
        "\"\"",
        "\"{}\"",
        "[]",
        "[1, 2, 3, 4]",
        "{",
        "}",
        "{]",
        "[{}]",
        "{}{}",
        "NaN",
        "{\"Income\": 1,}",
        "{Income: 1}",
        "{'Income': 1}",
        "{\"Income\": 0x10}",
        "{\"Income\": 1_000}",
        "{\"Income\": 1 2}",
        "{\"\\ud800\": 1}",
        "\u{feff}{}",
        "\u{0}",
        "Income=1&Own_Car=1",
        "<xml/>",
        "{1: 2}",
        "{\"Income\": 1}//",
        "{\"Income\": 1} x",
    ];
    // No JSON, but it is plain which field is meant.
    let values = [
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "-NaN",
        "+1",
        "01",
        ".5",
        "1.",
        "1e",
        "None",
        "undefined",
        "\"\n\"",
        "",
        "{\"x\": NaN}",
    ];
    cases.extend(values.iter().map(|value| (with("Income", value), Some("Income"))));
    cases.push(("{\"Income\"}".to_string(), Some("Income")));
    cases.extend(texts.iter().map(|text| ((*text).to_string(), None)));
    cases.extend([(format!("{GOOD},"), None), (format!("{GOOD}{GOOD}"), None), (format!("[{GOOD}]"), None)]);
    cases.extend((1..GOOD.len()).map(|end| (GOOD[..end].to_string(), None)));
    cases.push((json!(GOOD).to_string(), None));
    for (application, field) in &cases {
        let (status, body) = ask(&model, application);
        assert_eq!((status, body["field"].as_str()), (400, *field), "{application:?}: {body}");
        if !application.is_empty() {
            assert_eq!(ask(&model, &http("POST", json!(application), false)).1, body, "{application:?}");
            assert_eq!(ask(&model, &http("POST", json!(STANDARD.encode(application)), true)).1, body);
        }
    }
}

#[test]
fn deep_and_huge_applications_are_refused() {
    let model = credit().0.model();
    let deep = 100_000;
    for event in [
        "[".repeat(deep),
        "{\"a\":".repeat(deep),
        format!("{}{}", "[".repeat(deep), "]".repeat(deep)),
        with("Income", &format!("{}{}", "[".repeat(deep), "]".repeat(deep))),
        with("Income", &"{\"a\":".repeat(deep)),
        with("Income", &"1".repeat(deep)),
        format!("{}{GOOD}", " ".repeat(64 * 1024)),
    ] {
        assert_eq!(ask(&model, &event).0, 413, "{event:.40}");
        assert_eq!(ask(&model, &http("POST", json!(event), false)).0, 413, "{event:.40}");
        assert_eq!(ask(&model, &http("POST", json!(STANDARD.encode(&event)), true)).0, 413, "{event:.40}");
    }
    // Just as large as is allowed.
    let padding = " ".repeat(64 * 1024 - GOOD.len());
    assert_eq!(ask(&model, &format!("{padding}{GOOD}")).0, 200);
    let mut wide = String::from("{");
    for index in 0..5_000 {
        write!(wide, "\"x{index}\":1,").unwrap();
    }
    assert_eq!(ask(&model, &format!("{wide}\"y\":1}}")).1["field"], "x0");
    // Depth that is under the limit of size.
    assert_eq!(ask(&model, &with("Income", &"[".repeat(60_000))).0, 400);
    // An envelope may carry more than it needs, in any depth.
    let nested = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let body = json!(GOOD);
    let event = format!(
        r#"{{"x": {nested}, "requestContext": {{"y": {nested}, "http": {{"method": "POST"}}}}, "body": {body}}}"#
    );
    assert_eq!(ask(&model, &event).0, 200);
    // Digits without end are one number.
    assert_eq!(ask(&model, &with("Income", &format!("0.{}", "1".repeat(60_000)))).0, 200);
    assert_eq!(ask(&model, &with("Income", &format!("1e-{}", "1".repeat(60_000)))).0, 200);
}

#[test]
fn bad_envelopes_are_refused() {
    let model = credit().0.model();
    let context = json!({"http": {"method": "POST"}});
    let cases = [
        (405, http("GET", json!(GOOD), false)),
        (405, http("GET", Value::Null, false)),
        (405, http("PUT", json!(GOOD), false)),
        (405, http("DELETE", json!(GOOD), false)),
        (405, http("HEAD", json!(GOOD), false)),
        (405, http("post", json!(GOOD), false)),
        (405, http("", json!(GOOD), false)),
        (405, json!({"httpMethod": "GET", "requestContext": {}, "body": GOOD}).to_string()),
        (400, http("POST", Value::Null, false)),
        (400, http("POST", json!(""), false)),
        (400, http("POST", json!(""), true)),
        (400, http("POST", json!(1), false)),
        (400, http("POST", json!(true), false)),
        (400, http("POST", serde_json::from_str(GOOD).unwrap(), false)),
        (400, http("POST", json!([GOOD]), false)),
        (400, http("POST", json!(GOOD), true)),
        (400, http("POST", json!("e30"), true)),
        (400, http("POST", json!("e30=\n"), true)),
        (400, http("POST", json!("===="), true)),
        (400, http("POST", json!(STANDARD.encode([0xff, 0xfe])), true)),
        (400, http("POST", json!(STANDARD.encode([b"{\"Income\": \"", &[0xc0, 0x80][..], b"\"}"].concat())), true)),
        (400, http("POST", json!(STANDARD.encode(GOOD)), false)),
        (400, json!({"requestContext": context}).to_string()),
        (400, json!({"requestContext": {"http": {}}, "body": GOOD}).to_string()),
        (400, json!({"requestContext": {"http": {"method": 1}}, "body": GOOD}).to_string()),
        (400, json!({"requestContext": {"http": null}, "body": GOOD}).to_string()),
        (400, json!({"requestContext": {}, "body": GOOD}).to_string()),
        (400, json!({"requestContext": null, "body": GOOD}).to_string()),
        (400, json!({"requestContext": "POST", "body": GOOD}).to_string()),
        (400, json!({"requestContext": [], "body": GOOD}).to_string()),
        (400, json!({"requestContext": context, "body": GOOD, "isBase64Encoded": "true"}).to_string()),
        (400, json!({"requestContext": context, "body": GOOD, "isBase64Encoded": 1}).to_string()),
        (400, format!(r#"{{"requestContext": {context}, "requestContext": {context}, "body": {}}}"#, json!(GOOD))),
        (400, format!(r#"{{"requestContext": {context}, "body": "{{}}", "body": {}}}"#, json!(GOOD))),
        (400, format!("{{\"requestContext\": {context}, {}", &GOOD[1..])),
    ];
    for (status, event) in cases {
        let (found, body) = ask(&model, &event);
        assert_eq!((found, body.get("field")), (status, None), "{event}: {body}");
    }
    let answer = request::answer(&model, &http("GET", Value::Null, false));
    assert_eq!(answer.headers.allow, Some("POST, OPTIONS"));
}

const TOKENS: [&str; 32] = [
    "null",
    "true",
    "\"1\"",
    "1e999",
    "-",
    ".",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "e",
    "E-1",
    "0",
    "1",
    "9",
    "-0",
    "1.0",
    "2e0",
    "NaN",
    " ",
    "\n",
    "\u{0}",
    "ä",
    "\\u0031",
    "\"Income\": 5,",
    "\"Own_Car\": 0, ",
    "20",
    "POST",
];

fn changed(random: &mut Random, event: &str) -> String {
    let mut bytes = event.as_bytes().to_vec();
    mutate(random, &mut bytes, &TOKENS);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn random_events_are_answered_only_if_another_reader_agrees() {
    let (file, tree) = credit();
    let model = file.model();
    let mut random = Random(5);
    let kept = corpus::kept("requests");
    let (mut answered, mut refused) = (0, 0);
    for round in 0..50_000 {
        let application = format!(
            "{{\"Num_Children\": {}, \"Income\": {}, \"Own_Car\": {}, \"Own_Housing\": {}}}",
            random.below(4),
            random.below(200_000),
            random.below(2),
            random.below(2)
        );
        let event = match round % 6 {
            5 => {
                let (_, bytes) = &kept[random.below(kept.len())];
                changed(&mut random, &String::from_utf8_lossy(bytes))
            }
            0 => changed(&mut random, &http("POST", json!(application), false)),
            1 => http("POST", json!(STANDARD.encode(changed(&mut random, &application))), true),
            2 => http("POST", json!(changed(&mut random, &application)), false),
            _ => changed(&mut random, &application),
        };
        if agrees(&model, &tree, &event) {
            answered += 1;
        } else {
            refused += 1;
        }
    }
    println!("{answered} requests answered, {refused} refused");
    assert!(answered > 10_000 && refused > 20_000, "{answered} answered, {refused} refused");
}
