//! The model file, format version 1 (see MODEL_FORMAT.md): checked once, then used without parsing.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"TABMODEL";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const TABLE_ENTRY: usize = 32;
/// Family 1: one decision tree of scikit-learn.
const DECISION_TREE: u32 = 1;
/// Kind and element size of every section, in the order in which they stand in the file.
const SECTIONS: [(u32, u32, &str); 8] = [
    (1, 1, "metadata"),
    (2, 1, "strings"),
    (3, 32, "features"),
    (4, 48, "model"),
    (5, 8, "classes"),
    (6, 8, "trees"),
    (7, 16, "nodes"),
    (8, 8, "leaves"),
];
const FEATURE: usize = 32;
const CLASS: usize = 8;
const TREE: usize = 8;
const NODE: usize = 16;
const LEAF_VALUE: usize = 8;
const LEAF: u16 = 1;
const MISSING_GOES_LEFT: u16 = 2;

/// Why a file is no model that this program can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelError(String);

impl fmt::Display for ModelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ModelError {}

fn refused<T>(reason: impl Into<String>) -> Result<T, ModelError> {
    Err(ModelError(reason.into()))
}

/// What kind of number a feature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureKind {
    /// Any number in the range.
    Number,
    /// A whole number in the range.
    Integer,
    /// 0 or 1.
    Flag,
}

/// A feature, for validating requests. Scoring never looks at the range.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// As in the training data.
    pub name: String,
    /// What its values are.
    pub kind: FeatureKind,
    /// Smallest value allowed, inclusive.
    pub minimum: f64,
    /// Greatest value allowed, inclusive.
    pub maximum: f64,
}

/// What the model says of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Label of the predicted class.
    pub class: i64,
    /// Probability of the positive class, in [0, 1].
    pub probability: f64,
}

/// A checked model file.
pub struct Model {
    bytes: Vec<u8>,
    digest: String,
    features: Vec<Feature>,
    classes: Vec<i64>,
    positive: usize,
    root: usize,
    metadata: Range<usize>,
    nodes: Range<usize>,
    leaves: Range<usize>,
}

impl Model {
    /// Checks a file's bytes: header, hash, section table, and every index that scoring will follow.
    ///
    /// # Errors
    /// The reason why the file is refused; nothing of a refused file is used.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Model, ModelError> {
        let sections = sections(&bytes)?;
        let [metadata, strings, features, model, classes, trees, nodes, leaves] = sections;
        let metadata_text = std::str::from_utf8(&bytes[metadata.clone()]);
        if !metadata_text.is_ok_and(|text| serde_json::from_str::<Map<String, Value>>(text).is_ok()) {
            return refused("the metadata is no JSON object");
        }

        if model.len() != 48 {
            return refused("there is not exactly one model record");
        }
        let field = |index: usize| u32_at(&bytes, model.start + 4 * index);
        let wide = |index: usize| u64_at(&bytes, model.start + 24 + 8 * index);
        let (family, feature_count, class_count, tree_count) = (field(0), field(1), field(2), field(3));
        let positive = field(4) as usize;
        if family != DECISION_TREE {
            return refused(format!("model family {family} is not known to this program"));
        }
        if field(5) != 0 || wide(2) != 0 {
            return refused("a reserved field of the model record is not zero");
        }
        let count = |section: &Range<usize>, size: usize| (section.len() / size) as u64;
        let expected = [
            ("features", u64::from(feature_count), count(&features, FEATURE)),
            ("classes", u64::from(class_count), count(&classes, CLASS)),
            ("trees", u64::from(tree_count), count(&trees, TREE)),
            ("nodes", wide(0), count(&nodes, NODE)),
            ("leaf values", wide(1).saturating_mul(u64::from(class_count)), count(&leaves, LEAF_VALUE)),
        ];
        for (what, said, found) in expected {
            if said != found {
                return refused(format!("the model record says {said} {what}, the section has {found}"));
            }
        }
        if tree_count != 1 {
            return refused(format!("a decision tree has one tree, not {tree_count}"));
        }
        if !(1..=1 << 16).contains(&feature_count) {
            return refused(format!("a model has 1 to 65536 features, not {feature_count}"));
        }
        let classes: Vec<i64> =
            bytes[classes].chunks_exact(CLASS).map(|label| u64_at(label, 0).cast_signed()).collect();
        let different: HashSet<&i64> = classes.iter().collect();
        if different.len() != classes.len() || positive >= classes.len() {
            return refused("the classes are not different ones with the positive one among them");
        }
        let features = read_features(&bytes[features], &bytes[strings])?;
        let root = u32_at(&bytes, trees.start) as usize;
        check_nodes(&bytes[nodes.clone()], features.len(), wide(1), root, u32_at(&bytes, trees.start + 4))?;
        let mut values = bytes[leaves.clone()].chunks_exact(LEAF_VALUE).map(|value| f64_at(value, 0));
        if let Some(value) = values.find(|value| !(0.0..=1.0).contains(value)) {
            return refused(format!("a leaf has probability {value}"));
        }
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        Ok(Model { bytes, digest, features, classes, positive, root, metadata, nodes, leaves })
    }

    /// SHA-256 of the whole file as `sha256:<64 hex digits>`: the model's identity.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The features, in the order of a row.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The class labels, in the library's order.
    pub fn classes(&self) -> &[i64] {
        &self.classes
    }

    /// Label of the positive class.
    pub fn positive_class(&self) -> i64 {
        self.classes[self.positive]
    }

    /// The metadata, JSON.
    pub fn metadata(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.metadata.clone()]).unwrap_or_default()
    }

    /// Predicts one row of as many values as there are features; NaN is a missing value.
    ///
    /// # Panics
    /// The row has another number of values than there are features.
    pub fn predict(&self, row: &[f64]) -> Prediction {
        let leaf = self.leaf(row);
        let probability = |class| self.leaf_value(leaf, class);
        // The first of the greatest, as numpy's argmax.
        let best = (1..self.classes.len())
            .fold(0, |best, class| if probability(class) > probability(best) { class } else { best });
        Prediction { class: self.classes[best], probability: probability(self.positive) }
    }

    /// The probability of every class, in the order of [`Model::classes`], for a row as in [`Model::predict`].
    ///
    /// # Panics
    /// The row has another number of values than there are features.
    pub fn probabilities(&self, row: &[f64]) -> impl Iterator<Item = f64> {
        let leaf = self.leaf(row);
        (0..self.classes.len()).map(move |class| self.leaf_value(leaf, class))
    }

    /// Index of the leaf that a row falls into. The checks of the file are why this walk ends and stays inside.
    fn leaf(&self, row: &[f64]) -> usize {
        assert_eq!(row.len(), self.features.len(), "a row has one value for each feature");
        let mut index = self.root;
        loop {
            let node = Node::at(&self.bytes, self.nodes.start + NODE * index);
            if node.is_leaf() {
                return node.child;
            }
            // scikit-learn keeps features in single precision and thresholds in double.
            let value = f64::from(row[node.feature] as f32);
            let left = if value.is_nan() { node.flags & MISSING_GOES_LEFT != 0 } else { value <= node.threshold };
            index = node.child + usize::from(!left);
        }
    }

    fn leaf_value(&self, leaf: usize, class: usize) -> f64 {
        f64_at(&self.bytes, self.leaves.start + LEAF_VALUE * (leaf * self.classes.len() + class))
    }
}

/// One node as it stands in the file.
struct Node {
    threshold: f64,
    feature: usize,
    flags: u16,
    /// Of a split the left child, of a leaf its row of values.
    child: usize,
}

impl Node {
    fn at(bytes: &[u8], at: usize) -> Node {
        Node {
            threshold: f64_at(bytes, at),
            feature: usize::from(u16_at(bytes, at + 8)),
            flags: u16_at(bytes, at + 10),
            child: u32_at(bytes, at + 12) as usize,
        }
    }

    fn is_leaf(&self) -> bool {
        self.flags & LEAF != 0
    }
}

/// Checks header and section table, and gives the place of every section.
fn sections(bytes: &[u8]) -> Result<[Range<usize>; 8], ModelError> {
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return refused("this is no model file: it does not begin with TABMODEL and a whole header");
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return refused(format!("the file has format version {version}, this program reads version {VERSION}"));
    }
    if u64_at(bytes, 16) != bytes.len() as u64 {
        return refused(format!(
            "the file has {} bytes, its header says {}: truncated?",
            bytes.len(),
            u64_at(bytes, 16)
        ));
    }
    if u64_at(bytes, 24) != 0 {
        return refused("a reserved field of the header is not zero");
    }
    if Sha256::digest(&bytes[HEADER..])[..] != bytes[32..64] {
        return refused("the file was changed: its content does not have the hash in its header");
    }
    if u32_at(bytes, 12) as usize != SECTIONS.len() {
        return refused(format!(
            "the file has {} sections, version {VERSION} has {}",
            u32_at(bytes, 12),
            SECTIONS.len()
        ));
    }
    let table = HEADER..HEADER + TABLE_ENTRY * SECTIONS.len();
    if bytes.len() < table.end {
        return refused("the section table is truncated");
    }
    let mut places: [Range<usize>; 8] = Default::default();
    let mut end = table.end;
    for (index, (kind, size, name)) in SECTIONS.into_iter().enumerate() {
        let entry = HEADER + TABLE_ENTRY * index;
        if u32_at(bytes, entry) != kind || u32_at(bytes, entry + 4) != size || u64_at(bytes, entry + 24) != 0 {
            return refused(format!("the entry of section {name} is not what version {VERSION} says"));
        }
        let (offset, length) = (u64_at(bytes, entry + 8), u64_at(bytes, entry + 16));
        let place = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        let Some((offset, length)) = place.filter(|(offset, length)| {
            offset.checked_add(*length).is_some_and(|end| end <= bytes.len()) && length % size as usize == 0
        }) else {
            return refused(format!("section {name} lies outside the file"));
        };
        if offset != end.next_multiple_of(8) || bytes[end..offset].iter().any(|byte| *byte != 0) {
            return refused(format!("section {name} does not follow the one before it"));
        }
        end = offset + length;
        places[index] = offset..end;
    }
    if end.next_multiple_of(8) != bytes.len() || bytes[end..].iter().any(|byte| *byte != 0) {
        return refused("there is something after the last section");
    }
    Ok(places)
}

fn read_features(records: &[u8], strings: &[u8]) -> Result<Vec<Feature>, ModelError> {
    let Ok(strings) = std::str::from_utf8(strings) else {
        return refused("the strings are not UTF-8");
    };
    let mut features = Vec::new();
    let mut names = HashSet::new();
    for record in records.chunks_exact(FEATURE) {
        let start = u32_at(record, 0) as usize;
        let name = start.checked_add(u32_at(record, 4) as usize).and_then(|end| strings.get(start..end));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return refused("a feature's name lies outside the strings or is empty");
        };
        if !names.insert(name) {
            return refused(format!("two features are named {name}"));
        }
        let kind = match u32_at(record, 8) {
            0 => FeatureKind::Number,
            1 => FeatureKind::Integer,
            2 => FeatureKind::Flag,
            other => return refused(format!("feature {name} has the unknown type {other}")),
        };
        let (minimum, maximum) = (f64_at(record, 16), f64_at(record, 24));
        if u32_at(record, 12) != 0 {
            return refused(format!("a reserved field of feature {name} is not zero"));
        }
        if minimum.is_nan() || maximum.is_nan() || minimum > maximum {
            return refused(format!("feature {name} has no range"));
        }
        features.push(Feature { name: name.to_string(), kind, minimum, maximum });
    }
    Ok(features)
}

/// Every index stays inside, and the nodes are one tree whose children lie behind their parents: a walk ends.
fn check_nodes(nodes: &[u8], features: usize, leaves: u64, root: usize, depth: u32) -> Result<(), ModelError> {
    let count = nodes.len() / NODE;
    if root >= count {
        return refused("the tree's root lies outside the nodes");
    }
    // Children lie behind their parents, so one pass from the front knows how deep every node is.
    let mut depths = vec![None; count];
    depths[root] = Some(0_u32);
    let mut greatest = 0;
    for index in 0..count {
        let node = Node::at(nodes, NODE * index);
        if node.flags & !(LEAF | MISSING_GOES_LEFT) != 0 || node.threshold.is_nan() {
            return refused(format!("node {index} is no node of version {VERSION}"));
        }
        let Some(own_depth) = depths[index] else {
            return refused(format!("node {index} is not reached from the root"));
        };
        if node.is_leaf() {
            if node.flags != LEAF || node.threshold.to_bits() != 0 || node.feature != 0 || node.child as u64 >= leaves {
                return refused(format!("node {index} is no leaf of this file"));
            }
            greatest = greatest.max(own_depth);
            continue;
        }
        if node.feature >= features || node.child <= index || node.child >= count - 1 {
            return refused(format!("node {index} points outside the file"));
        }
        for child in [node.child, node.child + 1] {
            if depths[child].replace(own_depth + 1).is_some() {
                return refused(format!("node {child} has two parents"));
            }
        }
    }
    if greatest != depth {
        return refused(format!("the tree is {greatest} deep, its record says {depth}"));
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn f64_at(bytes: &[u8], at: usize) -> f64 {
    f64::from_bits(u64_at(bytes, at))
}
