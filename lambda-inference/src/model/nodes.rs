//! Trees as they stand in the file: what a split asks, why every walk ends, and the walk.

use bytemuck::{Pod, Zeroable};

use super::{ModelError, refused};

const LEAF: u16 = 1;
const MISSING_GOES_LEFT: u16 = 2;
const CATEGORIES: u16 = 4;
const ZERO_IS_MISSING: u16 = 8;
const KNOWN_FLAGS: u16 = LEAF | MISSING_GOES_LEFT | CATEGORIES | ZERO_IS_MISSING;

/// Where a tree begins and how many splits its longest path has.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Tree {
    pub root: u32,
    pub depth: u32,
}

/// One node, as it stands in the file.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Node {
    /// Of a split by order the threshold; of a split by categories where its set lies; of a leaf its value, if it has one alone.
    pub threshold: f64,
    pub feature: u16,
    pub flags: u16,
    /// Of a split the left child, of a leaf its row of values.
    pub child: u32,
}

/// How the values of a row are made comparable.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Conversion {
    /// As they are.
    Double,
    /// Rounded to single precision.
    Single,
    /// What LightGBM takes for zero becomes zero.
    TinyIsZero,
}

impl Conversion {
    /// A value as it is compared.
    pub fn apply(self, value: f64) -> f64 {
        /// LightGBM's bound, a constant in single precision.
        const TINY: f64 = 1e-35_f32 as f64;
        match self {
            Conversion::Double => value,
            Conversion::Single => f64::from(value as f32),
            Conversion::TinyIsZero if value.abs() <= TINY => 0.0,
            Conversion::TinyIsZero => value,
        }
    }
}

/// All nodes of a file, and the sets that they refer to.
#[derive(Clone, Copy)]
pub(super) struct Nodes<'a> {
    pub nodes: &'a [Node],
    pub bitsets: &'a [u32],
}

impl Node {
    pub fn is_leaf(self) -> bool {
        self.flags & LEAF != 0
    }

    /// Whether it is a split by order that takes only what is missing for missing.
    pub fn is_plain(self) -> bool {
        self.flags & (LEAF | CATEGORIES | ZERO_IS_MISSING) == 0
    }

    pub fn has_categories(self) -> bool {
        self.flags & CATEGORIES != 0
    }

    pub fn zero_is_missing(self) -> bool {
        self.flags & ZERO_IS_MISSING != 0
    }

    pub fn missing_goes_left(self) -> bool {
        self.flags & MISSING_GOES_LEFT != 0
    }

    /// The words of a split's set: the first one and how many.
    fn set(self) -> (usize, usize) {
        let bits = self.threshold.to_bits();
        ((bits as u32) as usize, (bits >> 32) as usize)
    }
}

impl Nodes<'_> {
    /// Index of the leaf that a row reaches. The checks of the file are why this ends and stays inside.
    pub fn leaf(self, root: u32, conversion: Conversion, row: &[f64]) -> usize {
        let mut index = root as usize;
        loop {
            let node = &self.nodes[index];
            if node.is_leaf() {
                return index;
            }
            let value = conversion.apply(row[usize::from(node.feature)]);
            let left = self.goes_left(node, conversion, value);
            index = node.child as usize + usize::from(!left);
        }
    }

    /// The greatest category that a split by categories can have in its set; none for other splits, and for an empty set.
    pub fn categories(self, node: &Node) -> Option<usize> {
        let words = if node.flags & CATEGORIES != 0 { node.set().1 } else { 0 };
        (32 * words).checked_sub(1)
    }

    /// Whether a value, as it is compared, goes left at a split.
    pub fn goes_left(self, node: &Node, conversion: Conversion, value: f64) -> bool {
        if value.is_nan() || (node.flags & ZERO_IS_MISSING != 0 && value == 0.0) {
            node.flags & MISSING_GOES_LEFT != 0
        } else if node.flags & CATEGORIES != 0 {
            // XGBoost takes every negative number for no category, the others round towards zero first.
            (conversion != Conversion::Single || value >= 0.0) && self.contains(node.set(), value as i64)
        } else {
            value <= node.threshold
        }
    }

    fn contains(self, (start, words): (usize, usize), category: i64) -> bool {
        let Ok(category) = usize::try_from(category) else { return false };
        category / 32 < words && self.bitsets[start + category / 32] >> (category % 32) & 1 == 1
    }
}

/// Checks one tree, whose nodes begin at `start`, and gives the index after its last node: every index stays inside, and the nodes
/// are one tree whose children lie behind their parents, so that a walk ends.
///
/// `rows` is the number of rows of leaf values, or none where a leaf holds its one value itself. `next_set` is where the next set
/// has to begin: sets follow each other in the order of the nodes.
pub(super) fn check_tree(
    all: Nodes<'_>,
    tree: Tree,
    start: usize,
    features: usize,
    rows: Option<usize>,
    next_set: &mut usize,
) -> Result<usize, ModelError> {
    if tree.root as usize != start || start >= all.nodes.len() {
        return refused("a tree's root does not follow the tree before it");
    }
    // Children lie side by side behind all nodes known so far: one pass from the front knows how deep every node is.
    let mut depths = vec![0_u32];
    let mut greatest = 0;
    let mut index = start;
    while index < start + depths.len() {
        let node = all.nodes[index];
        let own = depths[index - start];
        if node.flags & !KNOWN_FLAGS != 0 {
            return refused(format!("node {index} has unknown flags"));
        }
        if node.is_leaf() {
            check_leaf(node, index, rows)?;
            greatest = greatest.max(own);
        } else {
            if usize::from(node.feature) >= features {
                return refused(format!("node {index} asks for a feature that does not exist"));
            }
            check_split(all, node, index, next_set)?;
            // Breadth first, so that every node has exactly one parent.
            if node.child as usize != start + depths.len() || node.child as usize + 1 >= all.nodes.len() {
                return refused(format!("the children of node {index} are not where they belong"));
            }
            depths.extend([own + 1; 2]);
        }
        index += 1;
    }
    if greatest != tree.depth {
        return refused(format!("a tree is {greatest} deep, its record says {}", tree.depth));
    }
    Ok(index)
}

/// How far a split's weight may be from the sum of its children's: XGBoost keeps them in single precision.
const COVER_TOLERANCE: f64 = 1e-3;

/// Checks the training weights of all nodes of a file, whose trees are right: above zero, and a split's the sum of its children's.
pub(super) fn check_covers(nodes: &[Node], covers: &[f64]) -> Result<(), ModelError> {
    if covers.len() != nodes.len() {
        return refused(format!("there are {} training weights for {} nodes", covers.len(), nodes.len()));
    }
    for (index, (node, cover)) in nodes.iter().zip(covers).enumerate() {
        let sound = *cover > 0.0 && cover.is_finite();
        let whole = node.is_leaf() || {
            let below = covers[node.child as usize] + covers[node.child as usize + 1];
            (below - cover).abs() <= COVER_TOLERANCE * cover
        };
        if !sound || !whole {
            return refused(format!("the training weight of node {index} is none, or not that of its children"));
        }
    }
    Ok(())
}

fn check_leaf(node: Node, index: usize, rows: Option<usize>) -> Result<(), ModelError> {
    let right = match rows {
        Some(rows) => node.threshold.to_bits() == 0 && (node.child as usize) < rows,
        None => node.threshold.is_finite() && node.child == 0,
    };
    if node.flags != LEAF || node.feature != 0 || !right {
        return refused(format!("node {index} is no leaf of its tree"));
    }
    Ok(())
}

fn check_split(all: Nodes<'_>, node: Node, index: usize, next_set: &mut usize) -> Result<(), ModelError> {
    if node.flags & CATEGORIES == 0 {
        return if node.threshold.is_nan() { refused(format!("node {index} has no threshold")) } else { Ok(()) };
    }
    let (first, words) = node.set();
    if first != *next_set || words > all.bitsets.len() - first {
        return refused(format!("the set of node {index} does not follow the one before it"));
    }
    *next_set += words;
    Ok(())
}
