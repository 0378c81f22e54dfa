//! From raw scores to probabilities, each by the arithmetic of the library that defines it, operation for operation.
//!
//! The exponential is that of the C library, which the libraries call too. glibc computes it with fused multiply-add where
//! the processor has it and without where not, and the two differ in the last bit of some values: Python and this program
//! agree when they run on the same kind of processor.

/// `1 / (1 + exp(-x))` in double precision.
pub(super) fn sigmoid(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}

/// `1 / (1 + exp(-x))` in single precision, as XGBoost computes it.
pub(super) fn sigmoid_single(score: f32) -> f32 {
    // The bound is XGBoost's, which keeps the exponential finite.
    1.0 / ((-score).min(88.7).exp() + 1.0)
}

/// Softmax in double precision; `sum` says in which order the exponentials are added.
pub(super) fn softmax(scores: &[f64], out: &mut [f64], sum: fn(&[f64]) -> f64) {
    let greatest = greatest(scores);
    for (out, score) in out.iter_mut().zip(scores) {
        *out = (score - greatest).exp();
    }
    let sum = sum(out);
    out.iter_mut().for_each(|value| *value /= sum);
}

/// Softmax as XGBoost computes it: single precision, but for the sum.
pub(super) fn softmax_single(scores: &[f64], out: &mut [f64]) {
    let greatest = greatest(scores) as f32;
    let mut sum = 0.0_f64;
    for (out, score) in out.iter_mut().zip(scores) {
        let value = (*score as f32 - greatest).exp();
        sum += f64::from(value);
        *out = f64::from(value);
    }
    let sum = sum as f32;
    out.iter_mut().for_each(|value| *value = f64::from(*value as f32 / sum));
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The sum from first to last.
pub(super) fn sum_in_order(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |sum, value| sum + value)
}

/// The sum as numpy adds contiguous numbers: from 8 on in eight lanes, and above 128 by halves.
pub(super) fn sum_pairwise(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return sum_in_order(values);
    }
    if values.len() <= 128 {
        let (blocks, rest) = values.as_chunks::<8>();
        let mut lanes = blocks[0];
        for block in &blocks[1..] {
            lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane += value);
        }
        let sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
        return rest.iter().fold(sum, |sum, value| sum + value);
    }
    let half = values.len() / 2 / 8 * 8;
    sum_pairwise(&values[..half]) + sum_pairwise(&values[half..])
}

/// Linear interpolation between ascending places, as numpy's `interp`, with the value held within them.
pub(super) fn interpolate(value: f64, places: &[f64], heights: &[f64]) -> f64 {
    let last = places.len() - 1;
    let value = value.clamp(places[0], places[last]);
    // The last place that is not greater; NaN falls through to the comparison below.
    let at = places.partition_point(|place| *place <= value).saturating_sub(1);
    if at == last || places[at] == value {
        return heights[at];
    }
    let slope = (heights[at + 1] - heights[at]) / (places[at + 1] - places[at]);
    slope * (value - places[at]) + heights[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_by_halves_is_another_than_the_one_in_order() {
        let values: Vec<f64> = (1..=300).map(|number| 1.0 / f64::from(number)).collect();
        assert_eq!(sum_pairwise(&values[..7]), sum_in_order(&values[..7]));
        assert_ne!(sum_pairwise(&values).to_bits(), sum_in_order(&values).to_bits());
        assert!((sum_pairwise(&values) - sum_in_order(&values)).abs() < 1e-12);
    }

    #[test]
    fn interpolation_is_held_within_its_places() {
        let (places, heights) = ([1.0, 2.0, 4.0], [0.0, 0.5, 1.0]);
        let found = [0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 9.0].map(|value| interpolate(value, &places, &heights));
        assert_eq!(found, [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(interpolate(7.0, &[3.0], &[0.25]), 0.25);
    }
}
