//! Gauss-Legendre quadrature on [0, 1].

/// Places and weights of the rule with so many points, which integrates polynomials of a degree below twice that number exactly. Of
/// a place `t` both `t` and `1 - t` are given, each to full precision.
pub(super) fn points(count: usize) -> Vec<Point> {
    let mut points = vec![Point::default(); count];
    // The places lie in pairs around the middle: roots of the Legendre polynomial of this degree, found by Newton's method from
    // the usual first guess.
    for place in 0..count.div_ceil(2) {
        let mut x = (std::f64::consts::PI * (place as f64 + 0.75) / (count as f64 + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (value, derivative) = legendre(count, x);
            let step = value / derivative;
            x -= step;
            slope = derivative;
            if step.abs() <= f64::EPSILON {
                break;
            }
        }
        let weight = 1.0 / ((1.0 - x) * (1.0 + x) * slope * slope);
        let (near, far) = (f64::midpoint(1.0, -x), f64::midpoint(1.0, x));
        points[place] = Point { at: near, rest: far, weight };
        points[count - 1 - place] = Point { at: far, rest: near, weight };
    }
    points
}

/// One point of a rule.
#[derive(Clone, Copy, Default)]
pub(super) struct Point {
    /// Where, `t`.
    pub at: f64,
    /// `1 - t`.
    pub rest: f64,
    pub weight: f64,
}

/// The Legendre polynomial of a degree of at least 1 and its derivative, by Bonnet's recursion.
fn legendre(degree: usize, x: f64) -> (f64, f64) {
    let (mut before, mut value) = (1.0, x);
    for index in 2..=degree {
        let index = index as f64;
        (before, value) = (value, ((2.0 * index - 1.0) * x * value - (index - 1.0) * before) / index);
    }
    (value, degree as f64 * (x * value - before) / ((x - 1.0) * (x + 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_exact_below_twice_its_points() {
        for count in 1..=40_usize {
            let points = points(count);
            for power in 0..2 * count as i32 {
                let found: f64 = points.iter().map(|point| point.weight * point.at.powi(power)).sum();
                let exact = 1.0 / f64::from(power + 1);
                assert!((found - exact).abs() < 4e-15, "{count} points, power {power}: {found} for {exact}");
            }
            assert!(points.iter().all(|point| (point.at + point.rest - 1.0).abs() < 1e-15));
        }
        // One power more is one too many.
        let found: f64 = points(2).iter().map(|point| point.weight * point.at.powi(4)).sum();
        assert!((found - 0.2).abs() > 1e-3);
    }
}
