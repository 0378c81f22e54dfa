//! Trees for blocks of rows, without walking: every split of a tree is asked of all rows at once.
//!
//! From the leaves to the root, a split takes for each row what its left or its right side found: the number of a leaf. That is a
//! comparison and a selection of bytes, of which a processor does 32 or 64 at a time, so that the whole of a small tree costs less than a few
//! steps of a walk, and no branch or address depends on a row. What is compared are ranks, exactly; the leaves are added in
//! the order of the trees.

use super::leaves::{Leaves, Sum};
use super::nodes::{Nodes, Tree};
use super::ranks::Ranks;

/// Rows that are ranked together: few enough to stay in the processor's first cache.
const TOGETHER: usize = 32;

/// Rank or leaf of one row, so small that many are dealt with at once. Signed, because that is what processors compare.
pub(super) trait Lane: Copy + Default + PartialOrd {
    /// Ranks and leaves there may be.
    const MOST: usize;

    /// In ascending order.
    fn rank(rank: usize) -> Self;
    fn leaf(leaf: usize) -> Self;
    fn index(self) -> usize;
    /// The right one if `above`. Without a condition, so that both are loaded for all rows at once.
    fn choose(above: bool, left: Self, right: Self) -> Self;
}

impl Lane for i8 {
    const MOST: usize = 1 << 8;

    fn rank(rank: usize) -> i8 {
        (rank as u8 ^ 0x80) as i8
    }

    fn leaf(leaf: usize) -> i8 {
        leaf as u8 as i8
    }

    fn index(self) -> usize {
        usize::from(self as u8)
    }

    #[inline(always)]
    fn choose(above: bool, left: i8, right: i8) -> i8 {
        left ^ ((left ^ right) & -i8::from(above))
    }
}

impl Lane for i16 {
    const MOST: usize = 1 << 16;

    fn rank(rank: usize) -> i16 {
        (rank as u16 ^ 0x8000) as i16
    }

    fn leaf(leaf: usize) -> i16 {
        leaf as u16 as i16
    }

    fn index(self) -> usize {
        usize::from(self as u16)
    }

    #[inline(always)]
    fn choose(above: bool, left: i16, right: i16) -> i16 {
        left ^ ((left ^ right) & -i16::from(above))
    }
}

/// One split: operands and result are places in the memory of a block.
#[derive(Clone, Copy)]
struct Choice<T> {
    column: u16,
    result: u16,
    left: u16,
    right: u16,
    rank: T,
}

/// The trees of a step, for `N` rows at a time.
pub(super) struct Blend<T, const N: usize> {
    choices: Vec<Choice<T>>,
    /// End of each tree's choices.
    ends: Vec<usize>,
    /// The place of the first leaf; results lie before it.
    first_leaf: usize,
    most_leaves: usize,
    columns: usize,
}

/// What a block needs.
#[derive(Default)]
pub(super) struct Work<T, const N: usize> {
    ranks: Vec<Rows<T, N>>,
    /// Results, and behind them one place filled with each leaf.
    places: Vec<Rows<T, N>>,
}

/// One rank or leaf a row; aligned, because what crosses a line of the cache is stored and loaded slowly.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Rows<T, const N: usize>([T; N]);

impl<T: Lane, const N: usize> Blend<T, N> {
    /// None where ranks or leaves are too many.
    pub fn new(trees: &[Tree], nodes: Nodes<'_>, ranks: &Ranks, leaves: &Leaves) -> Option<Blend<T, N>> {
        let most_leaves = leaves.most();
        if ranks.greatest() >= T::MOST || most_leaves > T::MOST.min(1 << 15) || ranks.columns() > 1 << 16 {
            return None;
        }
        let first_leaf = most_leaves - 1;
        let mut blend =
            Blend { choices: Vec::new(), ends: Vec::new(), first_leaf, most_leaves, columns: ranks.columns() };
        for range in leaves.ranges(trees) {
            // Of a tree with n leaves and n - 1 splits in one order, a node's number among its kind is its place.
            let place = |node: usize| {
                let number = leaves.number(node);
                if nodes.nodes[node].is_leaf() { first_leaf + number } else { node - range.start - number }
            };
            // Children lie behind their parents.
            for node in range.clone().rev().filter(|node| !nodes.nodes[*node].is_leaf()) {
                let split = nodes.nodes[node];
                let (column, rank) = ranks.of(split)?;
                blend.choices.push(Choice {
                    column: column as u16,
                    result: place(node) as u16,
                    left: place(split.child as usize) as u16,
                    right: place(split.child as usize + 1) as u16,
                    rank: T::rank(rank),
                });
            }
            blend.ends.push(blend.choices.len());
        }
        Some(blend)
    }

    /// Fills a block with the ranks of at most `N` rows.
    pub fn fill(&self, ranks: &Ranks, count: usize, value: impl Fn(usize, usize) -> f64, work: &mut Work<T, N>) {
        work.ranks.resize(self.columns, Rows([T::default(); N]));
        ranks.rank::<TOGETHER>(count, value, |row, column, rank| work.ranks[column].0[row] = T::rank(rank));
    }

    /// Adds the leaves that the block's rows reach.
    pub fn add<S: Sum>(&self, leaves: &Leaves, work: &mut Work<T, N>, sums: &mut [[S; N]]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512bw") {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { self.add_avx512(leaves, work, sums) };
        } else if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { self.add_avx2(leaves, work, sums) };
        }
        self.add_portably(leaves, work, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512bw")]
    fn add_avx512<S: Sum>(&self, leaves: &Leaves, work: &mut Work<T, N>, sums: &mut [[S; N]]) {
        self.add_portably(leaves, work, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn add_avx2<S: Sum>(&self, leaves: &Leaves, work: &mut Work<T, N>, sums: &mut [[S; N]]) {
        self.add_portably(leaves, work, sums);
    }

    /// The compiler makes of it what it may for the function that it is part of.
    #[inline(always)]
    fn add_portably<S: Sum>(&self, leaves: &Leaves, work: &mut Work<T, N>, sums: &mut [[S; N]]) {
        let Work { ranks, places } = work;
        assert!(ranks.len() >= self.columns, "a block was filled");
        places.resize(self.first_leaf, Rows([T::default(); N]));
        places.extend((0..self.most_leaves).map(|leaf| Rows([T::leaf(leaf); N])));
        // As slices: what they point to may otherwise have changed with every byte that is written.
        let (ranks, places) = (ranks.as_slice(), places.as_mut_slice());
        let mut begin = 0;
        for (tree, end) in self.ends.iter().enumerate() {
            for choice in &self.choices[begin..*end] {
                // SAFETY: `new` takes columns from `ranks`, below its number of columns, and places from numbers of splits, below
                // `first_leaf`, and of leaves, below `most_leaves`; there are as many.
                unsafe {
                    let place = |place: u16| *places.get_unchecked(usize::from(place));
                    let ranks = *ranks.get_unchecked(usize::from(choice.column));
                    let chosen = choose(ranks, choice.rank, place(choice.left), place(choice.right));
                    *places.get_unchecked_mut(usize::from(choice.result)) = chosen;
                }
            }
            // The root comes last and is the first of its kind. A tree of one leaf has no choice.
            let found = if begin == *end { self.first_leaf } else { 0 };
            begin = *end;
            let found = places[found].0.map(T::index);
            // SAFETY: every operand of a choice is one of the tree's leaves or, since children lie behind their parents and come
            // first here, the result of a choice before it in the same tree: what the last one finds are leaves of this tree.
            unsafe { leaves.add_all(tree, found, sums) };
        }
    }
}

/// For each row the right one if its rank is above, else the left one.
#[inline(always)]
fn choose<T: Lane, const N: usize>(ranks: Rows<T, N>, rank: T, left: Rows<T, N>, mut right: Rows<T, N>) -> Rows<T, N> {
    for ((right, left), own) in right.0.iter_mut().zip(left.0).zip(ranks.0) {
        *right = T::choose(own > rank, left, *right);
    }
    right
}
