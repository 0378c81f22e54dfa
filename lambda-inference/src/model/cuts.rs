//! Cuts: a split's question asked of a value as it stands in the row.
//!
//! Trees compare values that were made comparable, for instance rounded to single precision. Rounding never changes the order of two
//! values, so that all values whose rounded one is not above a threshold end at some double, the cut: `round(x) <= threshold` exactly if
//! `x <= cut`. Between the cuts of a feature every value takes the same way everywhere, and its place among them says all.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use super::eight;
use super::nodes::Conversion;

/// The cuts of one feature.
pub(super) struct Cuts {
    /// Ascending and different, followed by [`MOST_COMPARED`] infinities, which nothing is above.
    sorted: Vec<f64>,
    /// Of each cut the least threshold that has it.
    thresholds: Vec<f64>,
    /// The first ones, close at hand.
    first: [f64; MOST_COMPARED],
    index: Option<Index>,
}

/// Where to look for a value: its place in a raster over the cuts says which few of them are to be compared. The raster keeps the order of
/// values, rounding included, so that cuts before a value's square are below it and those behind are not.
struct Index {
    low: f64,
    scale: f64,
    last: f64,
    /// Cuts in the squares before each one, and in all of them.
    starts: Vec<u16>,
    /// Most cuts in one square.
    compared: usize,
}

/// Cuts that are compared one by one.
const MOST_COMPARED: usize = 4;
/// The same where eight values are compared at once.
#[cfg(target_arch = "x86_64")]
const MOST_COMPARED_BY_EIGHT: usize = 8;
/// Squares of a raster: beyond, it would not stay in the processor's cache.
const MOST_SQUARES: usize = 1 << 11;

impl Cuts {
    /// The cuts of these thresholds; none if there are too many.
    pub fn new(mut thresholds: Vec<f64>, conversion: Conversion) -> Option<Cuts> {
        thresholds.sort_unstable_by(f64::total_cmp);
        thresholds.dedup_by(|one, other| one == other);
        let mut pairs: Vec<(f64, f64)> =
            thresholds.into_iter().map(|threshold| (cut(threshold, conversion), threshold)).collect();
        pairs.dedup_by(|one, other| one.0 == other.0);
        let (mut sorted, thresholds): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let index =
            if (MOST_COMPARED + 1..MOST_SQUARES * 4).contains(&sorted.len()) { Index::new(&sorted) } else { None };
        sorted.extend([f64::INFINITY; MOST_COMPARED]);
        let first = std::array::from_fn(|place| sorted[place]);
        (thresholds.len() < usize::from(u16::MAX)).then_some(Cuts { sorted, thresholds, first, index })
    }

    pub fn len(&self) -> usize {
        self.thresholds.len()
    }

    /// The cut before which a place ends; none behind the last one.
    pub fn get(&self, place: usize) -> Option<f64> {
        self.sorted[..self.len()].get(place).copied()
    }

    /// The number of the cut of one of the thresholds.
    pub fn number(&self, threshold: f64) -> usize {
        self.thresholds.partition_point(|known| *known <= threshold).saturating_sub(1)
    }

    /// How many cuts are below a value that is not missing.
    #[inline]
    pub fn place(&self, value: f64) -> usize {
        match self.len() {
            0..=MOST_COMPARED => self.first.iter().map(|cut| usize::from(*cut < value)).sum(),
            _ => usize::from(self.places(&[value])[0]),
        }
    }

    /// How many cuts are below each value that is not missing: without a branch on values, since none is likelier than another, and for
    /// several of them at once, since none waits for another.
    #[inline]
    pub fn places<const N: usize>(&self, values: &[f64; N]) -> [u16; N] {
        let mut places = [0; N];
        let mut compared = self.len();
        if let Some(index) = &self.index {
            places = values.map(|value| index.start(value));
            compared = index.compared;
        } else if compared > MOST_COMPARED {
            return values.map(|value| self.search(value));
        }
        let starts = places;
        for number in 0..compared {
            for ((place, start), value) in places.iter_mut().zip(starts).zip(values) {
                *place += u16::from(self.sorted[usize::from(start) + number] < *value);
            }
        }
        places
    }

    /// As [`Cuts::places`], of eight values by AVX-512; whatever for those that are missing.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub fn places_of_eight(&self, values: __m512d) -> __m256i {
        let one = _mm256_set1_epi32(1);
        if self.len() <= MOST_COMPARED_BY_EIGHT {
            return self.sorted[..self.len()].iter().fold(_mm256_setzero_si256(), |places, cut| {
                let above = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(_mm512_set1_pd(*cut), values);
                _mm256_mask_add_epi32(places, above, places, one)
            });
        }
        let Some(index) = &self.index else {
            let mut each = [0.0; 8];
            // SAFETY: eight doubles are written where there is room for them.
            unsafe { _mm512_storeu_pd(each.as_mut_ptr(), values) };
            let [a, b, c, d, e, f, g, h] = each.map(|value| i32::from(self.search(value)));
            return _mm256_setr_epi32(a, b, c, d, e, f, g, h);
        };
        let starts = index.starts_of_eight(values);
        (0..index.compared as i32).fold(starts, |places, number| {
            let at = _mm256_add_epi32(starts, _mm256_set1_epi32(number));
            // SAFETY: a start is at most the number of cuts, behind which lie MOST_COMPARED infinities, and no more are compared.
            let cuts = unsafe { eight::doubles(&self.sorted, at) };
            _mm256_mask_add_epi32(places, _mm512_cmp_pd_mask::<_CMP_LT_OQ>(cuts, values), places, one)
        })
    }

    fn search(&self, value: f64) -> u16 {
        let (mut base, mut size) = (0, self.len());
        while size > 1 {
            let half = size / 2;
            base += usize::from(self.sorted[base + half - 1] < value) * half;
            size -= half;
        }
        (base + usize::from(self.sorted[base] < value)) as u16
    }
}

impl Index {
    /// The coarsest raster with at most two cuts a square, or the finest one; none where that has too many to compare.
    fn new(sorted: &[f64]) -> Option<Index> {
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let mut squares = sorted.len().next_power_of_two();
        loop {
            let last = (squares - 1) as f64;
            let mut index = Index { low, scale: last / (high - low), last, starts: vec![0; squares + 1], compared: 0 };
            if !(low.is_finite() && high.is_finite() && index.scale.is_normal()) {
                return None;
            }
            for cut in sorted {
                let square = index.square(*cut);
                index.starts[square] += 1;
            }
            index.compared = index.starts.iter().copied().max().map_or(0, usize::from);
            let finest = squares * 2 > MOST_SQUARES;
            if index.compared <= 2 || (finest && index.compared <= MOST_COMPARED) {
                let mut before = 0;
                for start in &mut index.starts {
                    (*start, before) = (before, before + *start);
                }
                return Some(index);
            }
            if finest {
                return None;
            }
            squares *= 2;
        }
    }

    #[inline(always)]
    fn square(&self, value: f64) -> usize {
        let place = ((value - self.low) * self.scale).max(0.0).min(self.last);
        // SAFETY: it is no NaN, since `max` prefers a number, and lies between 0 and `last`, which is below MOST_SQUARES.
        unsafe { place.to_int_unchecked::<i32>() as usize }
    }

    /// As [`Index::start`], of eight values by AVX-512, in the same arithmetic.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    fn starts_of_eight(&self, values: __m512d) -> __m256i {
        let places = _mm512_mul_pd(_mm512_sub_pd(values, _mm512_set1_pd(self.low)), _mm512_set1_pd(self.scale));
        // The greater one of NaN and zero is the second, zero.
        let places = _mm512_min_pd(_mm512_max_pd(places, _mm512_setzero_pd()), _mm512_set1_pd(self.last));
        // SAFETY: each place lies between 0 and `last`, and there is one more start than squares.
        unsafe { eight::shorts(&self.starts, _mm512_cvttpd_epi32(places)) }
    }

    #[inline(always)]
    fn start(&self, value: f64) -> u16 {
        self.starts[self.square(value)]
    }
}

/// The greatest double that is not above the threshold once it was made comparable.
fn cut(threshold: f64, conversion: Conversion) -> f64 {
    if conversion == Conversion::Double {
        return threshold;
    }
    greatest(|value| conversion.apply(value) <= threshold)
}

/// The greatest double of which something holds that holds of all below it; negative infinity if it holds of none.
pub(super) fn greatest(holds: impl Fn(f64) -> bool) -> f64 {
    // Halves the doubles that it may be, numbered in ascending order.
    let (mut least, mut most) = (number(f64::NEG_INFINITY), number(f64::INFINITY));
    while least < most {
        let middle = least + (most - least).div_ceil(2);
        if holds(double(middle)) {
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
            let cuts = Cuts::new((0..count).map(|index| f64::from(index % 30)).collect(), Conversion::Double).unwrap();
            for value in [-1.0, -0.0, 0.0, 0.5, 3.0, 3.5, 7.0, 28.0, 29.0, 29.5, f64::INFINITY, f64::NEG_INFINITY] {
                let expected = (0..cuts.len()).filter(|place| cuts.get(*place) < Some(value)).count();
                assert_eq!(cuts.place(value), expected, "{value} among {count}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn by_eight(cuts: &Cuts, [a, b, c, d, e, f, g, h]: [f64; 8]) -> [u32; 8] {
        eight::numbers(cuts.places_of_eight(_mm512_setr_pd(a, b, c, d, e, f, g, h)))
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn eight_places_are_those_of_each() {
        if !eight::is_available() {
            eprintln!("this processor has no AVX-512: nothing was compared");
            return;
        }
        type Spread = fn(i32) -> f64;
        // Compared one by one, found in a raster, and so close together that they are searched for.
        let spreads: [Spread; 3] = [f64::from, |cut| f64::from(cut).sqrt(), |cut| 10_f64.powi(-cut)];
        for spread in spreads {
            for count in [0, 1, 4, 5, 8, 9, 20, 300, 2_000] {
                let cuts = Cuts::new((0..count).map(spread).collect(), Conversion::Double).unwrap();
                let on_cuts = (0..count).step_by(7).flat_map(|cut| {
                    let cut = spread(cut);
                    [cut, cut.next_up(), cut.next_down(), cut + 0.5]
                });
                let others = [-1.0, -0.0, 0.0, 1e9, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY];
                let values: Vec<f64> = others.into_iter().chain(on_cuts).collect();
                for values in values.as_chunks::<8>().0 {
                    // SAFETY: the processor has what the function was compiled for.
                    let found = unsafe { by_eight(&cuts, *values) };
                    assert_eq!(found, values.map(|value| cuts.place(value) as u32), "{values:?} among {count}");
                }
            }
        }
    }
}
