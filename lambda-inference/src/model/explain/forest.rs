//! Shapley values of trees, path dependent, by quadrature.
//!
//! With the features `S` of a row known, a tree is worth the mean of its leaves, where splits by unknown features go both ways by
//! training weight (Lundberg et al., "From local explanations to global understanding with explainable AI for trees", 2020). A leaf
//! of value `v` whose path asks for `d` different features adds `v` times, for each feature `j` of its path, `o[j]` (1 if the row fulfils
//! all that the path asks of `j`, else 0) if `j` is known, and `z[j]` (the share of the training weight that did) if not. In
//! the Shapley value a set `S` weighs the integral over [0, 1] of `t^|S| (1-t)^(d-1-|S|)`, so that over all sets
//!
//! ```text
//! phi[i] = v (o[i] - z[i]) * integral of the product over j != i of f[j](t),    f[j](t) = z[j] (1-t) + o[j] t
//! ```
//!
//! The integrand is a polynomial of degree `d - 1`: Gauss-Legendre quadrature with `d / 2` points, rounded up, is exact. With `F`, the
//! product of `f` over all features of the path, and because `o` is 0 or 1, what stands before the integral becomes
//!
//! ```text
//! v F (o[i] - z[i]) / f[i] = v F (o[i] u[i] - 1) / (1-t),    u[i] = 1 / (z[i] (1-t) + t)
//! ```
//!
//! At a point `t` all `F` are one pass from the root to the leaves, and the sums over the leaves below a node one pass back. Where a path
//! asks for a feature again, the new factor replaces the old one. Factors lie in (0, 1] and weights of the quadrature are
//! positive, so that little is lost by rounding.
//!
//! Several rows are explained side by side. What is computed for a row is the same, bit for bit, however many there are and
//! whichever instructions the processor has.

use super::super::nodes::{Conversion, Node, Nodes, Tree};
use super::quadrature::{Point, points};

/// Rows that are explained side by side.
pub(super) const LANES: usize = 8;
/// Points of the quadrature that one pass takes.
const POINTS: usize = 4;

/// All bits set where something holds of a row, else none.
type Mask = u64;

/// What trees have in common.
#[derive(Clone, Copy)]
pub(super) struct Forest<'a> {
    pub nodes: Nodes<'a>,
    /// Training weight of every node.
    pub covers: &'a [f64],
    pub conversion: Conversion,
    /// Features that the trees see.
    pub width: usize,
}

/// Rows, and what is added up for them: `lanes` rows after `lanes` rows, feature after feature, row after row. What is added up has
/// such a matrix for each output.
pub(super) struct Block<'a> {
    /// 1, or `LANES`.
    pub lanes: usize,
    /// Values as they are compared.
    pub values: &'a [f64],
    pub sums: &'a mut [f64],
    pub outputs: usize,
}

/// Memory that is used again for tree after tree.
#[derive(Default)]
pub(super) struct Memory {
    rules: Vec<Vec<Point>>,
    splits: Vec<Split>,
    paths: Vec<Path>,
    factors: Vec<Factors>,
    values: Vec<f64>,
    fulfilled: Vec<Mask>,
    left: Vec<Mask>,
    weights: Vec<f64>,
    sums: Vec<f64>,
}

/// A split; nodes are counted from the tree's root.
#[derive(Clone, Copy)]
struct Split {
    node: usize,
    child: usize,
    feature: usize,
    /// The node behind the last split before this one that asked for the same feature; 0 if there is none.
    before: usize,
    children_are_leaves: [bool; 2],
}

/// How a node is reached.
#[derive(Clone, Copy, Default)]
struct Path {
    parent: usize,
    /// Share of the training weight that fulfils what the path asks of the feature that its last split asks for.
    share: f64,
    /// Different features asked for.
    features: usize,
}

/// A split's numbers at each point, of the ways left and right.
#[derive(Clone, Copy, Default)]
struct Factors {
    /// What the product of factors is multiplied by where the row goes this way.
    hit: [[f64; POINTS]; 2],
    /// The same where it does not.
    miss: [[f64; POINTS]; 2],
    /// `u` of the feature behind the split.
    inverse: [[f64; POINTS]; 2],
    /// `u` of the feature before the split.
    before: [f64; POINTS],
    /// What the product is multiplied by where the row has failed the feature before.
    failed: [f64; 2],
}

impl Forest<'_> {
    /// The mean of a tree's leaves by training weight; its nodes end before `end`.
    pub fn expected(self, tree: Tree, end: usize, value: impl Fn(&Node) -> f64) -> f64 {
        let root = tree.root as usize;
        let (nodes, covers) = (&self.nodes.nodes[root..end], &self.covers[root..end]);
        let mut means = vec![0.0; nodes.len()];
        for (index, node) in nodes.iter().enumerate().rev() {
            means[index] = if node.is_leaf() {
                value(node)
            } else {
                let child = node.child as usize - root;
                (covers[child] * means[child] + covers[child + 1] * means[child + 1]) / covers[index]
            };
        }
        means[0]
    }

    /// Adds a tree's contributions to the sums of a block: for each value of a leaf to the output named with it.
    pub fn explain<V: Fn(&Node) -> f64>(
        self,
        tree: Tree,
        outputs: &[(usize, V)],
        block: &mut Block<'_>,
        memory: &mut Memory,
    ) {
        let features = self.read(tree, memory);
        if features == 0 {
            return;
        }
        let root = tree.root as usize;
        let count = features.div_ceil(2);
        while memory.rules.len() <= count {
            memory.rules.push(points(memory.rules.len()));
        }
        memory.values.clear();
        for (_, value) in outputs {
            let nodes = &self.nodes.nodes[root..root + memory.paths.len()];
            memory.values.extend(nodes.iter().map(|node| if node.is_leaf() { value(node) } else { 0.0 }));
        }
        let places: Vec<usize> = outputs.iter().map(|(place, _)| *place).collect();
        let passes = count.div_ceil(POINTS);
        for pass in 0..passes {
            let chosen = count * pass / passes..count * (pass + 1) / passes;
            let used = chosen.len();
            let mut rule = [Point::default(); POINTS];
            rule[..used].copy_from_slice(&memory.rules[count][chosen]);
            self.multiply(root, &rule[..used], memory);
            match (used, block.lanes) {
                (1, 1) => self.pass::<1, 1>(root, &rule, &places, block, memory),
                (2, 1) => self.pass::<2, 1>(root, &rule, &places, block, memory),
                (3, 1) => self.pass::<3, 1>(root, &rule, &places, block, memory),
                (_, 1) => self.pass::<4, 1>(root, &rule, &places, block, memory),
                (1, _) => self.pass::<1, LANES>(root, &rule, &places, block, memory),
                (2, _) => self.pass::<2, LANES>(root, &rule, &places, block, memory),
                (3, _) => self.pass::<3, LANES>(root, &rule, &places, block, memory),
                _ => self.pass::<4, LANES>(root, &rule, &places, block, memory),
            }
        }
    }

    /// Reads a tree's splits and paths; gives the greatest number of different features of a path.
    fn read(self, tree: Tree, memory: &mut Memory) -> usize {
        let root = tree.root as usize;
        let nodes = &self.nodes.nodes[root..];
        let (splits, paths) = (&mut memory.splits, &mut memory.paths);
        splits.clear();
        paths.clear();
        paths.push(Path { parent: 0, share: 1.0, features: 0 });
        let mut greatest = 0;
        let mut index = 0;
        while index < paths.len() {
            let node = &nodes[index];
            if node.is_leaf() {
                greatest = greatest.max(paths[index].features);
            } else {
                let mut before = index;
                while before != 0 && nodes[paths[before].parent].feature != node.feature {
                    before = paths[before].parent;
                }
                let share = if before == 0 { 1.0 } else { paths[before].share };
                let features = paths[index].features + usize::from(before == 0);
                let child = node.child as usize - root;
                for child in [child, child + 1] {
                    let share = share * (self.covers[root + child] / self.covers[root + index]);
                    paths.push(Path { parent: index, share, features });
                }
                let children_are_leaves = [nodes[child].is_leaf(), nodes[child + 1].is_leaf()];
                let feature = usize::from(node.feature);
                splits.push(Split { node: index, child, feature, before, children_are_leaves });
            }
            index += 1;
        }
        greatest
    }

    /// The numbers of every split at these points.
    fn multiply(self, root: usize, rule: &[Point], memory: &mut Memory) {
        memory.factors.clear();
        for split in &memory.splits {
            let mut factors = Factors::default();
            let share = |node: usize| memory.paths[node].share;
            for (place, point) in rule.iter().enumerate() {
                let before = match split.before {
                    0 => 1.0,
                    before => 1.0 / (share(before) * point.rest + point.at),
                };
                factors.before[place] = before;
                for way in 0..2 {
                    let missed = share(split.child + way) * point.rest;
                    factors.miss[way][place] = missed * before;
                    factors.hit[way][place] = (missed + point.at) * before;
                    factors.inverse[way][place] = 1.0 / (missed + point.at);
                }
            }
            let cover = self.covers[root + split.node];
            factors.failed = [0, 1].map(|way| self.covers[root + split.child + way] / cover);
            memory.factors.push(factors);
        }
    }

    /// Adds what some points of the quadrature give to the sums of every row.
    fn pass<const K: usize, const L: usize>(
        self,
        root: usize,
        rule: &[Point; POINTS],
        places: &[usize],
        block: &mut Block<'_>,
        memory: &mut Memory,
    ) {
        let nodes = memory.paths.len();
        memory.fulfilled.resize(nodes * L, 0);
        memory.left.resize(memory.splits.len() * L, 0);
        memory.weights.resize(nodes * K * L, 0.0);
        memory.sums.resize(nodes * K * L, 0.0);
        let mut pass = Pass::<K, L> {
            splits: &memory.splits,
            factors: &memory.factors,
            values: &memory.values,
            places,
            start: std::array::from_fn(|place| [rule[place].weight / rule[place].rest; L]),
            fulfilled: memory.fulfilled.as_chunks_mut().0,
            left: memory.left.as_chunks_mut().0,
            weights: memory.weights.as_chunks_mut().0.as_chunks_mut().0,
            below: memory.sums.as_chunks_mut().0.as_chunks_mut().0,
        };
        let sums = block.sums.chunks_exact_mut(block.outputs * self.width * L);
        for (values, sums) in block.values.chunks_exact(self.width * L).zip(sums) {
            let (values, sums) = (values.as_chunks::<L>().0, sums.as_chunks_mut::<L>().0);
            self.ask(root, values, &mut pass);
            pass.run(self.width, sums);
        }
    }

    /// Which rows go left at every split.
    fn ask<const K: usize, const L: usize>(self, root: usize, values: &[[f64; L]], pass: &mut Pass<'_, K, L>) {
        for (split, left) in pass.splits.iter().zip(pass.left.iter_mut()) {
            let node = &self.nodes.nodes[root + split.node];
            let values = &values[split.feature];
            let goes_left: [bool; L] = if !node.is_plain() {
                std::array::from_fn(|lane| self.nodes.goes_left(node, self.conversion, values[lane]))
            } else if node.missing_goes_left() {
                std::array::from_fn(|lane| values[lane].is_nan() | (values[lane] <= node.threshold))
            } else {
                std::array::from_fn(|lane| values[lane] <= node.threshold)
            };
            *left = goes_left.map(|left| Mask::from(left).wrapping_neg());
        }
    }
}

/// One tree at `K` points, for `L` rows at a time.
struct Pass<'a, const K: usize, const L: usize> {
    splits: &'a [Split],
    factors: &'a [Factors],
    /// Of all nodes, for each output.
    values: &'a [f64],
    places: &'a [usize],
    /// Weight of each point over `1 - t`.
    start: [[f64; L]; K],
    /// Of each node, whether the row fulfils what the path asks of the feature that its last split asks for.
    fulfilled: &'a mut [[Mask; L]],
    /// Of each split, whether the row goes left.
    left: &'a mut [[Mask; L]],
    /// Of each node, the product of the factors on its path.
    weights: &'a mut [[[f64; L]; K]],
    /// Of each split, the sum over the leaves below.
    below: &'a mut [[[f64; L]; K]],
}

impl<const K: usize, const L: usize> Pass<'_, K, L> {
    fn run(&mut self, width: usize, sums: &mut [[f64; L]]) {
        #[cfg(target_arch = "x86_64")]
        {
            if L > 1 && std::is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { self.run_avx512(width, sums) };
            }
            if L > 1 && std::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { self.run_avx2(width, sums) };
            }
        }
        self.run_anywhere(width, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn run_avx512(&mut self, width: usize, sums: &mut [[f64; L]]) {
        self.run_anywhere(width, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&mut self, width: usize, sums: &mut [[f64; L]]) {
        self.run_anywhere(width, sums);
    }

    #[inline(always)]
    fn run_anywhere(&mut self, width: usize, sums: &mut [[f64; L]]) {
        self.descend();
        let nodes = self.weights.len();
        for output in 0..self.places.len() {
            let place = self.places[output] * width;
            self.ascend(output * nodes, &mut sums[place..place + width]);
        }
    }

    /// From the root to the leaves: products of factors.
    #[inline(always)]
    fn descend(&mut self) {
        self.weights[0] = self.start;
        for ((split, factors), left) in self.splits.iter().zip(self.factors).zip(self.left.iter()) {
            let [above, .., to_left, to_right] = &mut self.weights[split.node..split.child + 2] else { return };
            let [own, .., on_left, on_right] = &mut self.fulfilled[split.before..split.child + 2] else { return };
            let (hit, miss) = (&factors.hit, &factors.miss);
            if split.before == 0 {
                *on_left = *left;
                *on_right = left.map(|left| !left);
                for k in 0..K {
                    to_left[k] = each(|lane| above[k][lane] * choose(left[lane], hit[0][k], miss[0][k]));
                    to_right[k] = each(|lane| above[k][lane] * choose(left[lane], miss[1][k], hit[1][k]));
                }
            } else {
                *on_left = std::array::from_fn(|lane| own[lane] & left[lane]);
                *on_right = std::array::from_fn(|lane| own[lane] & !left[lane]);
                let failed = factors.failed;
                for k in 0..K {
                    to_left[k] = each(|lane| {
                        let factor = choose(left[lane], hit[0][k], miss[0][k]);
                        above[k][lane] * choose(own[lane], factor, failed[0])
                    });
                    to_right[k] = each(|lane| {
                        let factor = choose(left[lane], miss[1][k], hit[1][k]);
                        above[k][lane] * choose(own[lane], factor, failed[1])
                    });
                }
            }
        }
    }

    /// From the leaves to the root: sums over leaves, and what they mean for the feature of each split.
    #[inline(always)]
    fn ascend(&mut self, values: usize, sums: &mut [[f64; L]]) {
        for ((split, factors), left) in self.splits.iter().zip(self.factors).zip(self.left.iter()).rev() {
            let [below, .., below_left, below_right] = &mut self.below[split.node..split.child + 2] else { return };
            let leaf = |way: usize| (&self.weights[split.child + way], self.values[values + split.child + way]);
            let (on_left, left_value) = if split.children_are_leaves[0] { leaf(0) } else { (&*below_left, 1.0) };
            let (on_right, right_value) = if split.children_are_leaves[1] { leaf(1) } else { (&*below_right, 1.0) };
            let mut change = [0.0; L];
            for k in 0..K {
                let (on_left, on_right) =
                    (on_left[k].map(|sum| sum * left_value), on_right[k].map(|sum| sum * right_value));
                let all: [f64; L] = each(|lane| on_left[lane] + on_right[lane]);
                let inverse = &factors.inverse;
                change = each(|lane| {
                    let way = choose(left[lane], on_left[lane], on_right[lane]);
                    let inverse = choose(left[lane], inverse[0][k], inverse[1][k]);
                    change[lane] + (way * inverse - all[lane] * factors.before[k])
                });
                below[k] = all;
            }
            if split.before != 0 {
                let before = self.fulfilled[split.before];
                change = each(|lane| choose(before[lane], change[lane], 0.0));
            }
            let sum = &mut sums[split.feature];
            *sum = each(|lane| sum[lane] + change[lane]);
        }
    }
}

/// One number a row.
#[inline(always)]
fn each<const L: usize>(number: impl Fn(usize) -> f64) -> [f64; L] {
    let mut numbers = [0.0; L];
    for (lane, place) in numbers.iter_mut().enumerate() {
        *place = number(lane);
    }
    numbers
}

/// The first where all bits are set, the second where none is.
#[inline(always)]
fn choose(mask: Mask, set: f64, unset: f64) -> f64 {
    f64::from_bits(set.to_bits() & mask | unset.to_bits() & !mask)
}
