//! The steps of the kind `trees`: adding up the leaves that rows reach, by the quickest way that there is for them.

use super::blend::{Blend, Lane, Work};
use super::fast::{Fast, Keys, Split, Walk};
use super::jump::Jump;
use super::leaves::{Leaves, Sum};
use super::nodes::{Conversion, Node};
use super::ranks::Ranks;
use super::steps::{CONVERSION, Kind, Parts, SINGLE_SUM, SINGLE_VALUES, Step};

/// What one scorer keeps for a step from row to row.
#[derive(Default)]
pub(super) struct Memory {
    single: Keys<u32>,
    double: Keys<u64>,
    bytes: Work<i8, BYTES>,
    words: Work<i16, WORDS>,
}

/// Rows of a block as bytes or words: twice what the widest processors compare at once.
const BYTES: usize = 128;
const WORDS: usize = 64;
/// Most splits, for each that a walk passes, that are asked all at once.
const SPLITS_AS_BYTES: usize = 32;
const SPLITS_AS_WORDS: usize = 8;

/// Quicker ways to the sums than the plain walk, as far as the step's trees have them.
pub(super) struct Ways {
    walk: Option<Fast>,
    ranked: Option<Ranked>,
}

/// Trees over ranks.
struct Ranked {
    ranks: Ranks,
    leaves: Leaves,
    /// For one row.
    jump: Option<Jump>,
    /// For blocks.
    blend: Option<Choices>,
}

enum Choices {
    Bytes(Blend<i8, BYTES>),
    Words(Blend<i16, WORDS>),
}

impl Step {
    /// Makes the quicker ways once so many rows have paid for it: the trees are packed about as quickly as a plain walk
    /// visits their nodes.
    pub fn prepare(&self, parts: Parts<'_>, rows: u64) {
        if self.kind == Kind::Trees && rows * self.trees.len() as u64 >= self.nodes.len() as u64 {
            self.ways.get_or_init(|| Ways { walk: self.walk(parts), ranked: self.ranked(parts) });
        }
    }

    fn walk(&self, parts: Parts<'_>) -> Option<Fast> {
        let trees = &parts.trees[self.trees.clone()];
        // Side by side every walk goes as deep as its tree, alone only as far as its leaf, at about six times the price. On
        // average that is at least the logarithm of the leaves. One tree with few splits on its way has nothing beside it.
        let ends = trees.iter().skip(1).map(|tree| tree.root as usize).chain([self.nodes.end]);
        let leaves = trees.iter().zip(ends).map(|(tree, end)| (end - tree.root as usize).div_ceil(2));
        let alone: u64 = leaves.map(|leaves| u64::from(leaves.ilog2())).sum();
        let together: u64 = trees.iter().map(|tree| u64::from(tree.depth)).sum();
        let worth = if trees.len() > 1 { together <= 6 * alone } else { (5..=6 * alone).contains(&together) };
        let (nodes, outputs) = (self.nodes(parts), self.output.len());
        worth.then(|| Fast::new(self.conversion(), trees, nodes, self.nodes.start, outputs, self.leaf_values(parts)))?
    }

    fn ranked(&self, parts: Parts<'_>) -> Option<Ranked> {
        let (trees, nodes, outputs) = (&parts.trees[self.trees.clone()], self.nodes(parts), self.output.len());
        let rows = self.leaf_values(parts);
        let ranks = Ranks::new(nodes, self.input.len(), self.conversion())?;
        let leaves = Leaves::new(trees, nodes, self.nodes.start, outputs, rows)?;
        // What a walk passes is the trees' depths; asking splits costs the less the more there are in a register.
        let (splits, depth) = (nodes.len() / 2, trees.iter().map(|tree| tree.depth as usize).sum::<usize>());
        let blend = match Blend::new(trees, parts.nodes, &ranks, &leaves) {
            Some(bytes) => (splits <= SPLITS_AS_BYTES * depth).then_some(Choices::Bytes(bytes)),
            None if splits <= SPLITS_AS_WORDS * depth => {
                Blend::new(trees, parts.nodes, &ranks, &leaves).map(Choices::Words)
            }
            None => None,
        };
        // Ranking a value takes about as long as two steps of a walk.
        let worth = depth > 2 * ranks.columns();
        let jump = if worth { Jump::new(trees, parts.nodes, &ranks, &leaves) } else { None };
        (jump.is_some() || blend.is_some()).then_some(Ranked { ranks, leaves, jump, blend })
    }

    /// Whether sums are kept in single precision.
    fn is_single(&self) -> bool {
        self.argument & SINGLE_VALUES != 0 && self.argument & SINGLE_SUM != 0
    }

    /// The nodes of the step's trees.
    pub fn nodes<'a>(&self, parts: Parts<'a>) -> &'a [Node] {
        &parts.nodes.nodes[self.nodes.clone()]
    }

    pub fn conversion(&self) -> Conversion {
        match self.argument & CONVERSION {
            0 => Conversion::Double,
            1 => Conversion::Single,
            _ => Conversion::TinyIsZero,
        }
    }

    /// The rows of values that leaves refer to, if they do.
    fn leaf_values<'a>(&self, parts: Parts<'a>) -> Option<&'a [f64]> {
        (self.argument & SINGLE_VALUES == 0).then_some(&parts.numbers[self.numbers.clone()][self.output.len()..])
    }

    /// Where the sums begin.
    fn base<'a>(&self, parts: Parts<'a>) -> &'a [f64] {
        &parts.numbers[self.numbers.clone()][..self.output.len()]
    }

    /// Adds up the leaves that the row reaches, in the order of the trees.
    pub fn sum_trees(&self, parts: Parts<'_>, row: &[f64], output: &mut [f64], memory: &mut Memory) {
        match self.is_single() {
            true => self.sum_row::<f32>(parts, row, output, memory),
            false => self.sum_row::<f64>(parts, row, output, memory),
        }
    }

    fn sum_row<S: Sum>(&self, parts: Parts<'_>, row: &[f64], output: &mut [f64], memory: &mut Memory) {
        let mut sums: Vec<S> = self.base(parts).iter().map(|base| S::from_double(*base)).collect();
        match self.ways.get() {
            Some(Ways { ranked: Some(Ranked { ranks, leaves, jump: Some(jump), .. }), .. }) => {
                jump.add(leaves, &jump.fill(ranks, row), &mut sums);
            }
            Some(Ways { walk: Some(Fast::Single(walk)), .. }) => walk.add_row(row, &mut memory.single, &mut sums),
            Some(Ways { walk: Some(Fast::Double(walk)), .. }) => walk.add_row(row, &mut memory.double, &mut sums),
            _ => self.walk_plainly(parts, row, &mut sums),
        }
        output.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.to_double());
    }

    /// The same for a block of rows.
    pub fn sum_block(&self, parts: Parts<'_>, slots: &mut [f64], stride: usize, memory: &mut Memory) {
        match self.is_single() {
            true => self.sum_rows::<f32>(parts, slots, stride, memory),
            false => self.sum_rows::<f64>(parts, slots, stride, memory),
        }
    }

    fn sum_rows<S: Sum>(&self, parts: Parts<'_>, slots: &mut [f64], stride: usize, memory: &mut Memory) {
        // Few rows would leave most of a register empty.
        let many = slots.len() / stride >= BYTES / 4;
        match self.ways.get() {
            Some(Ways { ranked: Some(ranked @ Ranked { blend: Some(blend), .. }), .. }) if many => match blend {
                Choices::Bytes(blend) => {
                    self.blend::<_, S, _>(parts, ranked, blend, slots, stride, &mut memory.bytes);
                }
                Choices::Words(blend) => {
                    self.blend::<_, S, _>(parts, ranked, blend, slots, stride, &mut memory.words);
                }
            },
            Some(Ways { walk: Some(walk), ranked }) if ranked.as_ref().is_none_or(|ranked| ranked.jump.is_none()) => {
                match walk {
                    Fast::Single(walk) => self.walk_block::<_, S>(parts, walk, slots, stride, &mut memory.single),
                    Fast::Double(walk) => self.walk_block::<_, S>(parts, walk, slots, stride, &mut memory.double),
                }
            }
            _ => {
                for slots in slots.chunks_exact_mut(stride) {
                    let (written, rest) = slots.split_at_mut(self.output.start);
                    let output = &mut rest[..self.output.len()];
                    self.sum_row::<S>(parts, &written[self.input.clone()], output, memory);
                }
            }
        }
    }

    /// The same by walks of several rows side by side.
    fn walk_block<T: Split, S: Sum>(
        &self,
        parts: Parts<'_>,
        walk: &Walk<T>,
        slots: &mut [f64],
        stride: usize,
        keys: &mut Keys<T::Key>,
    ) {
        let (base, count) = (self.base(parts), slots.len() / stride);
        let base = base.iter().map(|base| S::from_double(*base));
        let mut sums: Vec<S> = base.cycle().take(count * self.output.len()).collect();
        walk.add_block(count, |row| &slots[row * stride..][self.input.clone()], keys, &mut sums);
        for (slots, sums) in slots.chunks_exact_mut(stride).zip(sums.chunks_exact(self.output.len())) {
            slots[self.output.clone()].iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.to_double());
        }
    }

    /// The same by asking every split of all rows.
    fn blend<T: Lane, S: Sum, const N: usize>(
        &self,
        parts: Parts<'_>,
        ranked: &Ranked,
        blend: &Blend<T, N>,
        slots: &mut [f64],
        stride: usize,
        work: &mut Work<T, N>,
    ) {
        let base = self.base(parts);
        let mut sums = vec![[S::default(); N]; base.len()];
        for slots in slots.chunks_mut(stride * N) {
            let count = slots.len() / stride;
            let value = |row: usize, feature: usize| slots[row * stride + self.input.start + feature];
            blend.fill(&ranked.ranks, count, value, work);
            sums.iter_mut().zip(base).for_each(|(sums, base)| *sums = [S::from_double(*base); N]);
            blend.add(&ranked.leaves, work, &mut sums);
            for (row, slots) in slots.chunks_exact_mut(stride).enumerate() {
                slots[self.output.clone()].iter_mut().zip(&sums).for_each(|(out, sums)| *out = sums[row].to_double());
            }
        }
    }

    /// The same tree after tree, split after split, as the file has them.
    fn walk_plainly<S: Sum>(&self, parts: Parts<'_>, row: &[f64], sums: &mut [S]) {
        let (outputs, conversion) = (sums.len(), self.conversion());
        for (index, tree) in parts.trees[self.trees.clone()].iter().enumerate() {
            let leaf = parts.nodes.nodes[parts.nodes.leaf(tree.root, conversion, row)];
            match self.leaf_values(parts) {
                None => sums[index % outputs].add(leaf.threshold),
                Some(rows) => {
                    let values = &rows[leaf.child as usize * outputs..][..outputs];
                    sums.iter_mut().zip(values).for_each(|(sum, value)| sum.add(*value));
                }
            }
        }
    }
}
