//! Trees as they stand in the file: what a split asks, why every walk ends, and the walk.

use std::hint::select_unpredictable;
use std::ops::Range;

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
    let right = Right::new(features, rows);
    // Breadth first, children lie side by side behind all nodes known so far, so that every node has exactly one parent, and a level
    // ends where the first child of its first split was put. Whether a split or a leaf comes next nobody can guess: nothing is jumped over.
    let (mut index, mut next, mut level_end, mut depth) = (start, start + 1, start + 1, 0);
    let (mut wrong, mut flags) = (false, 0);
    while index < next {
        let Some(node) = all.nodes.get(index) else { break };
        let level_begins = index == level_end;
        depth += u32::from(level_begins);
        level_end = select_unpredictable(level_begins, next, level_end);
        wrong |= right.is_not(node, next);
        flags |= node.flags;
        next += 2 * usize::from(!node.is_leaf());
        index += 1;
    }
    if wrong || index < next {
        return refused(first_fault(all.nodes, start, &right));
    }
    if depth != tree.depth {
        return refused(format!("a tree is {depth} deep, its record says {}", tree.depth));
    }
    if flags & CATEGORIES != 0 {
        check_sets(all, start..index, next_set)?;
    }
    Ok(index)
}

/// What the nodes of a tree may be: first splits, then leaves.
struct Right([Bounds; 2]);

/// Bounds of a node's fields, as the bits of the file.
struct Bounds {
    flags: u16,
    features: usize,
    /// Rows of leaf values; of a split there is one left child that is right.
    children: usize,
    /// Bits of the threshold that count, and their greatest value.
    counting: u64,
    greatest: u64,
}

impl Right {
    fn new(features: usize, rows: Option<usize>) -> Right {
        const MAGNITUDE: u64 = u64::MAX >> 1;
        let split = Bounds {
            flags: KNOWN_FLAGS,
            features,
            children: 1,
            counting: MAGNITUDE,
            greatest: f64::INFINITY.to_bits(),
        };
        let leaf = Bounds { flags: LEAF, features: 1, children: 1, counting: MAGNITUDE, greatest: f64::MAX.to_bits() };
        let leaf = match rows {
            Some(children) => Bounds { children, counting: u64::MAX, greatest: 0, ..leaf },
            None => leaf,
        };
        Right([split, leaf])
    }

    /// Whether a node is not right, where `next` is the next one that no split before it has.
    fn is_not(&self, node: &Node, next: usize) -> bool {
        let bounds = &self.0[usize::from(node.is_leaf())];
        let first = select_unpredictable(node.is_leaf(), 0, next);
        let threshold = (node.threshold.to_bits() & bounds.counting > bounds.greatest) & !node.has_categories();
        (node.flags & !bounds.flags != 0)
            | (usize::from(node.feature) >= bounds.features)
            | ((node.child as usize).wrapping_sub(first) >= bounds.children)
            | threshold
    }
}

/// What is wrong with a tree that is not right.
fn first_fault(nodes: &[Node], start: usize, right: &Right) -> String {
    let mut next = start + 1;
    for (index, node) in nodes.iter().enumerate().skip(start) {
        let outside = !node.is_leaf() && next + 1 >= nodes.len();
        if outside || right.is_not(node, next) {
            return if node.flags & !KNOWN_FLAGS != 0 {
                format!("node {index} has unknown flags")
            } else if node.is_leaf() {
                format!("node {index} is no leaf of its tree")
            } else if usize::from(node.feature) >= right.0[0].features {
                format!("node {index} asks for a feature that does not exist")
            } else if !node.has_categories() && node.threshold.is_nan() {
                format!("node {index} has no threshold")
            } else {
                format!("the children of node {index} are not where they belong")
            };
        }
        next += 2 * usize::from(!node.is_leaf());
    }
    "the last tree has no end".to_string()
}

/// How far a split's weight may be from the sum of its children's: XGBoost keeps them in single precision.
const COVER_TOLERANCE: f64 = 1e-3;

/// Checks the training weights of all nodes of a file, whose trees are right: above zero, and a split's the sum of its children's.
pub(super) fn check_covers(nodes: &[Node], covers: &[f64]) -> Result<(), ModelError> {
    if covers.len() != nodes.len() {
        return refused(format!("there are {} training weights for {} nodes", covers.len(), nodes.len()));
    }
    let is_wrong = |node: &Node, cover: f64| {
        let child = select_unpredictable(node.is_leaf(), 0, node.child as usize);
        let below = covers.get(child..child + 2).map_or(0.0, |children| children[0] + children[1]);
        let whole = (below - cover).abs() <= COVER_TOLERANCE * cover;
        // Finite and above zero, asked in one comparison.
        let sound = (1..f64::INFINITY.to_bits()).contains(&cover.to_bits());
        !sound | (!whole & !node.is_leaf())
    };
    // As above, leaves are not told apart by a jump.
    if nodes.iter().zip(covers).fold(false, |wrong, (node, cover)| wrong | is_wrong(node, *cover)) {
        let index = nodes.iter().zip(covers).position(|(node, cover)| is_wrong(node, *cover)).unwrap_or_default();
        return refused(format!("the training weight of node {index} is none, or not that of its children"));
    }
    Ok(())
}

/// Checks the sets of a tree's splits by categories, which follow each other in the order of the nodes.
fn check_sets(all: Nodes<'_>, tree: Range<usize>, next_set: &mut usize) -> Result<(), ModelError> {
    for index in tree.filter(|index| all.nodes[*index].has_categories()) {
        let (first, words) = all.nodes[index].set();
        if first != *next_set || words > all.bitsets.len() - first {
            return refused(format!("the set of node {index} does not follow the one before it"));
        }
        *next_set += words;
    }
    Ok(())
}
