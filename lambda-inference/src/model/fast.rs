//! Quicker ways to the leaves of a step's trees, which give the same bits as the plain walk.
//!
//! The plain walk waits for memory at every split and guesses wrong at every second one. Here several walks go side by side, one for
//! each of eight trees or sixteen rows: a step of each is a load, a comparison and an addition without a branch, repeated as often as the
//! deepest tree asks for, and leaves lead back to themselves.

use super::nodes::{Conversion, Node, Nodes, Tree};

/// Trees that one row walks at a time.
const TREES: usize = 8;
/// Rows that walk one tree at a time.
const ROWS: usize = 16;

/// A node of either width: a comparison and where it leads.
pub(super) trait Split: Copy {
    /// What it compares.
    type Value: Copy + Default;

    /// The node as it stands in the file, `first` being the first one of its step; none if it does not fit.
    fn pack(node: Node, index: usize, first: usize) -> Option<Self>;

    /// The feature that it asks for.
    fn feature(self) -> usize;

    /// The next node for a feature's value: itself for a leaf. Without `MISSING` no value may be missing.
    fn next<const MISSING: bool>(self, value: Self::Value) -> usize;

    fn is_missing(value: Self::Value) -> bool;
}

/// For values in single precision: 8 bytes. In `link` 21 bits are the left child, one says that a missing value goes right, and ten
/// are the feature.
#[derive(Clone, Copy)]
pub(super) struct Narrow {
    threshold: f32,
    link: u32,
}

/// For values in double precision.
#[derive(Clone, Copy)]
pub(super) struct Wide {
    threshold: f64,
    child: u32,
    feature: u16,
    missing_right: bool,
}

impl Split for Narrow {
    type Value = f32;

    fn pack(node: Node, index: usize, first: usize) -> Option<Narrow> {
        if node.is_leaf() {
            let child = u32::try_from(index - first).ok().filter(|child| *child < 1 << 21)?;
            return Some(Narrow { threshold: f32::INFINITY, link: child });
        }
        let child = (node.child as usize - first) as u32;
        let fits = node.is_plain() && node.feature < 1 << 10 && child < 1 << 21;
        let missing = u32::from(!node.missing_goes_left()) << 21;
        let link = child | missing | u32::from(node.feature) << 22;
        fits.then_some(Narrow { threshold: round_down(node.threshold), link })
    }

    fn feature(self) -> usize {
        (self.link >> 22) as usize
    }

    fn next<const MISSING: bool>(self, value: f32) -> usize {
        let mut right = value > self.threshold;
        if MISSING {
            right |= value.is_nan() & (self.link >> 21 & 1 != 0);
        }
        (self.link & ((1 << 21) - 1)) as usize + usize::from(right)
    }

    fn is_missing(value: f32) -> bool {
        value.is_nan()
    }
}

impl Split for Wide {
    type Value = f64;

    fn pack(node: Node, index: usize, first: usize) -> Option<Wide> {
        if node.is_leaf() {
            let child = (index - first) as u32;
            return Some(Wide { threshold: f64::INFINITY, child, feature: 0, missing_right: false });
        }
        let child = node.child - first as u32;
        let missing_right = !node.missing_goes_left();
        node.is_plain().then_some(Wide { threshold: node.threshold, child, feature: node.feature, missing_right })
    }

    fn feature(self) -> usize {
        usize::from(self.feature)
    }

    fn next<const MISSING: bool>(self, value: f64) -> usize {
        let mut right = value > self.threshold;
        if MISSING {
            right |= value.is_nan() & self.missing_right;
        }
        self.child as usize + usize::from(right)
    }

    fn is_missing(value: f64) -> bool {
        value.is_nan()
    }
}

/// The greatest number of single precision that is not above: a number of single precision compares alike with both.
fn round_down(threshold: f64) -> f32 {
    let nearest = threshold as f32;
    if f64::from(nearest) > threshold { nearest.next_down() } else { nearest }
}

/// The trees of one step, packed.
pub(super) struct Walk<S> {
    splits: Vec<S>,
    /// Root, counted from the step's first node, and depth.
    trees: Vec<(usize, u32)>,
    /// The file's index of the step's first node.
    first: usize,
}

impl<S: Split> Walk<S> {
    fn new(trees: &[Tree], nodes: Nodes<'_>, end: usize) -> Option<Walk<S>> {
        let first = trees.first()?.root as usize;
        let packed = nodes.nodes[first..end].iter().enumerate();
        let splits = packed.map(|(index, node)| S::pack(*node, first + index, first)).collect::<Option<Vec<S>>>()?;
        let trees = trees.iter().map(|tree| (tree.root as usize - first, tree.depth)).collect();
        Some(Walk { splits, trees, first })
    }

    /// Gives the leaves that one row reaches, tree after tree.
    pub fn row(&self, row: &[S::Value], leaf: impl FnMut(usize)) {
        if row.iter().any(|value| S::is_missing(*value)) {
            self.walk_trees::<true>(row, leaf);
        } else {
            self.walk_trees::<false>(row, leaf);
        }
    }

    fn walk_trees<const MISSING: bool>(&self, row: &[S::Value], mut leaf: impl FnMut(usize)) {
        let splits = self.splits.as_slice();
        for trees in self.trees.chunks(TREES) {
            let mut at = [0; TREES];
            at.iter_mut().zip(trees).for_each(|(at, tree)| *at = tree.0);
            for _ in 0..trees.iter().map(|tree| tree.1).max().unwrap_or_default() {
                for at in &mut at {
                    let split = splits[*at];
                    *at = split.next::<MISSING>(row[split.feature()]);
                }
            }
            at[..trees.len()].iter().for_each(|at| leaf(self.first + at));
        }
    }

    /// Gives tree, row and leaf for every row of a block, tree after tree. Rows are `width` values long; `lanes` is memory.
    pub fn block(
        &self,
        rows: &[S::Value],
        width: usize,
        lanes: &mut Lanes<S::Value>,
        leaf: impl FnMut(usize, usize, usize),
    ) {
        lanes.fill(rows, width);
        if rows.iter().any(|value| S::is_missing(*value)) {
            self.walk_rows::<true>(lanes, width, rows.len() / width, leaf);
        } else {
            self.walk_rows::<false>(lanes, width, rows.len() / width, leaf);
        }
    }

    fn walk_rows<const MISSING: bool>(
        &self,
        lanes: &Lanes<S::Value>,
        width: usize,
        count: usize,
        mut leaf: impl FnMut(usize, usize, usize),
    ) {
        let splits = self.splits.as_slice();
        for (tree, (root, depth)) in self.trees.iter().enumerate() {
            for (group, values) in lanes.0.chunks_exact(width).enumerate() {
                let mut at = [*root; ROWS];
                for _ in 0..*depth {
                    for (lane, at) in at.iter_mut().enumerate() {
                        let split = splits[*at];
                        *at = split.next::<MISSING>(values[split.feature()][lane]);
                    }
                }
                let rows = group * ROWS..count.min((group + 1) * ROWS);
                rows.zip(at).for_each(|(row, at)| leaf(tree, row, self.first + at));
            }
        }
    }
}

/// The values of a block: sixteen rows after sixteen rows, and in them feature after feature.
#[derive(Default)]
pub(super) struct Lanes<T>(Vec<[T; ROWS]>);

impl<T: Copy + Default> Lanes<T> {
    fn fill(&mut self, rows: &[T], width: usize) {
        self.0.clear();
        for group in rows.chunks(width * ROWS) {
            let begin = self.0.len();
            self.0.resize(begin + width, [T::default(); ROWS]);
            for (lane, row) in group.chunks_exact(width).enumerate() {
                for (values, value) in self.0[begin..].iter_mut().zip(row) {
                    values[lane] = *value;
                }
            }
        }
    }
}

/// The packed trees of a step, in the width of its values.
pub(super) enum Fast {
    Single(Walk<Narrow>),
    Double(Walk<Wide>),
}

impl Fast {
    /// Packs the trees of a step, whose nodes end before `end`; none where the plain walk is as good or the only way: one
    /// shallow tree, splits by categories or by zero, more features or nodes than fit.
    pub fn new(conversion: Conversion, trees: &[Tree], nodes: Nodes<'_>, end: usize) -> Option<Fast> {
        match conversion {
            Conversion::Single => Walk::new(trees, nodes, end).map(Fast::Single),
            Conversion::Double | Conversion::TinyIsZero => Walk::new(trees, nodes, end).map(Fast::Double),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_rounded_towards_minus_infinity() {
        for (threshold, rounded) in [
            (0.1, 0.1_f32.next_down()),
            (0.5, 0.5),
            (-1e-50, -f32::from_bits(1)),
            (1e-50, 0.0),
            (3.5e38, f32::MAX),
            (-3.5e38, f32::NEG_INFINITY),
            (f64::INFINITY, f32::INFINITY),
            (f64::NEG_INFINITY, f32::NEG_INFINITY),
        ] {
            assert_eq!(round_down(threshold), rounded, "{threshold}");
            for value in [rounded, rounded.next_up(), rounded.next_down(), 0.0, -0.0] {
                assert_eq!(f64::from(value) <= threshold, value <= rounded, "{value} against {threshold}");
            }
        }
    }
}
