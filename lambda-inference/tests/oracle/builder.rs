//! Model files made for tests, field by field, and a tree that predicts by itself.

use std::ops::Range;

use lambda_inference::Model;

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
    pub texts: u32,
    pub required: u64,
    pub minimum: f64,
    pub maximum: f64,
}

/// A model file's content; every field can be set to something wrong.
#[derive(Clone)]
pub struct File {
    pub metadata: Vec<u8>,
    pub strings: Vec<u8>,
    pub features: Vec<Feature>,
    pub texts: Vec<[u32; 2]>,
    /// Slots, first probability, positive class, decision, its slot, zero.
    pub model: [u32; 6],
    pub threshold: f64,
    pub classes: Vec<i64>,
    /// Kind, argument, input, inputs, outputs, numbers, indices, trees.
    pub steps: Vec<[u32; 8]>,
    pub numbers: Vec<f64>,
    pub indices: Vec<u32>,
    pub trees: Vec<[u32; 2]>,
    pub nodes: Vec<Node>,
    pub bitsets: Vec<u32>,
    pub covers: Vec<f64>,
    pub means: Vec<f64>,
    pub reasons: Vec<[u32; 2]>,
}

impl File {
    /// A file without steps.
    pub fn empty(features: &[(&str, u32, f64, f64)], classes: &[i64], positive: u32) -> File {
        let mut file = File {
            metadata: br#"{"family":"decision tree"}"#.to_vec(),
            strings: Vec::new(),
            features: Vec::new(),
            texts: Vec::new(),
            model: [features.len() as u32, 0, positive, 0, 0, 0],
            threshold: 0.0,
            classes: classes.to_vec(),
            steps: Vec::new(),
            numbers: Vec::new(),
            indices: Vec::new(),
            trees: Vec::new(),
            nodes: Vec::new(),
            bitsets: Vec::new(),
            covers: Vec::new(),
            means: Vec::new(),
            reasons: Vec::new(),
        };
        for (name, kind, minimum, maximum) in features {
            let name = file.string(name);
            let feature = Feature { name, kind: *kind, texts: 0, required: 0, minimum: *minimum, maximum: *maximum };
            file.features.push(feature);
        }
        file
    }

    /// One tree, as scikit-learn's are written.
    pub fn new(features: &[(&str, u32, f64, f64)], classes: &[i64], positive: u32, tree: &Tree) -> File {
        let mut file = File::empty(features, classes, positive);
        let (inputs, outputs) = (features.len() as u32, classes.len() as u32);
        file.step([1, 4, 0, inputs, 0, 0, 0, 0], &[], &[]);
        let mut numbers = vec![0.0; classes.len()];
        file.tree(tree, &mut |leaf| {
            numbers.extend(leaf);
            (0.0, (numbers.len() / leaf.len() - 2) as u32)
        });
        let slot = file.step([8, 1, 0, inputs, outputs, 0, 0, 1], &numbers, &[]);
        file.model[1] = slot;
        file.model[4] = slot;
        file
    }

    pub fn string(&mut self, text: &str) -> (u32, u32) {
        let place = (self.strings.len() as u32, text.len() as u32);
        self.strings.extend(text.bytes());
        place
    }

    /// Makes the last feature one of texts.
    pub fn texts(&mut self, texts: &[&str]) {
        let feature = self.features.len() - 1;
        (self.features[feature].kind, self.features[feature].texts) = (3, texts.len() as u32);
        for text in texts {
            let (offset, length) = self.string(text);
            self.texts.push([offset, length]);
        }
    }

    /// Appends a step, whose counts of numbers and indices are set here; gives its first output.
    pub fn step(&mut self, mut step: [u32; 8], numbers: &[f64], indices: &[u32]) -> u32 {
        (step[5], step[6]) = (numbers.len() as u32, indices.len() as u32);
        self.steps.push(step);
        self.numbers.extend(numbers);
        self.indices.extend(indices);
        self.model[0] += step[4];
        self.model[0] - step[4]
    }

    /// Appends a tree; what a leaf holds as threshold and child is up to the caller.
    pub fn tree<'a>(&mut self, tree: &'a Tree, leaf: &mut impl FnMut(&'a [f64]) -> (f64, u32)) {
        let start = self.nodes.len();
        self.trees.push([start as u32, tree.depth()]);
        // Breadth first: a node's children are the next two that nobody has yet.
        let mut queue = vec![tree];
        let mut next = 0;
        while next < queue.len() {
            let node = match queue[next] {
                Tree::Leaf(values) => {
                    let (threshold, child) = leaf(values);
                    Node { threshold, feature: 0, flags: 1, child }
                }
                Tree::Split { feature, threshold, missing_left, children } => {
                    let child = (start + queue.len()) as u32;
                    queue.extend(children.iter());
                    Node { threshold: *threshold, feature: *feature, flags: u16::from(*missing_left) << 1, child }
                }
            };
            self.nodes.push(node);
            next += 1;
        }
    }

    /// Gives every leaf a training weight, made from its place, and every split the sum of its children's.
    pub fn weigh(&mut self) {
        self.covers = (0..self.nodes.len()).map(|index| 1.0 + (index * 7 % 5) as f64).collect();
        for (index, node) in self.nodes.iter().enumerate().rev().filter(|(_, node)| node.flags & 1 == 0) {
            let child = node.child as usize;
            self.covers[index] = self.covers[child] + self.covers[child + 1];
        }
    }

    /// The sections: kind, size of an element, content.
    pub fn sections(&self) -> Vec<(u32, u32, Vec<u8>)> {
        let mut features = Vec::new();
        for feature in &self.features {
            for field in [feature.name.0, feature.name.1, feature.kind, feature.texts] {
                features.extend(field.to_le_bytes());
            }
            features.extend(feature.required.to_le_bytes());
            features.extend(feature.minimum.to_le_bytes());
            features.extend(feature.maximum.to_le_bytes());
        }
        let mut model = words(&self.model);
        model.extend(self.threshold.to_le_bytes());
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
            (3, 40, features),
            (4, 8, words(self.texts.as_flattened())),
            (5, 32, model),
            (6, 8, self.classes.iter().flat_map(|class| class.to_le_bytes()).collect()),
            (7, 32, words(self.steps.as_flattened())),
            (8, 8, self.numbers.iter().flat_map(|number| number.to_le_bytes()).collect()),
            (9, 4, words(&self.indices)),
            (10, 8, words(self.trees.as_flattened())),
            (11, 16, nodes),
            (12, 4, words(&self.bitsets)),
            (13, 8, self.covers.iter().flat_map(|cover| cover.to_le_bytes()).collect()),
            (14, 8, self.means.iter().flat_map(|mean| mean.to_le_bytes()).collect()),
            (15, 8, words(self.reasons.as_flattened())),
        ]
    }

    pub fn bytes(&self) -> Vec<u8> {
        assemble(&self.sections())
    }

    pub fn model(&self) -> Model {
        Model::from_bytes(&self.bytes()).expect("a valid file")
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
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
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((sections.len() as u32).to_le_bytes());
    bytes.extend(((start + body.len()) as u64).to_le_bytes());
    bytes.extend([0; 40]);
    bytes.extend(table);
    bytes.extend(body);
    rehash(&mut bytes);
    bytes
}

/// Makes the checksum in the header right again, if there is a header.
pub fn rehash(bytes: &mut [u8]) {
    if bytes.len() >= 64 {
        let checksum = crc32fast::hash(&bytes[64..]);
        bytes[24..28].copy_from_slice(&checksum.to_le_bytes());
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
    let mut file = File::new(&features, &[0, 1], 1, &tree);
    file.features.iter_mut().for_each(|feature| feature.required = 1);
    file.weigh();
    for reason in ["", "Your yearly income", "", "Whether you own your home"] {
        let (offset, length) = file.string(reason);
        file.reasons.push([offset, length]);
    }
    (file, tree)
}

/// A file with every kind of step, of flag and of feature.
pub fn everything() -> File {
    let ranges =
        [("a", 0, f64::NEG_INFINITY, f64::INFINITY), ("b", 1, 0.0, 9.0), ("c", 2, 0.0, 1.0), ("d", 0, -1.0, 1.0)];
    let mut file = File::empty(&ranges, &[3, 8], 0);
    file.texts(&["red", "green", "blue"]);
    file.step([1, 2, 0, 3, 0, 0, 0, 0], &[], &[]);
    let marked = file.step([23, 1, 0, 3, 3, 0, 0, 0], &[9.0], &[]);
    let filled = file.step([3, 0, marked, 3, 3, 0, 0, 0], &[0.5, -1.0, 1.0], &[]);
    let scaled = file.step([4, 0, filled, 3, 3, 0, 0, 0], &[1.0, 2.0, 0.0, 1.0, 0.5, 4.0], &[]);
    let ranged = file.step([5, 1, scaled, 3, 3, 0, 0, 0], &[0.5, 0.1, 1.0, 0.0, 2.0, 0.0, -3.0, 3.0], &[]);
    // The text, with an unknown one refused, and a number.
    let coded = file.step([6, 0, 3, 1, 1, 0, 0, 0], &[0.0, 2.0, 5.0, 7.0, f64::NAN, 0.0], &[2, 2, 0, 0]);
    let hot = file.step(
        [7, 0, 2, 2, 5, 0, 0, 0],
        &[0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 1.0, 2.0, -1.0, -1.0],
        &[2, 0, 0, 0, 3, 0, 2, 0],
    );
    let chosen = file.step([2, 0, 0, 0, 4, 0, 0, 0], &[], &[ranged, coded, hot + 1, 1]);
    let split_by = |flags: u16, threshold: f64, tree: &mut File| {
        let at = tree.nodes.len() - 3;
        tree.nodes[at].flags |= flags;
        tree.nodes[at].threshold = threshold;
    };
    // Categories 1, 33 and 34, then none; zero as missing.
    file.bitsets = vec![1 << 1, 1 << 1 | 1 << 2];
    let one = |feature| split(feature, 0.5, true, leaf(&[-0.75]), leaf(&[0.5]));
    for (feature, flags, threshold) in [(1, 4, f64::from_bits(2 << 32)), (3, 4, f64::from_bits(2)), (2, 8, 0.25)] {
        file.tree(&one(feature), &mut |value| (value[0], 0));
        split_by(flags, threshold, &mut file);
    }
    let sums = file.step([8, 2 | 4, chosen, 4, 2, 0, 0, 2], &[0.25, -0.25], &[]);
    let single = file.step([8, 1 | 4 | 8, chosen, 4, 1, 0, 0, 1], &[0.125], &[]);
    let line = file.step([9, 0, sums, 2, 1, 0, 0, 0], &[0.5, 1.0, -1.0], &[]);
    file.step([10, 0, sums, 2, 2, 0, 0, 0], &[3.0], &[]);
    let sigmoid = file.step([11, 0, line, 1, 2, 0, 0, 0], &[2.0], &[]);
    let narrow = file.step([12, 0, single, 1, 2, 0, 0, 0], &[], &[]);
    for kind in 13..=15 {
        file.step([kind, 0, sums, 2, 2, 0, 0, 0], &[], &[]);
    }
    let each = file.step([16, 0, sums, 2, 2, 0, 0, 0], &[0.5], &[]);
    let curve = file.step([20, 0, sigmoid, 1, 1, 0, 0, 0], &[0.2, 0.5, 0.8, 0.0, 0.25, 1.0], &[]);
    let platt = file.step([21, 0, sums, 1, 1, 0, 0, 0], &[-1.5, 0.25], &[]);
    file.step([17, 0, platt, 1, 2, 0, 0, 0], &[], &[]);
    let shares = file.step([18, 0, each, 2, 2, 0, 0, 0], &[], &[]);
    file.step([17, 0, curve, 1, 2, 0, 0, 0], &[], &[]);
    let capped = file.step([19, 0, shares, 4, 4, 0, 0, 0], &[], &[]);
    let mean = file.step([22, 2, capped, 4, 2, 0, 0, 0], &[], &[]);
    file.tree(&one(0), &mut |value| (value[0], 0));
    file.step([8, 4, narrow, 2, 1, 0, 0, 1], &[0.0], &[]);
    (file.model[1], file.model[3], file.model[4], file.threshold) = (mean, 3, mean, 0.5);
    file.weigh();
    file.means = vec![0.25, -0.25];
    file
}
