//! Small trees for one row, without walking: every split of a tree is asked at once, and the answers are followed in jumps.
//!
//! A tree with at most 64 splits fits into registers of 64 bytes: the row's ranks are brought to the splits by one permutation, one
//! comparison asks all splits, and one selection says for each which split comes next. Permuting that by itself doubles how far it leads,
//! so that four permutations pass sixteen levels. It takes as long for any row and for trees of any shape, and no address waits for a
//! comparison. Only processors with permutations of bytes can do that (AVX-512 VBMI).

#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;

use super::leaves::{Leaves, Sum};
use super::nodes::{Nodes, Tree};
use super::ranks::Ranks;

/// Splits of a tree and columns of ranks: bytes of a register.
const MOST: usize = 64;
/// Permutations that there is code for, which has no loop then: fewer are never needed, more do no harm.
const DOUBLINGS: std::ops::RangeInclusive<u32> = 3..=6;

/// Bytes of a register, aligned as it is loaded.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Register([u8; MOST]);

/// One tree; a byte for each of its splits.
struct Splits {
    column: Register,
    rank: Register,
    /// The split that comes next; itself if that is a leaf.
    left: Register,
    right: Register,
}

/// A bit for each split of a tree that has a leaf on its left, on its right. Not beside the registers, which they would tear apart.
#[derive(Clone, Copy, Default)]
struct Ends {
    left: u64,
    right: u64,
}

/// The trees of a step.
pub(super) struct Jump {
    splits: Vec<Splits>,
    ends: Vec<Ends>,
    /// Permutations that pass the deepest tree.
    doublings: u32,
}

/// Whether the processor can do it.
fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Jump {
    /// None where the processor cannot do it, or where splits, columns or ranks are too many.
    pub fn new(trees: &[Tree], nodes: Nodes<'_>, ranks: &Ranks, leaves: &Leaves) -> Option<Jump> {
        if is_available() { Jump::pack(trees, nodes, ranks, leaves) } else { None }
    }

    fn pack(trees: &[Tree], nodes: Nodes<'_>, ranks: &Ranks, leaves: &Leaves) -> Option<Jump> {
        if leaves.most() > MOST + 1 || ranks.columns() > MOST || ranks.greatest() > usize::from(u8::MAX) {
            return None;
        }
        // A path of d splits has d - 1 steps between them.
        let steps = trees.iter().map(|tree| tree.depth).max()?.saturating_sub(1);
        let doublings = (steps + 1).next_power_of_two().ilog2().max(*DOUBLINGS.start());
        let mut jump =
            Jump { splits: Vec::with_capacity(trees.len()), ends: Vec::with_capacity(trees.len()), doublings };
        for range in leaves.ranges(trees) {
            let zero = Register([0; MOST]);
            let mut splits = Splits { column: zero, rank: zero, left: zero, right: zero };
            let mut ends = Ends::default();
            for node in range.clone().filter(|node| !nodes.nodes[*node].is_leaf()) {
                let split = nodes.nodes[node];
                let number = |node: usize| node - range.start - leaves.number(node);
                let own = number(node);
                let (column, rank) = ranks.of(split)?;
                (splits.column.0[own], splits.rank.0[own]) = (column as u8, rank as u8);
                let sides = [
                    (&mut splits.left, &mut ends.left, split.child as usize),
                    (&mut splits.right, &mut ends.right, split.child as usize + 1),
                ];
                for (next, ends, child) in sides {
                    let is_leaf = nodes.nodes[child].is_leaf();
                    next.0[own] = if is_leaf { own } else { number(child) } as u8;
                    *ends |= u64::from(is_leaf) << own;
                }
            }
            jump.splits.push(splits);
            jump.ends.push(ends);
        }
        Some(jump)
    }

    /// The ranks of one row, column after column.
    pub fn fill(&self, ranks: &Ranks, row: &[f64]) -> Register {
        let mut register = Register([0; MOST]);
        ranks.rank::<1>(1, |_, feature| row[feature], |_, column, rank| register.0[column] = rank as u8);
        register
    }

    /// Adds the leaves that the row reaches.
    pub fn add<S: Sum>(&self, leaves: &Leaves, ranks: &Register, sums: &mut [S]) {
        if let [only] = sums {
            // Handed on, and so kept out of memory: each addition waits for the one before it.
            *only = self.find(ranks, *only, |mut sum, tree, leaf| {
                sum.add(leaves.only_value(tree, leaf));
                sum
            });
        } else {
            self.find(ranks, (), |(), tree, leaf| leaves.add(tree, leaf, sums));
        }
    }

    /// Hands on what `give` made of each tree and its leaf, tree after tree.
    fn find<A>(&self, ranks: &Register, start: A, give: impl FnMut(A, usize, usize) -> A) -> A {
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: the processor has what the functions were compiled for.
            unsafe {
                return match self.doublings {
                    3 => self.find_with_avx512::<3, A>(ranks, start, give),
                    4 => self.find_with_avx512::<4, A>(ranks, start, give),
                    5 => self.find_with_avx512::<5, A>(ranks, start, give),
                    _ => self.find_with_avx512::<6, A>(ranks, start, give),
                };
            }
        }
        self.find_step_by_step(ranks, start, give)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512bw,avx512vbmi,popcnt,bmi1,bmi2")]
    fn find_with_avx512<const DOUBLINGS: u32, A>(
        &self,
        ranks: &Register,
        start: A,
        mut give: impl FnMut(A, usize, usize) -> A,
    ) -> A {
        use std::arch::x86_64::*;
        // SAFETY: a register's bytes are 64, aligned.
        let load = |register: &Register| unsafe { _mm512_load_si512(register.0.as_ptr().cast()) };
        let ranks = load(ranks);
        let mut made = start;
        for (tree, (splits, ends)) in self.splits.iter().zip(&self.ends).enumerate() {
            let own = _mm512_permutexvar_epi8(load(&splits.column), ranks);
            let above = _mm512_cmpgt_epu8_mask(own, load(&splits.rank));
            let mut next = _mm512_mask_blend_epi8(above, load(&splits.left), load(&splits.right));
            for _ in 0..DOUBLINGS {
                next = _mm512_permutexvar_epi8(next, next);
            }
            let last = _mm_cvtsi128_si32(_mm512_castsi512_si128(next)) as usize % MOST;
            made = give(made, tree, ends.leaf(last, above >> last & 1));
        }
        made
    }

    /// The same step by step: what the other way is compared with.
    fn find_step_by_step<A>(&self, ranks: &Register, start: A, mut give: impl FnMut(A, usize, usize) -> A) -> A {
        let mut made = start;
        for (tree, (splits, ends)) in self.splits.iter().zip(&self.ends).enumerate() {
            let right = |at: usize| ranks.0[usize::from(splits.column.0[at])] > splits.rank.0[at];
            let mut last = 0;
            for _ in 0..1_u32 << self.doublings {
                last = usize::from(if right(last) { splits.right.0[last] } else { splits.left.0[last] });
            }
            made = give(made, tree, ends.leaf(last, u64::from(right(last))));
        }
        made
    }
}

impl Ends {
    /// The number of the leaf on the right (1) or the left (0) of the last split: as many as lie before it, level after level.
    #[inline(always)]
    fn leaf(self, last: usize, side: u64) -> usize {
        let before = (1 << last) - 1;
        let leaves = (self.left & before).count_ones() + (self.right & before).count_ones();
        leaves as usize + (side & (self.left >> last)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trees whose splits point anywhere behind themselves, and rows of any ranks.
    #[test]
    fn jumps_end_where_steps_end() {
        if !is_available() {
            eprintln!("this processor has no permutations of bytes: nothing was compared");
            return;
        }
        let mut seed = 7_u64;
        let mut random = move |bound: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % bound
        };
        for doublings in DOUBLINGS {
            let (splits, ends) = (0..300)
                .map(|_| {
                    let mut bytes = || Register(std::array::from_fn(|_| random(256) as u8));
                    let (column, rank) = (bytes(), bytes());
                    let mut next = || Register(std::array::from_fn(|own| (own + random(MOST - own).min(3)) as u8));
                    let (left, right) = (next(), next());
                    let mut ends = || random(1 << 31) as u64 | (random(1 << 31) as u64) << 33;
                    let ends = Ends { left: ends(), right: ends() };
                    let column = Register(column.0.map(|column| column % MOST as u8));
                    (Splits { column, rank, left, right }, ends)
                })
                .unzip();
            let jump = Jump { splits, ends, doublings };
            for round in 0..100_usize {
                let ranks = Register(std::array::from_fn(|column| (column * 89 + round * 57) as u8));
                let (mut jumped, mut stepped) = (Vec::new(), Vec::new());
                jump.find(&ranks, (), |(), tree, leaf| jumped.push((tree, leaf)));
                jump.find_step_by_step(&ranks, (), |(), tree, leaf| stepped.push((tree, leaf)));
                assert_eq!(jumped, stepped);
            }
        }
    }
}
