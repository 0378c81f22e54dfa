//! Requests of any text: answered with a prediction only where another reader finds an application that the schema allows, and then
//! with the tree's own; else refused, and never with 5xx.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_inference::{Model, request};
use serde_json::{Value, json};

use super::builder::Tree;
use super::json::{Object, Wrong};

pub const NAMES: [&str; 4] = ["Num_Children", "Income", "Own_Car", "Own_Housing"];

/// The answer's status and body; checks what every answer must have.
pub fn ask(model: &Model, event: &str) -> (u64, Value) {
    let answer = serde_json::to_value(request::answer(model, event)).expect("an answer of JSON");
    let status = answer["statusCode"].as_u64().expect("a status");
    let text = answer["body"].as_str().expect("a body");
    if status == 204 {
        assert_eq!(text, "");
        return (status, Value::Null);
    }
    assert_eq!(answer["headers"]["content-type"], "application/json");
    let body: Value = serde_json::from_str(text).expect("a body of JSON");
    if status == 200 {
        assert!(text.starts_with("{\"prediction\": "), "{text}");
        assert_eq!(body["model"], model.digest());
    } else {
        assert!((400..500).contains(&status), "{status}: {event:.200}");
        assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{body}");
        assert!(body.get("prediction").is_none() && !text.contains("approved"), "{body}");
    }
    (status, body)
}

/// Answers an event and compares the answer with what another reader makes of it; whether it was a prediction.
#[track_caller]
pub fn agrees(model: &Model, tree: &Tree, event: &str) -> bool {
    let (status, body) = ask(model, event);
    match (status, asked(event).ok()) {
        (200, Some(Asked::Row(row))) => {
            let probabilities = tree.probabilities(&row);
            let approved = probabilities[1] > probabilities[0];
            assert_eq!(body["probability"].as_f64(), Some(probabilities[1]), "{event}");
            assert_eq!(body["prediction"], json!(i64::from(approved)), "{event}");
            assert_eq!(body["decision"], if approved { "approved" } else { "denied" }, "{event}");
            true
        }
        (204, Some(Asked::Preflight)) | (400..500, None) => false,
        (200, _) => panic!("answered, and should not have been: {event}"),
        (_, _) => panic!("{status}, and should have been answered: {event}: {body}"),
    }
}

/// What an event asks.
enum Asked {
    Row(Vec<f64>),
    Preflight,
}

/// An event as another reader than the function's understands it.
fn asked(event: &str) -> Result<Asked, Wrong> {
    let envelope = Object::read(event)?;
    if !envelope.0.iter().any(|(name, _)| name == "requestContext") {
        return row(event).map(Asked::Row);
    }
    let method = match object(envelope.field("requestContext")?)? {
        Some(context) => {
            object(context.field("http")?)?.map(|http| text(http.field("method")?)?.ok_or(Wrong)).transpose()?
        }
        None => None,
    };
    let method = method.or(text(envelope.field("httpMethod")?)?);
    let body = text(envelope.field("body")?)?;
    let coded = match envelope.field("isBase64Encoded")? {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Wrong),
    };
    match (method.as_deref(), body, coded) {
        (Some("OPTIONS"), ..) => Ok(Asked::Preflight),
        (Some("POST"), Some(body), false) => row(&body).map(Asked::Row),
        (Some("POST"), Some(body), true) => {
            let body = STANDARD.decode(body).map_err(|_| Wrong)?;
            row(std::str::from_utf8(&body).map_err(|_| Wrong)?).map(Asked::Row)
        }
        _ => Err(Wrong),
    }
}

/// A field that may be absent or `null`, and else is an object.
fn object(field: Option<&str>) -> Result<Option<Object>, Wrong> {
    field.filter(|text| *text != "null").map(Object::read).transpose()
}

/// A field that may be absent or `null`, and else is a text.
fn text(field: Option<&str>) -> Result<Option<String>, Wrong> {
    field.map_or(Ok(None), |text| serde_json::from_str(text).map_err(|_| Wrong))
}

/// The row of an application that is exactly what the schema asks for.
fn row(application: &str) -> Result<Vec<f64>, Wrong> {
    let fields = Object::read(application)?;
    if application.len() > 64 * 1024 || fields.0.len() != NAMES.len() {
        return Err(Wrong);
    }
    let number = |name| match serde_json::from_str(fields.field(name)?.ok_or(Wrong)?) {
        Ok(Value::Number(number)) => number.as_f64().ok_or(Wrong),
        _ => Err(Wrong),
    };
    let row = NAMES.into_iter().map(number).collect::<Result<Vec<f64>, Wrong>>()?;
    let flags = row[2..].iter().all(|flag| *flag == 0.0 || *flag == 1.0);
    let whole = row[0].fract() == 0.0 && (0.0..=20.0).contains(&row[0]);
    if flags && whole && (0.0..=1e8).contains(&row[1]) { Ok(row) } else { Err(Wrong) }
}
