//! What is answered, and with what.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_inference::{Model, request};
use serde_json::{Value, json};

use crate::builder::{File, Tree, credit, leaf, split};
use crate::oracle::requests::{NAMES, ask};

pub const GOOD: &str = r#"{"Num_Children": 2, "Income": 90000, "Own_Car": 1, "Own_Housing": 1}"#;

/// A request through a function URL.
pub fn http(method: &str, body: Value, base64: bool) -> String {
    let context = json!({"http": {"method": method, "path": "/"}, "stage": "$default"});
    json!({"version": "2.0", "requestContext": context, "body": body, "isBase64Encoded": base64}).to_string()
}

/// The good application with one field's value replaced.
pub fn with(name: &str, value: &str) -> String {
    let values = ["2", "90000", "1", "1"];
    let fields = NAMES.iter().zip(values).map(|(field, kept)| {
        let value = if *field == name { value } else { kept };
        format!("\"{field}\": {value}")
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

#[test]
fn good_requests_are_answered() {
    let model = credit().0.model();
    let plain = request::answer(&model, GOOD);
    let text = plain.body.as_str();
    let start = "{\"prediction\": 1, \"decision\": \"approved\", \"probability\": 1.0, \"model\": \"sha256:";
    assert!(text.starts_with(start), "{text}");
    assert_eq!(plain.status_code, 200);
    let envelopes = [
        http("POST", json!(GOOD), false),
        http("POST", json!(STANDARD.encode(GOOD)), true),
        json!({"httpMethod": "POST", "requestContext": {"stage": "x"}, "body": GOOD}).to_string(),
    ];
    for event in envelopes {
        assert_eq!(request::answer(&model, &event), plain, "{event}");
    }
    // The same values in other words and another order.
    let others = [
        r#"{"Own_Housing":1e0,"Own_Car":1.0,"Income":9e4,"Num_Children":2.0}"#,
        r#"{"Own_Housing":10e-1,"Own_Car":1,"Income":90000.000,"Num_Children":2e0}"#,
        "\n{ \"Income\" : 90000 ,\t\"Num_Children\" : 20E-1, \"Own_Car\":1,\"Own_Housing\":1}\r\n",
        r#"{"\u0049ncome": 90000, "Num_Children": 2, "Own_Car": 1, "Own_Housing": 1}"#,
    ];
    for event in others {
        assert_eq!(request::answer(&model, event), plain, "{event}");
    }
    let (status, body) = ask(&model, &with("Income", "1"));
    assert_eq!((status, &body["prediction"], &body["decision"]), (200, &json!(0), &json!("denied")));
    assert_eq!(body["probability"], json!(0.1));
}

#[test]
fn a_denial_gives_its_reasons_behind_the_prediction() {
    let model = credit().0.model();
    let plain = request::answer(&model, &with("Income", "1"));
    let text = plain.body.as_str();
    let start = "{\"prediction\": 0, \"decision\": \"denied\", \"probability\": 0.1, \"model\": \"sha256:";
    assert!(text.starts_with(start), "{text}");
    let head = "\", \"reasons\": [{\"feature\": \"Income\", \"text\": \"Your yearly income\", \"contribution\": -";
    assert!(text.contains(head), "{text}");
    let body: Value = serde_json::from_str(text).unwrap();
    // The first income that single precision rounds above the threshold.
    let counterfactual = body["reasons"][0]["counterfactual"].as_f64().unwrap();
    assert!(counterfactual > 70_000.0 && (counterfactual as f32) as f64 > 70_000.1);
    assert!(f64::from(counterfactual.next_down() as f32) <= 70_000.1);
    // Whole numbers are written as such, a text that the file lacks is the feature's name, and an approval has no reasons.
    let (_, body) = ask(&model, r#"{"Num_Children": 3, "Income": 75000, "Own_Car": 0, "Own_Housing": 0}"#);
    let reasons = body["reasons"].as_array().unwrap();
    assert!((1..=4).contains(&reasons.len()));
    let housing = reasons.iter().find(|reason| reason["feature"] == "Own_Housing").unwrap();
    assert_eq!(housing["counterfactual"].to_string(), "1");
    assert_eq!(ask(&model, GOOD).1.get("reasons"), None);
    // A file without training weights predicts, and explains nothing.
    let mut file = credit().0;
    file.covers.clear();
    assert_eq!(ask(&file.model(), &with("Income", "1")).1.get("reasons"), None);
}

#[test]
fn limits_belong_to_the_range() {
    let model = credit().0.model();
    for (name, value) in [
        ("Num_Children", "0"),
        ("Num_Children", "20"),
        ("Num_Children", "-0"),
        ("Income", "0"),
        ("Income", "-0.0"),
        ("Income", "1e8"),
        ("Income", "1e-400"),
        ("Income", "0.1234567890123456789012345678901234567890"),
        ("Own_Car", "0"),
        ("Own_Car", "-0"),
        ("Own_Car", "0e999"),
    ] {
        assert_eq!(ask(&model, &with(name, value)).0, 200, "{name}: {value}");
    }
}

#[test]
fn the_browsers_question_is_answered() {
    let answer = request::answer(&credit().0.model(), &http("OPTIONS", Value::Null, false));
    assert_eq!(answer.status_code, 204);
    assert_eq!((answer.body.as_str(), answer.headers.content_type), ("", None));
}

/// One text, which a lookup turns into the number of its leaf.
fn towns(refused: u32) -> Model {
    let mut file = File::empty(&[("town", 0, f64::NEG_INFINITY, f64::INFINITY)], &[0, 1], 1);
    file.texts(&["Bonn", "K\u{f6}ln"]);
    let coded = file.step([6, 0, 0, 1, 1, 0, 0, 0], &[0.0, 1.0, 0.25, 0.75, 0.5, 0.5], &[2, refused, 0, 0]);
    let pair = file.step([17, 0, coded, 1, 2, 0, 0, 0], &[], &[]);
    (file.model[1], file.model[4]) = (pair, pair);
    file.model()
}

#[test]
fn texts_are_looked_up_and_unknown_ones_left_to_the_model() {
    let probability = |model: &Model, text: &str| {
        let (status, body) = ask(model, &format!("{{\"town\": {text}}}"));
        assert_eq!(status, 200, "{body}");
        body["probability"].as_f64().unwrap()
    };
    let model = towns(0);
    assert_eq!(probability(&model, "\"Bonn\""), 0.25);
    assert_eq!(probability(&model, "\"K\\u00f6ln\""), 0.75);
    assert_eq!(probability(&model, "\"bonn\""), 0.5);
    let strict = towns(3);
    assert_eq!(probability(&strict, "\"Bonn\""), 0.25);
    let (status, body) = ask(&strict, "{\"town\": \"bonn\"}");
    assert_eq!((status, &body["field"]), (400, &json!("town")));
    assert_eq!(body["error"], json!("town is none of the values that the model knows"));
    for value in ["1", "true", "[\"Bonn\"]", "{}"] {
        let (status, body) = ask(&model, &format!("{{\"town\": {value}}}"));
        assert_eq!((status, &body["error"]), (400, &json!("town must be a text")), "{value}");
    }
    assert_eq!(probability(&model, "null"), 0.5);
    for event in ["{\"town\": null}", "{}"] {
        assert_eq!(ask(&strict, event).1["error"], "town is missing", "{event}");
    }
}

/// A tree over a number, an integer and a flag, in which missing values have ways of their own, behind these steps.
fn tolerant(steps: impl FnOnce(&mut File)) -> (Model, Tree) {
    let features = [("x", 0, -10.0, 10.0), ("y", 1, 0.0, 9.0), ("z", 2, 0.0, 1.0)];
    let low = split(1, 4.0, false, leaf(&[0.9, 0.1]), leaf(&[0.6, 0.4]));
    let tree = split(0, 0.5, true, low, split(2, 0.5, true, leaf(&[0.3, 0.7]), leaf(&[0.2, 0.8])));
    let mut file = File::new(&features, &[0, 1], 1, &tree);
    // The other steps come in front of the tree, with all that they refer to.
    let mut trees = file.steps.pop().expect("the tree's step");
    let numbers = std::mem::take(&mut file.numbers);
    file.steps.clear();
    file.model[0] -= 2;
    steps(&mut file);
    trees[2] = file.model[0] - 3;
    file.steps.push(trees);
    file.numbers.extend(numbers);
    (file.model[1], file.model[4]) = (file.model[0], file.model[0]);
    file.model[0] += 2;
    (file.model(), tree)
}

#[test]
fn a_model_that_takes_missing_values_answers_without_a_field() {
    let (model, tree) = tolerant(|_| {});
    let values = [("x", "2.5", 2.5), ("y", "7", 7.0), ("z", "1", 1.0)];
    for missing in 0..8 {
        let (mut absent, mut null, mut row) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (name, text, value)) in values.iter().enumerate() {
            if missing >> place & 1 == 1 {
                null.push(format!("\"{name}\": null"));
                row.push(f64::NAN);
            } else {
                absent.push(format!("\"{name}\": {text}"));
                null.push(format!("\"{name}\": {text}"));
                row.push(*value);
            }
        }
        for event in [format!("{{{}}}", absent.join(",")), format!("{{ {} }}", null.join(" , "))] {
            for event in [http("POST", json!(event), false), event] {
                let (status, body) = ask(&model, &event);
                assert_eq!((status, body["probability"].as_f64()), (200, Some(tree.probabilities(&row)[1])), "{event}");
            }
        }
    }
    // What is there has to be right all the same.
    for (event, error) in [
        ("{\"y\": 1.5}", "y must be a whole number"),
        ("{\"x\": null, \"z\": 2}", "z must be 0 or 1"),
        ("{\"x\": \"null\"}", "x must be a number"),
        ("{\"x\": NULL}", "x must be a number"),
        ("{\"x\": 11}", "x must lie between -10 and 10"),
        ("{\"x\": null, \"x\": 1}", "x is given twice"),
        ("{\"x\": null, \"x\": null}", "x is given twice"),
        ("{\"w\": null}", "there is no field w"),
    ] {
        let (status, body) = ask(&model, event);
        let found = body["error"].as_str().unwrap();
        assert!(status == 400 && found.starts_with(error), "{event}: {found}");
        assert_eq!(body["field"], error.split(' ').find(|word| "wxyz".contains(word)).unwrap(), "{event}");
    }
}

#[test]
fn a_value_that_is_refused_after_steps_names_its_field() {
    // z and x, scaled; then neither may be missing.
    let (model, _) = tolerant(|file| {
        let chosen = file.step([2, 0, 0, 0, 3, 0, 0, 0], &[], &[2, 0, 1]);
        let scaled = file.step([4, 0, chosen, 3, 3, 0, 0, 0], &[0.0, 1.0, 0.0, 1e-308, 0.0, 1.0], &[]);
        file.step([1, 3, scaled, 2, 0, 0, 0, 0], &[], &[]);
    });
    for (event, error, field) in [
        ("{\"x\": 0, \"y\": 1}", "z is missing", "z"),
        ("{\"y\": null, \"z\": 0}", "x is missing", "x"),
        ("{\"x\": 9, \"z\": 0}", "x is too large", "x"),
    ] {
        let (status, body) = ask(&model, event);
        assert_eq!((status, &body["error"], &body["field"]), (400, &json!(error), &json!(field)), "{event}");
    }
    assert_eq!(ask(&model, "{\"x\": 0, \"z\": 0}").0, 200);
}

#[test]
fn where_nothing_comes_out_without_a_value_it_is_the_missing_one() {
    let mut file = File::empty(&[("x", 0, 0.0, 9.0), ("y", 0, 0.0, 9.0)], &[0, 1], 1);
    let line = file.step([9, 0, 0, 2, 1, 0, 0, 0], &[0.5, 1.0, 1.0], &[]);
    let pair = file.step([11, 0, line, 1, 2, 0, 0, 0], &[1.0], &[]);
    (file.model[1], file.model[4]) = (pair, pair);
    let model = file.model();
    assert_eq!(ask(&model, "{\"x\": 1, \"y\": 1}").0, 200);
    for event in ["{\"x\": 1}", "{\"x\": 1, \"y\": null}"] {
        let (status, body) = ask(&model, event);
        assert_eq!((status, &body["error"], &body["field"]), (400, &json!("y is missing"), &json!("y")), "{event}");
    }
}
