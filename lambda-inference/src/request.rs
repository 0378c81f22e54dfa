//! Requests and answers of the function: the bare event, and requests through a function URL or an HTTP API.
//!
//! Whatever is wrong with a request is a 4xx answer that names the field; nothing invalid ever reaches the model.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;

use base64::Engine as _;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

use crate::model::{Feature, FeatureKind, Model, Prediction, Reason, Refusal, RowError};

/// Greatest size of an application, in bytes.
const GREATEST_BODY: usize = 64 * 1024;
/// Bytes that an answer's body mostly takes at most.
const BODY: usize = 1024;

/// Why a request is not answered with a prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// HTTP status, 400 to 499.
    pub status: u16,
    /// For people.
    pub error: String,
    /// The field that is wrong, if it is one.
    pub field: Option<String>,
}

fn rejected(status: u16, error: impl Into<String>) -> Rejection {
    Rejection { status, error: error.into(), field: None }
}

fn field_error(name: &str, error: impl Into<String>) -> Rejection {
    Rejection { status: 400, error: error.into(), field: Some(name.to_string()) }
}

/// What a function URL and an HTTP API take for a response; a bare event gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// JSON text, or nothing.
    pub body: String,
    /// What the body is, and what may be asked instead.
    pub headers: Headers,
    /// HTTP status.
    pub status_code: u16,
}

/// The headers of an [`Answer`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Headers {
    /// The methods that are answered, where another one was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<&'static str>,
    /// None where there is no body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<&'static str>,
}

/// Answers one event of the function.
pub fn answer(model: &Model, event: &str) -> Answer {
    match application_of(event) {
        Ok(Application::Preflight) => Answer { body: String::new(), headers: Headers::default(), status_code: 204 },
        Ok(Application::Itself(fields)) => {
            decided(model, check_size(event).and_then(|()| row_of(model.features(), &fields)))
        }
        Ok(Application::Text(text)) => decided(model, row(model.features(), &text)),
        Err(rejection) => rejection_response(&rejection),
    }
}

/// The answer to an application that is this row.
fn decided(model: &Model, row: Result<Vec<f64>, Rejection>) -> Answer {
    let predicted = row.and_then(|row| {
        let prediction = model.predict(&row).map_err(|error| refused(model, &row, &error))?;
        Ok(decision(model, prediction, &row))
    });
    match predicted {
        Ok(body) => response(200, body),
        Err(rejection) => rejection_response(&rejection),
    }
}

/// A row that the model has no answer to.
fn refused(model: &Model, row: &[f64], error: &RowError) -> Rejection {
    // Where something computed from several values came out as none, it is the missing one that leaves no answer.
    let missing = || row.iter().position(|value| value.is_nan());
    let Some(feature) = error.feature(model).or_else(missing) else {
        return rejected(400, "the model has no answer to this application: its values are too large");
    };
    let name = &model.features()[feature].name;
    let reason = match error.refusal {
        _ if row[feature].is_nan() => "is missing",
        Refusal::Missing => "is taken for missing by the model",
        Refusal::TooLarge | Refusal::Undefined => "is too large",
        Refusal::Unknown => "is none of the values that the model knows",
    };
    field_error(name, format!("{name} {reason}"))
}

fn response(status_code: u16, body: String) -> Answer {
    Answer { body, headers: Headers { allow: None, content_type: Some("application/json") }, status_code }
}

fn rejection_response(rejection: &Rejection) -> Answer {
    let mut body = json!({"error": rejection.error});
    if let Some(field) = &rejection.field {
        body["field"] = json!(field);
    }
    let mut answer = response(rejection.status, body.to_string());
    answer.headers.allow = (rejection.status == 405).then_some("POST, OPTIONS");
    answer
}

/// The body of an answer that is a prediction.
#[derive(Serialize)]
struct Decision<'a> {
    prediction: i64,
    decision: &'static str,
    probability: f64,
    model: &'a str,
    /// None for an approval, or for a model whose file has no explanations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<ReasonInWords<'a>>,
}

#[derive(Serialize)]
struct ReasonInWords<'a> {
    feature: &'a str,
    text: &'a str,
    contribution: f64,
    counterfactual: Option<Counterfactual<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Counterfactual<'a> {
    Number(f64),
    Whole(i64),
    Text(&'a str),
}

fn decision(model: &Model, prediction: Prediction, row: &[f64]) -> String {
    let approved = prediction.class == model.positive_class();
    let decision = Decision {
        prediction: prediction.class,
        decision: if approved { "approved" } else { "denied" },
        probability: prediction.probability,
        model: model.digest(),
        reasons: if approved { Vec::new() } else { reasons(model, row) },
    };
    let mut body = Vec::with_capacity(BODY);
    // Memory takes everything, the names of all members are texts, and what is written is text.
    let _ = decision.serialize(&mut serde_json::Serializer::with_formatter(&mut body, Spaced));
    String::from_utf8(body).unwrap_or_default()
}

fn reasons<'a>(model: &'a Model, row: &[f64]) -> Vec<ReasonInWords<'a>> {
    let reasons = model.explainer().ok().and_then(|mut explainer| explainer.reasons(row).ok()).unwrap_or_default();
    reasons.iter().map(|reason| in_words(&model.features()[reason.feature], reason)).collect()
}

fn in_words<'a>(feature: &'a Feature, reason: &Reason) -> ReasonInWords<'a> {
    let counterfactual = reason.counterfactual.map(|value| match feature.kind {
        FeatureKind::Number => Counterfactual::Number(value),
        FeatureKind::Integer | FeatureKind::Flag => Counterfactual::Whole(value as i64),
        FeatureKind::Text => Counterfactual::Text(&feature.texts[value as usize]),
    });
    ReasonInWords { feature: &feature.name, text: &feature.reason, contribution: reason.contribution, counterfactual }
}

/// JSON with the spaces that Python's `json.dumps` writes.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The names and JSON texts of an object's fields.
type Fields<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// What an event asks.
enum Application<'a> {
    /// An application, which is the event itself.
    Itself(Fields<'a>),
    /// An application, as JSON text.
    Text(Cow<'a, str>),
    /// A browser asking whether it may ask.
    Preflight,
}

/// The parts of an HTTP event that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpEvent {
    request_context: Option<Object<RequestContext>>,
    http_method: Option<String>,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Deserialize)]
struct RequestContext {
    http: Option<Object<HttpContext>>,
}

#[derive(Deserialize)]
struct HttpContext {
    method: String,
}

/// A JSON object and nothing else: by itself a struct is read from an array, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// Tells the two kinds of events apart: only a request through HTTP has a `requestContext`.
fn application_of(event: &str) -> Result<Application<'_>, Rejection> {
    // What is no object is refused in the same words as an application that is none, which it may well be meant to be.
    let Ok(fields) = fields(event) else { return Ok(Application::Text(event.into())) };
    if !fields.iter().any(|(name, _)| name == "requestContext") {
        return Ok(Application::Itself(fields));
    }
    let Ok(event) = serde_json::from_str::<HttpEvent>(event) else {
        return Err(rejected(400, "the request's envelope is malformed"));
    };
    let http = event.request_context.and_then(|Object(context)| context.http);
    let method = http.map(|Object(http)| http.method).or(event.http_method);
    match method.as_deref() {
        Some("POST") => {}
        Some("OPTIONS") => return Ok(Application::Preflight),
        Some(_) => return Err(rejected(405, "send the application as a POST request")),
        None => return Err(rejected(400, "the request's envelope names no method")),
    }
    let Some(body) = event.body.filter(|body| !body.is_empty()) else {
        return Err(rejected(400, "the request has no body: send the application as JSON"));
    };
    if !event.is_base64_encoded {
        return Ok(Application::Text(body.into()));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(body.as_bytes());
    match decoded.map(String::from_utf8) {
        Ok(Ok(text)) => Ok(Application::Text(text.into())),
        Ok(Err(_)) => Err(rejected(400, "the body is not UTF-8")),
        Err(_) => Err(rejected(400, "the body is not base64, although the request says so")),
    }
}

/// Why a text is no JSON object.
#[derive(Debug)]
pub struct NoObject {
    /// The field whose value is no JSON, such as `NaN`; none if the text is broken elsewhere.
    pub field: Option<String>,
    error: serde_json::Error,
}

impl fmt::Display for NoObject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

/// A field's name, which is a copy only where it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads an object and leaves the name of the field at which it broke.
struct Pairs<'a> {
    at: &'a Cell<Option<String>>,
}

impl<'de> Visitor<'de> for Pairs<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            match map.next_value() {
                Ok(value) => pairs.push((name, value)),
                Err(error) => {
                    self.at.set(Some(name.into_owned()));
                    return Err(error);
                }
            }
        }
        Ok(pairs)
    }
}

/// Name and JSON text of every field of a JSON object, in order, doubled names included.
///
/// # Errors
/// The text is not a JSON object.
pub fn fields(text: &str) -> Result<Fields<'_>, NoObject> {
    let at = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = deserializer.deserialize_map(Pairs { at: &at });
    fields.and_then(|fields| deserializer.end().map(|()| fields)).map_err(|error| {
        // A text that just ends is broken as a whole.
        let field = if error.is_eof() { None } else { at.take() };
        NoObject { field, error }
    })
}

/// Turns an application into a row of feature values, in the model's order. A field that is absent or `null` is a missing value,
/// NaN, where the feature is not required: whether there is an answer without it is up to the model.
///
/// # Errors
/// Not a JSON object, a field that is missing and required, doubled or unknown, or a value that is no number of the feature's type and
/// range.
pub fn row(features: &[Feature], application: &str) -> Result<Vec<f64>, Rejection> {
    check_size(application)?;
    let fields = fields(application).map_err(|error| Rejection {
        status: 400,
        error: match &error.field {
            Some(name) => format!("{name} must be a number; the application is not JSON: {error}"),
            None => format!("the application is not a JSON object of numbers: {error}"),
        },
        field: error.field,
    })?;
    row_of(features, &fields)
}

fn check_size(application: &str) -> Result<(), Rejection> {
    match application.len() {
        0..=GREATEST_BODY => Ok(()),
        _ => Err(rejected(413, format!("the application is larger than {GREATEST_BODY} bytes"))),
    }
}

/// The row of an application with these fields.
fn row_of(features: &[Feature], fields: &Fields<'_>) -> Result<Vec<f64>, Rejection> {
    let mut row = vec![None; features.len()];
    for (name, value) in fields {
        let Some(index) = features.iter().position(|feature| feature.name == *name) else {
            return Err(field_error(name, format!("there is no field {name}")));
        };
        if row[index].is_some() {
            return Err(field_error(name, format!("{name} is given twice")));
        }
        row[index] = Some(match value.get() {
            "null" => f64::NAN,
            value => number(&features[index], value)?,
        });
    }
    let with_features = row.into_iter().map(|value| value.unwrap_or(f64::NAN)).zip(features);
    with_features
        .map(|(value, feature)| match feature.required && value.is_nan() {
            true => Err(field_error(&feature.name, format!("{} is missing", feature.name))),
            false => Ok(value),
        })
        .collect()
}

/// A JSON value as what the feature's type and range make of it in a row.
fn number(feature: &Feature, text: &str) -> Result<f64, Rejection> {
    let name = &feature.name;
    if feature.kind == FeatureKind::Text {
        let text: String =
            serde_json::from_str(text).map_err(|_| field_error(name, format!("{name} must be a text")))?;
        return Ok(feature.code(&text));
    }
    if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return Err(field_error(name, format!("{name} must be a number")));
    }
    let value: f64 = text.parse().map_err(|_| field_error(name, format!("{name} must be a number")))?;
    if value.is_infinite() {
        return Err(field_error(name, format!("{name} is too large")));
    }
    match feature.kind {
        FeatureKind::Number | FeatureKind::Text => {}
        FeatureKind::Integer if value.fract() == 0.0 => {}
        FeatureKind::Integer => return Err(field_error(name, format!("{name} must be a whole number"))),
        FeatureKind::Flag if value == 0.0 || value == 1.0 => {}
        FeatureKind::Flag => return Err(field_error(name, format!("{name} must be 0 or 1"))),
    }
    let (minimum, maximum) = (feature.minimum, feature.maximum);
    if value < minimum || value > maximum {
        return Err(field_error(name, format!("{name} must lie between {minimum} and {maximum}")));
    }
    Ok(value)
}
