//! Model files made for tests, field by field, and a tree that predicts by itself.

use std::ops::Range;

use lambda_inference::Model;
use sha2::{Digest, Sha256};

/// Seeded random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Ordinary values, and now and then an extreme one.
    pub fn value(&mut self) -> f64 {
        const EXTREME: [f64; 10] =
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, f64::MAX, f64::MIN, 5e-324, 1e-40, 3.5e38];
        match self.below(6) {
            0 => EXTREME[self.below(EXTREME.len())],
            1 => f64::from_bits(self.next()),
            _ => (self.unit() - 0.5) * 20.0,
        }
    }
}

/// A tree that answers by recursion over itself, for comparison.
#[derive(Clone)]
pub enum Tree {
    Leaf(Vec<f64>),
    Split { feature: u16, threshold: f64, missing_left: bool, children: Box<[Tree; 2]> },
}

pub fn leaf(probabilities: &[f64]) -> Tree {
    Tree::Leaf(probabilities.to_vec())
}

pub fn split(feature: u16, threshold: f64, missing_left: bool, left: Tree, right: Tree) -> Tree {
    Tree::Split { feature, threshold, missing_left, children: Box::new([left, right]) }
}

impl Tree {
    pub fn random(random: &mut Random, depth: u32, features: u16, classes: usize) -> Tree {
        if depth == 0 || random.below(8) == 0 {
            let weights: Vec<f64> = (0..classes).map(|_| random.below(5) as f64).collect();
            let sum = weights.iter().sum::<f64>().max(1.0);
            return Tree::Leaf(weights.iter().map(|weight| weight / sum).collect());
        }
        let threshold = if random.below(20) == 0 { f64::INFINITY } else { (random.unit() - 0.5) * 20.0 };
        let feature = random.below(usize::from(features)) as u16;
        let missing_left = random.below(2) == 0;
        let mut child = || Tree::random(random, depth - 1, features, classes);
        split(feature, threshold, missing_left, child(), child())
    }

    pub fn depth(&self) -> u32 {
        match self {
            Tree::Leaf(_) => 0,
            Tree::Split { children, .. } => 1 + children[0].depth().max(children[1].depth()),
        }
    }

    pub fn probabilities(&self, row: &[f64]) -> &[f64] {
        match self {
            Tree::Leaf(probabilities) => probabilities,
            Tree::Split { feature, threshold, missing_left, children } => {
                let value = row[usize::from(*feature)] as f32;
                let left = (value.is_nan() && *missing_left) || f64::from(value) <= *threshold;
                children[usize::from(!left)].probabilities(row)
            }
        }
    }
}

#[derive(Clone)]
pub struct Node {
    pub threshold: f64,
    pub feature: u16,
    pub flags: u16,
    pub child: u32,
}

#[derive(Clone)]
pub struct Feature {
    pub name: (u32, u32),
    pub kind: u32,
    pub reserved: u32,
    pub minimum: f64,
    pub maximum: f64,
}

/// A model file's content; every field can be set to something wrong.
#[derive(Clone)]
pub struct File {
    pub metadata: Vec<u8>,
    pub strings: Vec<u8>,
    pub features: Vec<Feature>,
    pub classes: Vec<i64>,
    pub trees: Vec<[u32; 2]>,
    pub nodes: Vec<Node>,
    pub leaves: Vec<f64>,
    /// Family, counts of features, classes and trees, positive class, zero.
    pub model: [u32; 6],
    /// Counts of nodes and leaves, zero.
    pub wide: [u64; 3],
}

impl File {
    pub fn new(features: &[(&str, u32, f64, f64)], classes: &[i64], positive: u32, tree: &Tree) -> File {
        let mut file = File {
            metadata: br#"{"family":"decision tree"}"#.to_vec(),
            strings: Vec::new(),
            features: Vec::new(),
            classes: classes.to_vec(),
            trees: vec![[0, tree.depth()]],
            nodes: Vec::new(),
            leaves: Vec::new(),
            model: [1, features.len() as u32, classes.len() as u32, 1, positive, 0],
            wide: [0; 3],
        };
        for (name, kind, minimum, maximum) in features {
            let place = (file.strings.len() as u32, name.len() as u32);
            file.strings.extend(name.bytes());
            file.features.push(Feature { name: place, kind: *kind, reserved: 0, minimum: *minimum, maximum: *maximum });
        }
        // Breadth first: a node's children are the next two that nobody has yet.
        let mut queue = vec![tree];
        let mut next = 0;
        while next < queue.len() {
            let node = match queue[next] {
                Tree::Leaf(probabilities) => {
                    file.leaves.extend(probabilities);
                    file.wide[1] += 1;
                    Node { threshold: 0.0, feature: 0, flags: 1, child: (file.wide[1] - 1) as u32 }
                }
                Tree::Split { feature, threshold, missing_left, children } => {
                    let child = queue.len() as u32;
                    queue.extend(children.iter());
                    Node { threshold: *threshold, feature: *feature, flags: u16::from(*missing_left) << 1, child }
                }
            };
            file.nodes.push(node);
            next += 1;
        }
        file.wide[0] = file.nodes.len() as u64;
        file
    }

    /// The sections: kind, size of an element, content.
    pub fn sections(&self) -> Vec<(u32, u32, Vec<u8>)> {
        let mut features = Vec::new();
        for feature in &self.features {
            for field in [feature.name.0, feature.name.1, feature.kind, feature.reserved] {
                features.extend(field.to_le_bytes());
            }
            features.extend(feature.minimum.to_le_bytes());
            features.extend(feature.maximum.to_le_bytes());
        }
        let mut model: Vec<u8> = self.model.iter().flat_map(|field| field.to_le_bytes()).collect();
        model.extend(self.wide.iter().flat_map(|field| field.to_le_bytes()));
        let mut nodes = Vec::new();
        for node in &self.nodes {
            nodes.extend(node.threshold.to_le_bytes());
            nodes.extend(node.feature.to_le_bytes());
            nodes.extend(node.flags.to_le_bytes());
            nodes.extend(node.child.to_le_bytes());
        }
        vec![
            (1, 1, self.metadata.clone()),
            (2, 1, self.strings.clone()),
            (3, 32, features),
            (4, 48, model),
            (5, 8, self.classes.iter().flat_map(|class| class.to_le_bytes()).collect()),
            (6, 8, self.trees.iter().flatten().flat_map(|field| field.to_le_bytes()).collect()),
            (7, 16, nodes),
            (8, 8, self.leaves.iter().flat_map(|value| value.to_le_bytes()).collect()),
        ]
    }

    pub fn bytes(&self) -> Vec<u8> {
        assemble(&self.sections())
    }

    pub fn model(&self) -> Model {
        Model::from_bytes(self.bytes()).expect("a valid file")
    }
}

/// Header, section table and sections.
pub fn assemble(sections: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
    let start = 64 + 32 * sections.len();
    let (mut table, mut body) = (Vec::new(), Vec::new());
    for (kind, size, content) in sections {
        table.extend(kind.to_le_bytes());
        table.extend(size.to_le_bytes());
        table.extend(((start + body.len()) as u64).to_le_bytes());
        table.extend((content.len() as u64).to_le_bytes());
        table.extend([0; 8]);
        body.extend(content);
        body.resize(body.len().next_multiple_of(8), 0);
    }
    let mut bytes = b"TABMODEL".to_vec();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((sections.len() as u32).to_le_bytes());
    bytes.extend(((start + body.len()) as u64).to_le_bytes());
    bytes.extend([0; 40]);
    bytes.extend(table);
    bytes.extend(body);
    rehash(&mut bytes);
    bytes
}

/// Makes the hash in the header right again, if there is a header.
pub fn rehash(bytes: &mut [u8]) {
    if bytes.len() >= 64 {
        let hash = Sha256::digest(&bytes[64..]);
        bytes[32..64].copy_from_slice(&hash);
    }
}

/// Where a section lies in a valid file; the table entry of kind `k` is the `k`-th.
pub fn place(bytes: &[u8], kind: usize) -> Range<usize> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
    let entry = 64 + 32 * (kind - 1);
    number(entry + 8)..number(entry + 8) + number(entry + 16)
}

/// Four features and a tree of depth three, with a threshold that only double precision holds.
pub fn credit() -> (File, Tree) {
    let housing = |yes: [f64; 2], no: [f64; 2]| split(3, 0.5, false, leaf(&no), leaf(&yes));
    let tree = split(
        1,
        80_000.25,
        true,
        split(1, 70_000.1, false, leaf(&[0.9, 0.1]), housing([0.25, 0.75], [1.0, 0.0])),
        split(0, 2.5, false, housing([0.0, 1.0], [0.1, 0.9]), leaf(&[0.5, 0.5])),
    );
    let features = [
        ("Num_Children", 1, 0.0, 20.0),
        ("Income", 0, 0.0, 1e8),
        ("Own_Car", 2, 0.0, 1.0),
        ("Own_Housing", 2, 0.0, 1.0),
    ];
    (File::new(&features, &[0, 1], 1, &tree), tree)
}
