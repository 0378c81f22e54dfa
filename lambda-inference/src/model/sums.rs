//! The steps of the kind `trees`: adding up the leaves that rows reach, by the quickest way that there is for them.

use super::blend::{Blend, Lane, Work};
use super::fast::{Fast, Lanes};
use super::jump::Jump;
use super::leaves::{Leaves, Sum};
use super::nodes::{Conversion, Node};
use super::ranks::Ranks;
use super::steps::{CONVERSION, Kind, Parts, SINGLE_SUM, SINGLE_VALUES, Step};

/// What one scorer keeps for a step from row to row.
#[derive(Default)]
pub(super) struct Memory {
    /// Values of a block as they are compared.
    single: Vec<f32>,
    double: Vec<f64>,
    single_lanes: Lanes<f32>,
    double_lanes: Lanes<f64>,
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
        if worth { Fast::new(self.conversion(), trees, parts.nodes, self.nodes.end) } else { None }
    }

    fn ranked(&self, parts: Parts<'_>) -> Option<Ranked> {
        let (trees, nodes, outputs) = (&parts.trees[self.trees.clone()], self.nodes(parts), self.output.len());
        let rows = &parts.numbers[self.numbers.clone()][outputs..];
        let rows = (self.argument & SINGLE_VALUES == 0).then_some(rows);
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

    fn ready_ranked(&self) -> Option<&Ranked> {
        self.ways.get()?.ranked.as_ref()
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

    /// Adds up the leaves that the row reaches, in the order of the trees.
    pub fn sum_trees(&self, parts: Parts<'_>, row: &[f64], output: &mut [f64], memory: &mut Memory) {
        let Sums { base, leaves } = self.sums(parts, output.len());
        if let Some(ranked) = self.ready_ranked()
            && let Some(jump) = &ranked.jump
        {
            return match self.is_single() {
                true => ranked.jump::<f32>(jump, row, base, output),
                false => ranked.jump::<f64>(jump, row, base, output),
            };
        }
        output.copy_from_slice(base);
        let mut tree = 0;
        let mut add = |node: usize| {
            self.add(parts.nodes.nodes[node], tree, leaves, output);
            tree += 1;
        };
        match self.ways.get().and_then(|ways| ways.walk.as_ref()) {
            None => self.plain_walk(parts, row, self.conversion(), add),
            Some(Fast::Single(walk)) => {
                memory.single.clear();
                memory.single.extend(row.iter().map(|value| *value as f32));
                walk.row(&memory.single, &mut add);
            }
            Some(Fast::Double(walk)) => {
                memory.double.clear();
                memory.double.extend(row.iter().map(|value| self.conversion().apply(*value)));
                walk.row(&memory.double, &mut add);
            }
        }
    }

    /// The same for a block of rows.
    pub fn sum_block(&self, parts: Parts<'_>, slots: &mut [f64], stride: usize, memory: &mut Memory) {
        let (width, outputs, conversion) = (self.input.len(), self.output.len(), self.conversion());
        // Few rows would leave most of a register empty.
        let many = slots.len() / stride >= BYTES / 4;
        if let Some(ranked) = self.ready_ranked()
            && let Some(blend) = ranked.blend.as_ref().filter(|_| many)
        {
            return match (blend, self.is_single()) {
                (Choices::Bytes(blend), false) => {
                    self.blend::<_, f64, _>(parts, ranked, blend, slots, stride, &mut memory.bytes)
                }
                (Choices::Bytes(blend), true) => {
                    self.blend::<_, f32, _>(parts, ranked, blend, slots, stride, &mut memory.bytes)
                }
                (Choices::Words(blend), false) => {
                    self.blend::<_, f64, _>(parts, ranked, blend, slots, stride, &mut memory.words)
                }
                (Choices::Words(blend), true) => {
                    self.blend::<_, f32, _>(parts, ranked, blend, slots, stride, &mut memory.words)
                }
            };
        }
        let walk = self.ways.get().and_then(|ways| ways.walk.as_ref());
        let jumps = self.ready_ranked().is_some_and(|ranked| ranked.jump.is_some());
        let Some(fast) = walk.filter(|_| !jumps) else {
            for slots in slots.chunks_exact_mut(stride) {
                let (written, rest) = slots.split_at_mut(self.output.start);
                self.sum_trees(parts, &written[self.input.clone()], &mut rest[..outputs], memory);
            }
            return;
        };
        let Sums { base, leaves } = self.sums(parts, outputs);
        memory.single.clear();
        memory.double.clear();
        for slots in slots.chunks_exact_mut(stride) {
            slots[self.output.clone()].copy_from_slice(base);
            let row = &slots[self.input.clone()];
            match fast {
                Fast::Single(_) => memory.single.extend(row.iter().map(|value| *value as f32)),
                Fast::Double(_) => memory.double.extend(row.iter().map(|value| conversion.apply(*value))),
            }
        }
        let add = |tree: usize, row: usize, node: usize| {
            let output = &mut slots[row * stride..][self.output.clone()];
            self.add(parts.nodes.nodes[node], tree, leaves, output);
        };
        match fast {
            Fast::Single(walk) => walk.block(&memory.single, width, &mut memory.single_lanes, add),
            Fast::Double(walk) => walk.block(&memory.double, width, &mut memory.double_lanes, add),
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
        let base = &parts.numbers[self.numbers.clone()][..self.output.len()];
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

    /// Where the sums begin, and the rows of leaf values.
    fn sums<'a>(&self, parts: Parts<'a>, outputs: usize) -> Sums<'a> {
        let (base, leaves) = parts.numbers[self.numbers.clone()].split_at(outputs);
        Sums { base, leaves }
    }

    /// Gives the leaf of each tree, one after the other.
    fn plain_walk(&self, parts: Parts<'_>, row: &[f64], conversion: Conversion, leaf: impl FnMut(usize)) {
        let trees = parts.trees[self.trees.clone()].iter();
        trees.map(|tree| parts.nodes.leaf(tree.root, conversion, row)).for_each(leaf);
    }

    /// Adds the leaf of one tree to the sums.
    fn add(&self, leaf: Node, tree: usize, leaves: &[f64], output: &mut [f64]) {
        let width = output.len();
        if self.argument & SINGLE_VALUES == 0 {
            let values = &leaves[width * leaf.child as usize..][..width];
            output.iter_mut().zip(values).for_each(|(out, value)| *out += value);
            return;
        }
        let out = &mut output[if width == 1 { 0 } else { tree % width }];
        if self.argument & SINGLE_SUM != 0 {
            *out = f64::from(*out as f32 + leaf.threshold as f32);
        } else {
            *out += leaf.threshold;
        }
    }
}

impl Ranked {
    /// Adds up the leaves that a row reaches.
    fn jump<S: Sum>(&self, jump: &Jump, row: &[f64], base: &[f64], output: &mut [f64]) {
        let mut sums: Vec<S> = base.iter().map(|base| S::from_double(*base)).collect();
        jump.add(&self.leaves, &jump.fill(&self.ranks, row), &mut sums);
        output.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.to_double());
    }
}

/// The numbers of a step of trees.
struct Sums<'a> {
    base: &'a [f64],
    leaves: &'a [f64],
}
