//! Rows as ranks: for each feature how many cuts of the trees are below its value.
//!
//! Whether a value is above a threshold is whether its rank is above the threshold's: small integers instead of floating-point numbers,
//! many of which a processor compares at once. A missing value needs no question of its own: where it goes left its rank is the least, where
//! it goes right the greatest, in a column of its own if a feature's splits do not agree.

use super::cuts::Cuts;
use super::nodes::{Conversion, Node};

/// Ways in which splits of a feature treat what is missing: left or right, zero or not.
const VARIANTS: usize = 4;

/// How rows become ranks.
pub(super) struct Ranks {
    features: Vec<Ranked>,
    /// Where a feature stands in `features`.
    places: Vec<Option<usize>>,
    conversion: Conversion,
    columns: usize,
}

/// A feature that splits ask for.
struct Ranked {
    feature: usize,
    cuts: Cuts,
    /// The column of each variant that there is.
    columns: [Option<usize>; VARIANTS],
}

fn variant(node: Node) -> usize {
    usize::from(node.missing_goes_left()) + 2 * usize::from(node.zero_is_missing())
}

impl Ranks {
    /// For these nodes over so many features; none where splits ask for categories.
    pub fn new(nodes: &[Node], features: usize, conversion: Conversion) -> Option<Ranks> {
        let mut thresholds: Vec<(Vec<f64>, [bool; VARIANTS])> = vec![Default::default(); features];
        for node in nodes.iter().filter(|node| !node.is_leaf()) {
            if node.has_categories() {
                return None;
            }
            let (thresholds, variants) = &mut thresholds[usize::from(node.feature)];
            thresholds.push(node.threshold);
            variants[variant(*node)] = true;
        }
        let mut ranks = Ranks { features: Vec::new(), places: vec![None; features], conversion, columns: 0 };
        for (feature, (thresholds, variants)) in thresholds.into_iter().enumerate() {
            if thresholds.is_empty() {
                continue;
            }
            let columns = variants.map(|there| {
                ranks.columns += usize::from(there);
                there.then(|| ranks.columns - 1)
            });
            ranks.places[feature] = Some(ranks.features.len());
            ranks.features.push(Ranked { feature, cuts: Cuts::new(thresholds, conversion)?, columns });
        }
        Some(ranks)
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The greatest rank of all.
    pub fn greatest(&self) -> usize {
        self.features.iter().map(|ranked| ranked.cuts.len()).max().unwrap_or(0)
    }

    /// Column and rank of a split's threshold.
    pub fn of(&self, node: Node) -> Option<(usize, usize)> {
        let ranked = &self.features[self.places[usize::from(node.feature)]?];
        Some((ranked.columns[variant(node)]?, ranked.cuts.number(node.threshold)))
    }

    /// Gives row, column and rank for all of `count` rows, ranking so many together; `value` is that of a row's feature.
    pub fn rank<const TOGETHER: usize>(
        &self,
        count: usize,
        value: impl Fn(usize, usize) -> f64,
        mut give: impl FnMut(usize, usize, usize),
    ) {
        for begin in (0..count).step_by(TOGETHER) {
            let rows = TOGETHER.min(count - begin);
            for ranked in &self.features {
                let mut values = [0.0; TOGETHER];
                for (row, slot) in values[..rows].iter_mut().enumerate() {
                    *slot = value(begin + row, ranked.feature);
                }
                let places = ranked.cuts.places(&values);
                for (variant, column) in ranked.columns.iter().enumerate() {
                    let Some(column) = *column else { continue };
                    let missing = if variant & 1 == 1 { 0 } else { ranked.cuts.len() };
                    for (row, (place, value)) in places.iter().zip(values).take(rows).enumerate() {
                        let zero = variant & 2 == 2 && self.conversion.apply(value) == 0.0;
                        give(begin + row, column, if value.is_nan() || zero { missing } else { usize::from(*place) });
                    }
                }
            }
        }
    }
}
