//! Cuts: a split's question asked of a value as it stands in the row.
//!
//! Trees compare values that were made comparable, for instance rounded to single precision. Rounding never changes the order of two
//! values, so that all values whose rounded one is not above a threshold end at some double, the cut: `round(x) <= threshold` exactly if
//! `x <= cut`. Between the cuts of a feature every value takes the same way everywhere, and its place among them says all.

use super::nodes::Conversion;

/// The cuts of one feature.
pub(super) struct Cuts {
    /// Ascending and different.
    sorted: Vec<f64>,
}

impl Cuts {
    /// The cuts of these thresholds.
    pub fn new(mut thresholds: Vec<f64>, conversion: Conversion) -> Cuts {
        thresholds.sort_unstable_by(f64::total_cmp);
        thresholds.dedup_by(|one, other| one == other);
        let mut sorted: Vec<f64> = thresholds.into_iter().map(|threshold| cut(threshold, conversion)).collect();
        sorted.dedup_by(|one, other| one == other);
        Cuts { sorted }
    }

    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The cut before which a place ends; none behind the last one.
    pub fn get(&self, place: usize) -> Option<f64> {
        self.sorted.get(place).copied()
    }

    /// How many cuts are below a value that is not missing: without a branch, since no value is likelier than another.
    pub fn place(&self, value: f64) -> usize {
        if self.sorted.len() <= 4 {
            return self.sorted.iter().map(|cut| usize::from(*cut < value)).sum();
        }
        let (mut base, mut size) = (0, self.sorted.len());
        while size > 1 {
            let half = size / 2;
            base += usize::from(self.sorted[base + half - 1] < value) * half;
            size -= half;
        }
        base + usize::from(self.sorted[base] < value)
    }
}

/// The greatest double that is not above the threshold once it was made comparable.
fn cut(threshold: f64, conversion: Conversion) -> f64 {
    if conversion == Conversion::Double {
        return threshold;
    }
    // Halves the doubles that it may be, numbered in ascending order. The least of all is never above.
    let (mut least, mut most) = (number(f64::NEG_INFINITY), number(f64::INFINITY));
    while least < most {
        let middle = least + (most - least).div_ceil(2);
        if conversion.apply(double(middle)) <= threshold {
            least = middle;
        } else {
            most = middle - 1;
        }
    }
    double(least)
}

/// The number of a double in ascending order.
fn number(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

fn double(number: u64) -> f64 {
    f64::from_bits(if number >> 63 == 1 { number & !(1 << 63) } else { !number })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: [f64; 14] = [
        0.0,
        -0.0,
        0.1,
        0.5,
        -1e-50,
        1e-50,
        -1e-35_f32 as f64,
        1e-35_f32 as f64,
        16_777_217.0,
        f32::MAX as f64,
        3.5e38,
        -3.5e38,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];

    #[test]
    fn a_cut_asks_what_the_threshold_asks() {
        for conversion in [Conversion::Double, Conversion::Single, Conversion::TinyIsZero] {
            for threshold in THRESHOLDS {
                let cut = cut(threshold, conversion);
                for value in THRESHOLDS.into_iter().chain([cut, 1e-40, f64::MAX, f64::MIN, 5e-324]) {
                    for value in [value, value.next_up(), value.next_down()] {
                        assert_eq!(
                            conversion.apply(value) <= threshold,
                            value <= cut,
                            "{value:e} against {threshold:e}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_place_counts_the_cuts_below() {
        for count in 0..40 {
            let cuts = Cuts::new((0..count).map(|index| f64::from(index % 30)).collect(), Conversion::Double);
            for value in [-1.0, -0.0, 0.0, 0.5, 3.0, 3.5, 7.0, 28.0, 29.0, 29.5, f64::INFINITY, f64::NEG_INFINITY] {
                let expected = cuts.sorted.iter().filter(|cut| **cut < value).count();
                assert_eq!(cuts.place(value), expected, "{value} among {count}");
            }
        }
    }
}
