//! NDJSON: a JSON object a line, with the features as its fields.

use std::fmt;
use std::io::Read;

use memchr::memchr_iter;
use serde::de::{DeserializeSeed, Deserializer as _, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::chunks::{Chunks, last_line_end};
use super::rows::Rows;
use super::values::number;
use super::{Chunk, Decoder, Input};
use crate::model::{Feature, FeatureKind, Model};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Rows of NDJSON.
pub fn ndjson<'a>(model: &'a Model, input: impl Read + Send + 'a) -> Input<'a> {
    Input {
        source: Box::new(Chunks::new(input, last_line_end)),
        decoder: Box::new(Objects { model }),
        place: "line",
        ignored: 0,
        rows: None,
    }
}

struct Objects<'a> {
    model: &'a Model,
}

impl Decoder for Objects<'_> {
    fn decode(&self, chunk: &Chunk, rows: &mut Rows<'_>) {
        let features = self.model.features();
        let mut row = vec![0.0; features.len()];
        let mut start = 0;
        let ends = memchr_iter(b'\n', &chunk.bytes).chain([chunk.bytes.len()]);
        for (line, end) in (chunk.first..).zip(ends) {
            let text = chunk.bytes.get(start..end).unwrap_or_default();
            start = end + 1;
            // As in a CSV, a byte order mark at the start says nothing.
            let text = if line == 1 { text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text) } else { text };
            if !text.trim_ascii().is_empty() {
                let filled = fill(features, text, &mut row);
                rows.take(line, filled.map(|()| row.as_slice()));
            }
        }
    }
}

/// Makes a row of an object.
fn fill(features: &[Feature], text: &[u8], row: &mut [f64]) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|error| format!("no UTF-8: {error}"))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = deserializer.deserialize_map(Fields { features });
    let fields = fields
        .and_then(|fields| deserializer.end().map(|()| fields))
        .map_err(|error| format!("no JSON object: {error}"))?;
    for ((value, field), feature) in row.iter_mut().zip(fields).zip(features) {
        *value = match field {
            Field::Absent => return Err(format!("{} is missing", feature.name)),
            Field::Twice => return Err(format!("{} is given twice", feature.name)),
            Field::Once(text) => value_of(feature, text)?,
        };
    }
    Ok(())
}

/// A JSON value as it stands in a row.
fn value_of(feature: &Feature, text: &str) -> Result<f64, String> {
    let name = &feature.name;
    if text == "null" {
        Ok(f64::NAN)
    } else if feature.kind == FeatureKind::Text {
        let text: String = serde_json::from_str(text).map_err(|_| format!("{name} is no text"))?;
        Ok(feature.code(&text))
    } else {
        number(name, text)
    }
}

/// What an object has for a feature.
#[derive(Clone, Copy)]
enum Field<'de> {
    Absent,
    /// The value's JSON text.
    Once(&'de str),
    Twice,
}

/// Reads an object's fields in the order of the features, and skips others.
struct Fields<'a> {
    features: &'a [Feature],
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<Field<'de>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = vec![Field::Absent; self.features.len()];
        // Objects mostly have their fields in the order of the features.
        let mut expected = 0;
        while let Some(place) = map.next_key_seed(Name { features: self.features, expected })? {
            let Some(place) = place else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            expected = place + 1;
            let text = map.next_value::<&RawValue>()?.get();
            fields[place] = match fields[place] {
                Field::Absent => Field::Once(text),
                Field::Once(_) | Field::Twice => Field::Twice,
            };
        }
        Ok(fields)
    }
}

/// Reads a field's name as the place of its feature; none if there is no such feature.
struct Name<'a> {
    features: &'a [Feature],
    /// The feature that is tried first.
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        if self.features.get(self.expected).is_some_and(|feature| feature.name == name) {
            return Ok(Some(self.expected));
        }
        Ok(self.features.iter().position(|feature| feature.name == name))
    }
}
