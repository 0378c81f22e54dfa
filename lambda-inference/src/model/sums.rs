//! The steps of the kind `trees`: adding up the leaves that rows reach, by the quickest way that there is for them.

use super::fast::{Fast, Lanes};
use super::nodes::{Conversion, Node};
use super::steps::{CONVERSION, Kind, Parts, SINGLE_SUM, SINGLE_VALUES, Step};

/// What one scorer keeps for a step from row to row.
#[derive(Default)]
pub(super) struct Memory {
    /// Values of a block as they are compared.
    single: Vec<f32>,
    double: Vec<f64>,
    single_lanes: Lanes<f32>,
    double_lanes: Lanes<f64>,
}

/// Quicker ways to the sums than the plain walk, as far as the step's trees have them.
pub(super) struct Ways {
    walk: Option<Fast>,
}

impl Step {
    /// Makes the quicker ways once so many rows have paid for it: the trees are packed about as quickly as a plain walk
    /// visits their nodes.
    pub fn prepare(&self, parts: Parts<'_>, rows: u64) {
        if self.kind == Kind::Trees && rows * self.trees.len() as u64 >= self.nodes.len() as u64 {
            self.ways.get_or_init(|| Ways { walk: self.walk(parts) });
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
        let Some(fast) = self.ways.get().and_then(|ways| ways.walk.as_ref()) else {
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

/// The numbers of a step of trees.
struct Sums<'a> {
    base: &'a [f64],
    leaves: &'a [f64],
}
