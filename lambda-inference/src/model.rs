//! The model file, format version 1 (see MODEL_FORMAT.md): checked once, then used without parsing.

use std::fmt;
use std::ops::Range;

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
const NODE: usize = 16;
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
    root: u32,
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
        if !metadata_text.is_ok_and(|text| serde_json::from_str::<serde_json::Value>(text).is_ok()) {
            return refused("the metadata is no JSON");
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
            ("features", u64::from(feature_count), count(&features, 32)),
            ("classes", u64::from(class_count), count(&classes, 8)),
            ("trees", u64::from(tree_count), count(&trees, 8)),
            ("nodes", wide(0), count(&nodes, NODE)),
            ("leaf values", wide(1).saturating_mul(u64::from(class_count)), count(&leaves, 8)),
        ];
        for (what, said, found) in expected {
            if said != found {
                return refused(format!("the model record says {said} {what}, the section has {found}"));
            }
        }
        if tree_count != 1 {
            return refused(format!("a decision tree has one tree, not {tree_count}"));
        }
        if feature_count == 0 || feature_count > 1 << 16 {
            return refused(format!("{feature_count} features"));
        }
        let classes: Vec<i64> = bytes[classes].chunks_exact(8).map(|b| u64_at(b, 0).cast_signed()).collect();
        let mut sorted = classes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if classes.len() < 2 || sorted.len() != classes.len() || positive >= classes.len() {
            return refused("the classes are not two or more different ones with a positive one among them");
        }
        let features = read_features(&bytes, &features, &strings)?;
        let root = u32_at(&bytes, trees.start);
        let depth = u32_at(&bytes, trees.start + 4);
        check_nodes(&bytes, &nodes, features.len(), wide(1), root, depth)?;
        for value in bytes[leaves.clone()].chunks_exact(8).map(|b| f64_at(b, 0)) {
            if !(0.0..=1.0).contains(&value) {
                return refused(format!("a leaf has probability {value}"));
            }
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
    /// The row has fewer values than there are features.
    pub fn predict(&self, row: &[f64]) -> Prediction {
        assert!(row.len() >= self.features.len(), "a row has a value for each feature");
        let probabilities = self.leaf(row);
        // The first of the greatest, as numpy's argmax.
        let mut best = 0;
        for (index, value) in probabilities.clone().enumerate() {
            if value > self.leaf_value(&probabilities, best) {
                best = index;
            }
        }
        Prediction { class: self.classes[best], probability: self.leaf_value(&probabilities, self.positive) }
    }

    fn leaf_value(&self, probabilities: &(impl Iterator<Item = f64> + Clone), index: usize) -> f64 {
        probabilities.clone().nth(index).unwrap_or_default()
    }

    /// The class probabilities of the leaf that a row falls into.
    fn leaf(&self, row: &[f64]) -> impl Iterator<Item = f64> + Clone {
        let nodes = &self.bytes[self.nodes.clone()];
        let mut index = self.root as usize;
        loop {
            let node = &nodes[NODE * index..NODE * (index + 1)];
            let (threshold, feature, flags, child) = (f64_at(node, 0), u16_at(node, 8), u16_at(node, 10), u32_at(node, 12));
            if flags & LEAF != 0 {
                let count = self.classes.len();
                let start = self.leaves.start + 8 * count * child as usize;
                return self.bytes[start..start + 8 * count].chunks_exact(8).map(|b| f64_at(b, 0));
            }
            // scikit-learn keeps features in single precision and thresholds in double.
            let value = f64::from(row[usize::from(feature)] as f32);
            let left = if value.is_nan() { flags & MISSING_GOES_LEFT != 0 } else { value <= threshold };
            index = child as usize + usize::from(!left);
        }
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
        return refused(format!("the file has {} bytes, its header says {}: truncated?", bytes.len(), u64_at(bytes, 16)));
    }
    if u64_at(bytes, 24) != 0 {
        return refused("a reserved field of the header is not zero");
    }
    if Sha256::digest(&bytes[HEADER..])[..] != bytes[32..64] {
        return refused("the file was changed: its content does not have the hash in its header");
    }
    if u32_at(bytes, 12) as usize != SECTIONS.len() {
        return refused(format!("the file has {} sections, version {VERSION} has {}", u32_at(bytes, 12), SECTIONS.len()));
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

fn read_features(bytes: &[u8], place: &Range<usize>, strings: &Range<usize>) -> Result<Vec<Feature>, ModelError> {
    let Ok(strings) = std::str::from_utf8(&bytes[strings.clone()]) else {
        return refused("the strings are not UTF-8");
    };
    let mut features: Vec<Feature> = Vec::new();
    for record in bytes[place.clone()].chunks_exact(32) {
        let start = u32_at(record, 0) as usize;
        let name = start.checked_add(u32_at(record, 4) as usize).and_then(|end| strings.get(start..end));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return refused("a feature's name lies outside the strings");
        };
        if features.iter().any(|feature| feature.name == name) {
            return refused(format!("two features are named {name}"));
        }
        let kind = match u32_at(record, 8) {
            0 => FeatureKind::Number,
            1 => FeatureKind::Integer,
            2 => FeatureKind::Flag,
            other => return refused(format!("feature {name} has the unknown type {other}")),
        };
        let (minimum, maximum) = (f64_at(record, 16), f64_at(record, 24));
        if u32_at(record, 12) != 0 || !(minimum <= maximum) {
            return refused(format!("feature {name} has no range"));
        }
        features.push(Feature { name: name.to_string(), kind, minimum, maximum });
    }
    Ok(features)
}

/// Every index stays inside, every child lies behind its parent, so that a walk ends and never leaves the file.
fn check_nodes(
    bytes: &[u8],
    place: &Range<usize>,
    features: usize,
    leaves: u64,
    root: u32,
    depth: u32,
) -> Result<(), ModelError> {
    let nodes = &bytes[place.clone()];
    let count = nodes.len() / NODE;
    if root as usize >= count {
        return refused("the tree's root lies outside the nodes");
    }
    // Children lie behind their parents, so one pass from the front knows the longest path to every node.
    let mut depths = vec![None; count];
    depths[root as usize] = Some(0_u32);
    let mut greatest = 0;
    for (index, node) in nodes.chunks_exact(NODE).enumerate() {
        let (threshold, feature, flags, child) = (f64_at(node, 0), u16_at(node, 8), u16_at(node, 10), u32_at(node, 12));
        if flags & !(LEAF | MISSING_GOES_LEFT) != 0 || threshold.is_nan() {
            return refused(format!("node {index} is no node of version {VERSION}"));
        }
        if flags & LEAF != 0 {
            if flags != LEAF || threshold.to_bits() != 0 || feature != 0 || u64::from(child) >= leaves {
                return refused(format!("node {index} is no leaf of this file"));
            }
            greatest = greatest.max(depths[index].unwrap_or_default());
            continue;
        }
        let child = child as usize;
        if usize::from(feature) >= features || child <= index || child.checked_add(1).is_none_or(|last| last >= count) {
            return refused(format!("node {index} points outside the file"));
        }
        if let Some(depth) = depths[index] {
            for next in [child, child + 1] {
                if depths[next].replace(depth + 1).is_some() {
                    return refused(format!("node {next} has two parents"));
                }
            }
        }
    }
    if depths.iter().any(Option::is_none) {
        return refused("a node is not reached from the root");
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
