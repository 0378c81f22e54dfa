//! Texts of values as they stand in a row.

use crate::model::{Feature, FeatureKind};

/// How much of a bad value is shown, in characters.
const SHOWN: usize = 60;
/// Digits that make no number beyond those that a float holds exactly.
const EXACT_DIGITS: usize = 15;

/// A field's text as it stands in a row; NaN if it is empty.
pub(super) fn value_of(feature: &Feature, text: &[u8]) -> Result<f64, String> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(f64::NAN);
    }
    if feature.kind == FeatureKind::Text {
        return Ok(feature.code(&String::from_utf8_lossy(text)));
    }
    match whole_number(text) {
        Some(value) => Ok(value),
        None => number(&feature.name, &String::from_utf8_lossy(text)),
    }
}

/// The value of a few digits, which most fields are, without the work that a fraction makes.
fn whole_number(text: &[u8]) -> Option<f64> {
    if text.len() > EXACT_DIGITS {
        return None;
    }
    text.iter()
        .try_fold(0_u64, |value, byte| byte.is_ascii_digit().then(|| 10 * value + u64::from(byte - b'0')))
        .map(|value| value as f64)
}

/// A value's number. The word `nan` is none; infinities are up to the model, what overflows to one is not.
pub(super) fn number(name: &str, text: &str) -> Result<f64, String> {
    let shown = || text.chars().take(SHOWN).collect::<String>();
    let digits = text.bytes().any(|byte| byte.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(value) if digits != value.is_infinite() && !value.is_nan() => Ok(value),
        Ok(_) if digits => Err(format!("{name} is too large: {}", shown())),
        _ => Err(format!("{name} is {:?}, not a number", shown())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_alone_give_what_the_general_way_gives() {
        for text in ["0", "7", "00", "042", "999999999999999", "123456789012345"] {
            assert_eq!(whole_number(text.as_bytes()), Some(number("x", text).unwrap()), "{text}");
        }
        for text in ["1234567890123456", "1.0", "-1", "+1", "1e3", "x", "\u{661}"] {
            assert_eq!(whole_number(text.as_bytes()), None, "{text}");
        }
    }
}
