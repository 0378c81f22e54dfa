//! The values of leaves, tree after tree and close together, and adding them up as the library does.

use std::ops::Range;

use super::nodes::{Node, Tree};

/// A sum in the precision in which a library keeps it.
pub(super) trait Sum: Copy + Default {
    fn from_double(value: f64) -> Self;
    fn to_double(self) -> f64;
    fn add(&mut self, value: f64);
}

impl Sum for f64 {
    fn from_double(value: f64) -> f64 {
        value
    }

    fn to_double(self) -> f64 {
        self
    }

    #[inline(always)]
    fn add(&mut self, value: f64) {
        *self += value;
    }
}

impl Sum for f32 {
    fn from_double(value: f64) -> f32 {
        value as f32
    }

    fn to_double(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn add(&mut self, value: f64) {
        *self += value as f32;
    }
}

/// The leaves of a step's trees.
pub(super) struct Leaves {
    trees: Vec<Place>,
    /// Of a tree the leaves' values for its first output, then those for the next.
    values: Vec<f64>,
    /// How many leaves of its tree lie before a node. From the step's first node on.
    numbers: Vec<u32>,
    first: usize,
}

struct Place {
    /// Its first value.
    start: u32,
    count: u32,
    /// The outputs that it adds to.
    first_output: u32,
    outputs: u32,
}

impl Leaves {
    /// Of trees whose nodes are those from `first` on. `rows` are the rows of values that leaves refer to, if they do. None if there are too
    /// many values.
    pub fn new(trees: &[Tree], nodes: &[Node], first: usize, outputs: usize, rows: Option<&[f64]>) -> Option<Leaves> {
        u32::try_from(nodes.len().checked_mul(outputs)?).ok()?;
        let mut leaves =
            Leaves { trees: Vec::new(), values: Vec::new(), numbers: Vec::with_capacity(nodes.len()), first };
        let ends = trees.iter().skip(1).map(|tree| tree.root as usize - first).chain([nodes.len()]);
        for (index, (tree, end)) in trees.iter().zip(ends).enumerate() {
            let nodes = &nodes[tree.root as usize - first..end];
            let mut count = 0;
            for node in nodes {
                leaves.numbers.push(count);
                count += u32::from(node.is_leaf());
            }
            let start = leaves.values.len();
            let found = nodes.iter().filter(|node| node.is_leaf());
            let (first_output, width) = match rows {
                None => {
                    leaves.values.extend(found.map(|leaf| leaf.threshold));
                    (index % outputs, 1)
                }
                Some(rows) => {
                    for output in 0..outputs {
                        let values = found.clone().map(|leaf| rows[leaf.child as usize * outputs + output]);
                        leaves.values.extend(values);
                    }
                    (0, outputs)
                }
            };
            let (start, first_output, outputs) = (start as u32, first_output as u32, width as u32);
            leaves.trees.push(Place { start, count, first_output, outputs });
        }
        Some(leaves)
    }

    /// Most leaves of a tree.
    pub fn most(&self) -> usize {
        self.trees.iter().map(|place| place.count as usize).max().unwrap_or(0)
    }

    /// The nodes of each tree.
    pub fn ranges(&self, trees: &[Tree]) -> impl Iterator<Item = Range<usize>> {
        let end = self.first + self.numbers.len();
        let ends = trees.iter().skip(1).map(|tree| tree.root as usize).chain([end]);
        trees.iter().zip(ends).map(|(tree, end)| tree.root as usize..end)
    }

    /// How many leaves of its tree lie before a node, by its place in the file: a leaf's number.
    pub fn number(&self, node: usize) -> usize {
        self.numbers[node - self.first] as usize
    }

    /// The value of a leaf, of a tree that adds to one output.
    #[inline(always)]
    pub fn only_value(&self, tree: usize, leaf: usize) -> f64 {
        self.values[self.trees[tree].start as usize + leaf]
    }

    /// Adds one leaf of a tree.
    #[inline(always)]
    pub fn add<S: Sum>(&self, tree: usize, leaf: usize, sums: &mut [S]) {
        let place = &self.trees[tree];
        for output in 0..place.outputs as usize {
            let value = self.values[place.start as usize + output * place.count as usize + leaf];
            sums[place.first_output as usize + output].add(value);
        }
    }

    /// Adds one leaf of a tree for each of `N` rows.
    ///
    /// # Safety
    /// The tree has more leaves than any of these numbers.
    #[inline(always)]
    pub unsafe fn add_all<S: Sum, const N: usize>(&self, tree: usize, leaf: [usize; N], sums: &mut [[S; N]]) {
        let place = &self.trees[tree];
        for output in 0..place.outputs as usize {
            let values = &self.values[place.start as usize + output * place.count as usize..][..place.count as usize];
            let sums = &mut sums[place.first_output as usize + output];
            for (sum, leaf) in sums.iter_mut().zip(leaf) {
                // SAFETY: there is a value for each leaf of the tree.
                sum.add(unsafe { *values.get_unchecked(leaf) });
            }
        }
    }
}
