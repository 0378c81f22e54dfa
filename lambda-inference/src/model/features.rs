//! The features of a model: names, types and ranges, for validating requests.

use std::collections::HashSet;

use super::frame::{Sections, f64_at, u32_at, u64_at};
use super::{ModelError, refused};

const FEATURE: usize = 40;
const TEXT: usize = 8;
const MOST_FEATURES: usize = 1 << 16;

/// What a feature's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureKind {
    /// Any number in the range.
    Number,
    /// A whole number in the range.
    Integer,
    /// 0 or 1.
    Flag,
    /// A text; in a row it is the index in [`Feature::texts`], or -1 if it is none of them.
    Text,
}

/// A feature, for validating requests. Scoring never looks at the range.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// As in the training data.
    pub name: String,
    /// What its values are.
    pub kind: FeatureKind,
    /// Smallest value allowed, inclusive.
    pub minimum: f64,
    /// Greatest value allowed, inclusive.
    pub maximum: f64,
    /// The texts that the model tells apart, if it is a text.
    pub texts: Vec<String>,
    /// Whether a request must have a value for it. Where not, it is up to the model whether there is an answer without one.
    pub required: bool,
    /// What a denial says where this feature decided; its name where the file has no text.
    pub reason: String,
}

impl Feature {
    /// What a text is in a row.
    pub fn code(&self, text: &str) -> f64 {
        self.texts.iter().position(|known| known == text).map_or(-1.0, |index| index as f64)
    }
}

/// Reads and checks the features of a file.
pub(super) fn read(bytes: &[u8], sections: &Sections) -> Result<Vec<Feature>, ModelError> {
    let records = &bytes[sections.features.clone()];
    let count = records.len() / FEATURE;
    if !(1..=MOST_FEATURES).contains(&count) {
        return refused(format!("a model has 1 to {MOST_FEATURES} features, not {count}"));
    }
    let Ok(strings) = std::str::from_utf8(&bytes[sections.strings.clone()]) else {
        return refused("the strings are not UTF-8");
    };
    let string = |record: &[u8]| {
        let start = u32_at(record, 0) as usize;
        start.checked_add(u32_at(record, 4) as usize).and_then(|end| strings.get(start..end))
    };
    let mut features = Vec::with_capacity(count);
    let mut names = HashSet::new();
    let mut texts = bytes[sections.texts.clone()].chunks_exact(TEXT);
    let reasons = &bytes[sections.reasons.clone()];
    if !reasons.is_empty() && reasons.len() / TEXT != count {
        return refused("the reasons are not one a feature");
    }
    let mut reasons = reasons.chunks_exact(TEXT);
    for record in records.chunks_exact(FEATURE) {
        let Some(name) = string(record).filter(|name| !name.is_empty()) else {
            return refused("a feature's name lies outside the strings or is empty");
        };
        if !names.insert(name) {
            return refused(format!("two features are named {name}"));
        }
        let kind = match u32_at(record, 8) {
            0 => FeatureKind::Number,
            1 => FeatureKind::Integer,
            2 => FeatureKind::Flag,
            3 => FeatureKind::Text,
            other => return refused(format!("feature {name} has the unknown type {other}")),
        };
        let (minimum, maximum) = (f64_at(record, 24), f64_at(record, 32));
        let required = match u64_at(record, 16) {
            0 => false,
            1 => true,
            _ => return refused(format!("feature {name} is neither required nor not")),
        };
        if minimum.is_nan() || maximum.is_nan() || minimum > maximum {
            return refused(format!("feature {name} has no range"));
        }
        let count = u32_at(record, 12) as usize;
        if (kind == FeatureKind::Text) == (count == 0) || count > texts.len() {
            return refused(format!("feature {name} has texts that do not fit its type"));
        }
        let known: Option<Vec<&str>> = texts.by_ref().take(count).map(string).collect();
        let Some(known) = known.filter(|known| known.iter().collect::<HashSet<_>>().len() == known.len()) else {
            return refused(format!("the texts of feature {name} lie outside the strings or are not different"));
        };
        let Some(reason) = reasons.next().map_or(Some(""), string) else {
            return refused(format!("the reason of feature {name} lies outside the strings"));
        };
        let reason = if reason.is_empty() { name } else { reason }.to_string();
        let texts = known.into_iter().map(str::to_string).collect();
        features.push(Feature { name: name.to_string(), kind, minimum, maximum, texts, required, reason });
    }
    if texts.len() > 0 {
        return refused("there are texts of no feature");
    }
    Ok(features)
}
