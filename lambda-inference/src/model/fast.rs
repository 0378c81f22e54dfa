//! Quicker ways to the leaves of a step's trees, which give the same bits as the plain walk.
//!
//! The plain walk waits for memory at every split and guesses wrong at every second one. Here several walks go side by side, one for
//! each of eight trees or eight rows: a step of each is two loads, a comparison and an addition without a branch, repeated as often as the
//! deepest tree asks for, and leaves lead back to themselves.
//!
//! What is compared are keys: integers in the order of the values. A missing value is the least key in a column of features whose splits
//! send it left, the greatest where they send it right. The first column always holds the least key: leaves ask for it, so that
//! their place for a threshold is free for where their values are.

use std::collections::HashMap;

use super::leaves::Sum;
use super::nodes::{Conversion, Node, Tree};

/// Trees that one row walks at a time, or rows that walk one tree: as many as there are registers for.
const TOGETHER: usize = 8;
/// Rows whose keys lie together, column after column.
const LANES: usize = 16;
/// Trees that a group of rows walks before the next group: so many stay in the processor's first cache.
const TREES: usize = 4;

/// An integer in the order of the values of one precision.
pub(super) trait Key: Copy + Ord {
    /// That of a missing value which goes left: above no threshold.
    const LEAST: Self;
    /// That of a missing value which goes right: above every threshold.
    const MOST: Self;

    /// The key of a value which is not missing.
    fn of(value: f64) -> Self;
    /// That of a threshold: values of this precision are above both or neither.
    fn of_threshold(threshold: f64) -> Self;
}

impl Key for u32 {
    const LEAST: u32 = 0;
    const MOST: u32 = u32::MAX;

    #[inline(always)]
    fn of(value: f64) -> u32 {
        // Adding zero takes the sign from a zero: both are equal.
        let bits = (value as f32 + 0.0).to_bits();
        bits ^ ((bits.cast_signed() >> 31).cast_unsigned() | 1 << 31)
    }

    fn of_threshold(threshold: f64) -> u32 {
        u32::of(f64::from(round_down(threshold)))
    }
}

impl Key for u64 {
    const LEAST: u64 = 0;
    const MOST: u64 = u64::MAX;

    #[inline(always)]
    fn of(value: f64) -> u64 {
        let bits = (value + 0.0).to_bits();
        bits ^ ((bits.cast_signed() >> 63).cast_unsigned() | 1 << 63)
    }

    fn of_threshold(threshold: f64) -> u64 {
        u64::of(threshold)
    }
}

/// The greatest number of single precision that is not above.
fn round_down(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value { nearest.next_down() } else { nearest }
}

/// A node of either width.
pub(super) trait Split: Copy {
    /// What it compares.
    type Key: Key;

    /// A split; none if it does not fit.
    fn new(threshold: Self::Key, child: usize, column: usize) -> Option<Self>;
    /// A leaf at a place, with the number of its values; none if it does not fit.
    fn leaf(values: u32, place: usize) -> Option<Self>;
    fn threshold(self) -> Self::Key;
    /// The place of its left child; its own if it is a leaf.
    fn child(self) -> usize;
    /// The column that it asks for.
    fn column(self) -> usize;
    /// The number of a leaf's values.
    fn values(self) -> usize;
}

/// For values in single precision: 8 bytes. In `link` 21 bits are the child, the others the column.
#[derive(Clone, Copy)]
pub(super) struct Narrow {
    threshold: u32,
    link: u32,
}

const CHILD_BITS: u32 = 21;

impl Split for Narrow {
    type Key = u32;

    fn new(threshold: u32, child: usize, column: usize) -> Option<Narrow> {
        let fits = child < 1 << CHILD_BITS && column < 1 << (u32::BITS - CHILD_BITS);
        fits.then_some(Narrow { threshold, link: child as u32 | (column as u32) << CHILD_BITS })
    }

    fn leaf(values: u32, place: usize) -> Option<Narrow> {
        Narrow::new(values, place, 0)
    }

    #[inline(always)]
    fn threshold(self) -> u32 {
        self.threshold
    }

    #[inline(always)]
    fn child(self) -> usize {
        (self.link & ((1 << CHILD_BITS) - 1)) as usize
    }

    #[inline(always)]
    fn column(self) -> usize {
        (self.link >> CHILD_BITS) as usize
    }

    #[inline(always)]
    fn values(self) -> usize {
        self.threshold as usize
    }
}

/// For values in double precision, and for more nodes or columns.
#[derive(Clone, Copy)]
pub(super) struct Wide {
    threshold: u64,
    child: u32,
    column: u32,
}

impl Split for Wide {
    type Key = u64;

    fn new(threshold: u64, child: usize, column: usize) -> Option<Wide> {
        Some(Wide { threshold, child: u32::try_from(child).ok()?, column: u32::try_from(column).ok()? })
    }

    fn leaf(values: u32, place: usize) -> Option<Wide> {
        Wide::new(u64::from(values), place, 0)
    }

    #[inline(always)]
    fn threshold(self) -> u64 {
        self.threshold
    }

    #[inline(always)]
    fn child(self) -> usize {
        self.child as usize
    }

    #[inline(always)]
    fn column(self) -> usize {
        self.column as usize
    }

    #[inline(always)]
    fn values(self) -> usize {
        self.threshold as usize
    }
}

/// The trees of one step, packed.
pub(super) struct Walk<S: Split> {
    splits: Vec<S>,
    trees: Vec<Packed>,
    columns: Vec<Column<S::Key>>,
    conversion: Conversion,
    /// Rows of leaf values, equal ones once.
    values: Vec<f64>,
    /// Values of a leaf.
    width: usize,
}

struct Packed {
    root: usize,
    depth: u32,
    /// The first output that it adds to.
    output: usize,
}

/// A column of keys, from the second one on.
#[derive(Clone, Copy, PartialEq)]
struct Column<K> {
    feature: usize,
    missing: K,
}

/// What a scorer keeps for walks from block to block.
pub(super) struct Keys<K> {
    row: Vec<K>,
    lanes: Vec<[K; LANES]>,
}

impl<K> Default for Keys<K> {
    fn default() -> Keys<K> {
        Keys { row: Vec::new(), lanes: Vec::new() }
    }
}

impl<S: Split> Walk<S> {
    /// Packs the trees with these nodes, the first of which stands at `first` in the file. `rows` are the rows of values that leaves refer to, if
    /// they do. None where splits ask for categories or zero, or if something does not fit.
    pub fn new(
        trees: &[Tree],
        nodes: &[Node],
        first: usize,
        conversion: Conversion,
        outputs: usize,
        rows: Option<&[f64]>,
    ) -> Option<Walk<S>> {
        let width = if rows.is_some() { outputs } else { 1 };
        let packed = |(index, tree): (usize, &Tree)| {
            let root = (tree.root as usize).checked_sub(first).filter(|root| *root < nodes.len())?;
            Some(Packed { root, depth: tree.depth, output: if rows.is_some() { 0 } else { index % outputs } })
        };
        let trees = trees.iter().enumerate().map(packed).collect::<Option<_>>()?;
        let splits = Vec::with_capacity(nodes.len());
        let mut walk = Walk { splits, trees, columns: Vec::new(), conversion, values: Vec::new(), width };
        let mut known: HashMap<Vec<u64>, u32> = HashMap::new();
        for (place, node) in nodes.iter().enumerate() {
            let split = if node.is_leaf() {
                let next = u32::try_from(walk.values.len() / width).ok()?;
                let number = match rows {
                    None => {
                        walk.values.push(node.threshold);
                        next
                    }
                    Some(rows) => {
                        let values = &rows[node.child as usize * width..][..width];
                        let bits = values.iter().map(|value| value.to_bits()).collect();
                        *known.entry(bits).or_insert_with(|| {
                            walk.values.extend_from_slice(values);
                            next
                        })
                    }
                };
                S::leaf(number, place)?
            } else if node.is_plain() {
                let missing = if node.missing_goes_left() { S::Key::LEAST } else { S::Key::MOST };
                let column = walk.column(Column { feature: usize::from(node.feature), missing });
                let child = (node.child as usize).checked_sub(first).filter(|child| child + 1 < nodes.len())?;
                S::new(S::Key::of_threshold(node.threshold), child, column)?
            } else {
                return None;
            };
            walk.splits.push(split);
        }
        Some(walk)
    }

    fn column(&mut self, column: Column<S::Key>) -> usize {
        let known = self.columns.iter().position(|known| *known == column);
        1 + known.unwrap_or_else(|| {
            self.columns.push(column);
            self.columns.len() - 1
        })
    }

    #[inline(always)]
    fn key(&self, column: &Column<S::Key>, row: &[f64]) -> S::Key {
        let value = row[column.feature];
        if value.is_nan() { column.missing } else { S::Key::of(self.conversion.apply(value)) }
    }

    /// Goes so many steps on from each of these places. `key` gives that of a column for a walk.
    #[inline(always)]
    fn follow(&self, at: &mut [usize; TOGETHER], depth: u32, key: impl Fn(usize, usize) -> S::Key) {
        for _ in 0..depth {
            for (walk, at) in at.iter_mut().enumerate() {
                // SAFETY: a place is a root, the child of a split or the one behind it, or a leaf's own, since no key is below the
                // least one. `new` saw all of them among the nodes.
                let split = unsafe { *self.splits.get_unchecked(*at) };
                *at = split.child() + usize::from(split.threshold() < key(split.column(), walk));
            }
        }
    }

    /// Adds the leaves that one row reaches, tree after tree.
    pub fn add_row<T: Sum>(&self, row: &[f64], keys: &mut Keys<S::Key>, sums: &mut [T]) {
        keys.row.clear();
        keys.row.push(S::Key::LEAST);
        keys.row.extend(self.columns.iter().map(|column| self.key(column, row)));
        match sums {
            // Kept out of memory: each addition waits for the one before it.
            [_] if self.width == 1 => self.add_row_in_registers::<T, 1>(&keys.row, sums),
            [_, _] if self.width == 2 => self.add_row_in_registers::<T, 2>(&keys.row, sums),
            _ => self.walk_trees(&keys.row, |tree, leaf| {
                let values = &self.values[leaf * self.width..][..self.width];
                sums[tree.output..].iter_mut().zip(values).for_each(|(sum, value)| sum.add(*value));
            }),
        }
    }

    fn add_row_in_registers<T: Sum, const WIDTH: usize>(&self, keys: &[S::Key], sums: &mut [T]) {
        let mut kept = [T::default(); WIDTH];
        kept.copy_from_slice(sums);
        let rows = self.values.as_chunks::<WIDTH>().0;
        self.walk_trees(keys, |_, leaf| {
            kept.iter_mut().zip(&rows[leaf]).for_each(|(sum, value)| sum.add(*value));
        });
        sums.copy_from_slice(&kept);
    }

    /// Gives the number of the values that one row reaches in each tree.
    #[inline(always)]
    fn walk_trees(&self, keys: &[S::Key], mut leaf: impl FnMut(&Packed, usize)) {
        assert!(keys.len() > self.columns.len(), "there is a key for every column");
        for trees in self.trees.chunks(TOGETHER) {
            let mut at = [trees[0].root; TOGETHER];
            at.iter_mut().zip(trees).for_each(|(at, tree)| *at = tree.root);
            let depth = trees.iter().map(|tree| tree.depth).max().unwrap_or_default();
            // SAFETY: `new` numbered the columns.
            self.follow(&mut at, depth, |column, _| unsafe { *keys.get_unchecked(column) });
            trees.iter().zip(at).for_each(|(tree, at)| leaf(tree, self.splits[at].values()));
        }
    }

    /// Adds the leaves that each row of a block reaches: `count` rows, of which `row` gives one, and as many sums a row as outputs.
    pub fn add_block<'a, T: Sum>(
        &self,
        count: usize,
        row: impl Fn(usize) -> &'a [f64],
        keys: &mut Keys<S::Key>,
        sums: &mut [T],
    ) {
        let columns = self.columns.len() + 1;
        keys.lanes.clear();
        keys.lanes.resize(count.div_ceil(LANES) * columns, [S::Key::LEAST; LANES]);
        for (group, lanes) in keys.lanes.chunks_exact_mut(columns).enumerate() {
            for lane in 0..LANES.min(count - group * LANES) {
                let row = row(group * LANES + lane);
                for (keys, column) in lanes[1..].iter_mut().zip(&self.columns) {
                    keys[lane] = self.key(column, row);
                }
            }
        }
        match sums.len() / count.max(1) {
            1 => self.walk_rows::<T, 1>(&keys.lanes, count, sums),
            2 if self.width == 2 => self.walk_rows::<T, 2>(&keys.lanes, count, sums),
            _ => self.walk_rows::<T, 0>(&keys.lanes, count, sums),
        }
    }

    /// With as many outputs as values of a leaf, or any number if it is 0.
    fn walk_rows<T: Sum, const WIDTH: usize>(&self, lanes: &[[S::Key; LANES]], count: usize, sums: &mut [T]) {
        let columns = self.columns.len() + 1;
        let outputs = sums.len() / count;
        for trees in self.trees.chunks(TREES) {
            for (lanes, sums) in lanes.chunks_exact(columns).zip(sums.chunks_mut(LANES * outputs)) {
                for tree in trees {
                    for (half, sums) in sums.chunks_mut(TOGETHER * outputs).enumerate() {
                        let mut at = [tree.root; TOGETHER];
                        // SAFETY: `new` numbered the columns, and half a group has as many rows.
                        self.follow(&mut at, tree.depth, |column, walk| unsafe {
                            *lanes.get_unchecked(column).get_unchecked(half * TOGETHER + walk)
                        });
                        for (sums, at) in sums.chunks_exact_mut(outputs).zip(at) {
                            let leaf = self.splits[at].values();
                            if WIDTH == 0 {
                                let values = &self.values[leaf * self.width..][..self.width];
                                sums[tree.output..].iter_mut().zip(values).for_each(|(sum, value)| sum.add(*value));
                            } else {
                                let values = &self.values.as_chunks::<WIDTH>().0[leaf];
                                sums.iter_mut().zip(values).for_each(|(sum, value)| sum.add(*value));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The packed trees of a step, in the width of its values or wider.
pub(super) enum Fast {
    Single(Walk<Narrow>),
    Double(Walk<Wide>),
}

impl Fast {
    /// Packs trees as [`Walk::new`] does.
    pub fn new(
        conversion: Conversion,
        trees: &[Tree],
        nodes: &[Node],
        first: usize,
        outputs: usize,
        rows: Option<&[f64]>,
    ) -> Option<Fast> {
        let narrow = (conversion == Conversion::Single)
            .then(|| Walk::new(trees, nodes, first, conversion, outputs, rows))
            .flatten();
        match narrow {
            Some(walk) => Some(Fast::Single(walk)),
            None => Walk::new(trees, nodes, first, conversion, outputs, rows).map(Fast::Double),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f64; 14] = [
        0.0,
        -0.0,
        0.1,
        0.5,
        -1e-50,
        1e-50,
        1e-40,
        -1e-40,
        16_777_217.0,
        f32::MAX as f64,
        3.5e38,
        -3.5e38,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];

    #[test]
    fn keys_compare_as_the_values_of_their_precision() {
        for threshold in VALUES {
            for value in VALUES.into_iter().chain([threshold.next_up(), threshold.next_down()]) {
                let single = f64::from(value as f32);
                assert_eq!(u32::of_threshold(threshold) < u32::of(single), threshold < single, "{value} {threshold}");
                assert_eq!(u64::of_threshold(threshold) < u64::of(value), threshold < value, "{value} {threshold}");
            }
            assert!(u32::of_threshold(threshold) < u32::MOST && u64::of_threshold(threshold) < u64::MOST);
        }
    }

    /// One split with values `[1, 2]` on its left and `[3, 4]` on its right, then a tree of one leaf with the first ones again.
    fn two_trees(missing: u16) -> (Vec<Tree>, Vec<Node>, [f64; 6]) {
        let leaf = |row| Node { threshold: 0.0, feature: 0, flags: 1, child: row };
        let split = Node { threshold: 0.5, feature: 1, flags: missing, child: 8 };
        let trees = vec![Tree { root: 7, depth: 1 }, Tree { root: 10, depth: 0 }];
        (trees, vec![split, leaf(0), leaf(1), leaf(2)], [1.0, 2.0, 3.0, 4.0, 1.0, 2.0])
    }

    fn check<S: Split>(missing: u16, conversion: Conversion) {
        let (trees, nodes, rows) = two_trees(missing);
        let walk = Walk::<S>::new(&trees, &nodes, 7, conversion, 2, Some(&rows)).unwrap();
        assert_eq!(walk.values, [1.0, 2.0, 3.0, 4.0], "equal rows of values are kept once");
        let left = |value: f64| if value.is_nan() { missing != 0 } else { value <= 0.5 };
        let mut keys = Keys::default();
        let values: Vec<f64> = VALUES.into_iter().chain([f64::NAN, 0.5_f64.next_up()]).cycle().take(37).collect();
        let inputs: Vec<[f64; 2]> = values.iter().map(|value| [f64::NAN, conversion.apply(*value)]).collect();
        let mut sums = vec![0.0_f64; 2 * inputs.len()];
        walk.add_block(inputs.len(), |row| &inputs[row], &mut keys, &mut sums);
        for (row, found) in inputs.iter().zip(sums.chunks_exact(2)) {
            let expected = if left(row[1]) { [2.0, 4.0] } else { [4.0, 6.0] };
            let mut alone = [0.0_f64; 2];
            walk.add_row(row, &mut keys, &mut alone);
            assert_eq!((alone, found), (expected, &expected[..]), "{row:?}");
        }
    }

    #[test]
    fn walks_end_at_the_leaves_that_the_splits_ask_for() {
        for missing in [0, 2] {
            check::<Narrow>(missing, Conversion::Single);
            check::<Wide>(missing, Conversion::Single);
            check::<Wide>(missing, Conversion::Double);
        }
    }

    #[test]
    fn trees_with_one_value_a_leaf_take_turns_among_the_outputs() {
        let leaf = |value: f64| Node { threshold: value, feature: 0, flags: 1, child: 0 };
        let nodes: Vec<Node> = (1..=6).map(|value| leaf(f64::from(value))).collect();
        let trees: Vec<Tree> = (0..6).map(|root| Tree { root, depth: 0 }).collect();
        let walk = Walk::<Wide>::new(&trees, &nodes, 0, Conversion::Double, 3, None).unwrap();
        let (mut keys, mut sums) = (Keys::default(), [0.0_f64; 6]);
        walk.add_block(2, |_| &[0.0], &mut keys, &mut sums);
        let mut alone = [0.0_f64; 3];
        walk.add_row(&[0.0], &mut keys, &mut alone);
        assert_eq!((alone, sums), ([5.0, 7.0, 9.0], [5.0, 7.0, 9.0, 5.0, 7.0, 9.0]));
    }

    #[test]
    fn what_does_not_fit_is_not_packed() {
        assert!(Narrow::new(0, (1 << 21) - 1, (1 << 11) - 1).is_some());
        assert!(Narrow::new(0, 1 << 21, 0).is_none());
        assert!(Narrow::new(0, 0, 1 << 11).is_none());
        let (trees, mut nodes, rows) = two_trees(0);
        nodes[0].child = 10;
        assert!(Walk::<Wide>::new(&trees, &nodes, 7, Conversion::Double, 2, Some(&rows)).is_none());
    }
}
