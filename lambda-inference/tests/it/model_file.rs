use std::panic::{AssertUnwindSafe, catch_unwind};

use lambda_inference::{FeatureKind, Model};
use sha2::{Digest, Sha256};

use crate::builder::{File, Node, Random, Tree, assemble, credit, leaf, place, rehash, split};

const ANY: f64 = f64::INFINITY;

fn refusal(bytes: Vec<u8>) -> String {
    match Model::from_bytes(bytes) {
        Ok(_) => panic!("the file was accepted"),
        Err(reason) => reason.to_string(),
    }
}

/// Compares a model with the tree that it was made from, on random rows.
fn compare(model: &Model, tree: &Tree, random: &mut Random, rows: usize) {
    let positive = model
        .classes()
        .iter()
        .position(|class| *class == model.positive_class())
        .expect("the positive class is one of the classes");
    for _ in 0..rows {
        let row: Vec<f64> = model.features().iter().map(|_| random.value()).collect();
        let expected = tree.probabilities(&row);
        let greatest = expected.iter().copied().fold(0.0, f64::max);
        let first = expected.iter().position(|value| *value == greatest).expect("the greatest is one of them");
        let found = model.predict(&row);
        assert_eq!(found.class, model.classes()[first], "{row:?}");
        assert_eq!(found.probability.to_bits(), expected[positive].to_bits(), "{row:?}");
        assert!(model.probabilities(&row).map(f64::to_bits).eq(expected.iter().map(|value| value.to_bits())));
    }
}

/// Predicts random rows with whatever a file made of itself.
fn exercise(model: &Model, random: &mut Random) {
    for _ in 0..8 {
        let row: Vec<f64> = model.features().iter().map(|_| random.value()).collect();
        let prediction = model.predict(&row);
        assert!((0.0..=1.0).contains(&prediction.probability));
        assert!(model.classes().contains(&prediction.class));
        assert!(model.metadata().trim_ascii().starts_with('{'));
    }
}

#[test]
fn a_valid_file_says_what_is_in_it() {
    let (file, tree) = credit();
    let bytes = file.bytes();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    let model = Model::from_bytes(bytes).unwrap();
    assert_eq!(model.digest(), digest);
    assert_eq!(model.classes(), [0, 1]);
    assert_eq!(model.positive_class(), 1);
    assert_eq!(model.metadata(), r#"{"family":"decision tree"}"#);
    let names: Vec<&str> = model.features().iter().map(|feature| feature.name.as_str()).collect();
    assert_eq!(names, ["Num_Children", "Income", "Own_Car", "Own_Housing"]);
    let kinds: Vec<FeatureKind> = model.features().iter().map(|feature| feature.kind).collect();
    assert_eq!(kinds, [FeatureKind::Integer, FeatureKind::Number, FeatureKind::Flag, FeatureKind::Flag]);
    assert_eq!((model.features()[1].minimum, model.features()[1].maximum), (0.0, 1e8));
    compare(&model, &tree, &mut Random(1), 20_000);
}

#[test]
fn trees_of_every_shape_are_accepted_and_walked() {
    let mut random = Random(2);
    for (classes, positive) in [(vec![7], 0), (vec![0, 1], 0), (vec![i64::MIN, -3, i64::MAX, 0, 9], 3)] {
        let file = File::new(&[("x", 0, -ANY, ANY)], &classes, positive, &leaf(&vec![0.125; classes.len()]));
        assert_eq!(file.nodes.len(), 1);
        compare(&file.model(), &leaf(&vec![0.125; classes.len()]), &mut random, 10);
    }
    let names: Vec<String> = (0..40).map(|index| format!("x{index}")).collect();
    let features: Vec<(&str, u32, f64, f64)> = names.iter().map(|name| (name.as_str(), 0, -ANY, ANY)).collect();
    for round in 0..300 {
        let (features, classes) = (&features[..1 + random.below(40)], 1 + random.below(5));
        let labels: Vec<i64> = (0..classes as i64).collect();
        let tree = Tree::random(&mut random, round % 11, features.len() as u16, classes);
        let positive = random.below(classes) as u32;
        compare(&File::new(features, &labels, positive, &tree).model(), &tree, &mut random, 50);
    }
    // As deep as it is long.
    let mut chain = leaf(&[0.0, 1.0]);
    for step in 0..500 {
        chain = split(0, -f64::from(step), step % 2 == 0, chain, leaf(&[1.0, 0.0]));
    }
    compare(&File::new(&features[..1], &[0, 1], 1, &chain).model(), &chain, &mut random, 500);
}

#[test]
fn a_tie_goes_to_the_first_class() {
    let file = File::new(&[("x", 0, -ANY, ANY)], &[5, 3, 4], 2, &leaf(&[0.25, 0.375, 0.375]));
    assert_eq!(file.model().predict(&[0.0]).class, 3);
    assert_eq!(file.model().predict(&[0.0]).probability, 0.375);
}

#[test]
fn values_are_compared_in_single_precision_with_thresholds_in_double() {
    // 0.1 is 0.10000000149... in single precision, more than the threshold.
    let tree = split(0, 0.1, true, leaf(&[1.0, 0.0]), leaf(&[0.0, 1.0]));
    let model = File::new(&[("x", 0, -ANY, ANY)], &[0, 1], 1, &tree).model();
    assert_eq!(model.predict(&[0.1]).class, 1);
    assert_eq!(model.predict(&[f64::from(0.1_f32.next_down())]).class, 0);
    assert_eq!(model.predict(&[f64::NAN]).class, 0);
    assert_eq!(model.predict(&[ANY]).class, 1);
    assert_eq!(model.predict(&[-ANY]).class, 0);
}

#[test]
fn a_row_of_another_length_is_the_callers_mistake() {
    let model = credit().0.model();
    for length in [0, 3, 5] {
        assert!(catch_unwind(AssertUnwindSafe(|| model.predict(&vec![0.0; length]))).is_err());
    }
}

type Change = fn(&mut File);

#[test]
fn every_rule_of_the_content_is_checked() {
    let changes: &[(&str, &str, Change)] = &[
        ("metadata not JSON", "metadata", |file| file.metadata = b"{".to_vec()),
        ("metadata empty", "metadata", |file| file.metadata.clear()),
        ("metadata no object", "metadata", |file| file.metadata = b"[]".to_vec()),
        ("metadata not UTF-8", "metadata", |file| file.metadata = b"{\"a\":\"\xff\"}".to_vec()),
        ("metadata with NaN", "metadata", |file| file.metadata = b"{\"a\":NaN}".to_vec()),
        ("metadata too deep", "metadata", |file| file.metadata = b"[".repeat(100_000)),
        ("strings not UTF-8", "strings are not UTF-8", |file| file.strings[0] = 0xff),
        ("name cut in a letter", "outside the strings", |file| {
            file.strings.splice(0..2, "ä".bytes());
            file.features[0].name.0 = 1;
        }),
        ("name behind the end", "outside the strings", |file| file.features[3].name.1 += 1),
        ("name far outside", "outside the strings", |file| file.features[0].name = (u32::MAX, u32::MAX)),
        ("name empty", "is empty", |file| file.features[0].name.1 = 0),
        ("name doubled", "two features are named Income", |file| file.features[0].name = file.features[1].name),
        ("type unknown", "unknown type 3", |file| file.features[0].kind = 3),
        ("feature reserved", "reserved field of feature", |file| file.features[0].reserved = 1),
        ("range reversed", "no range", |file| file.features[0].minimum = 21.0),
        ("minimum NaN", "no range", |file| file.features[0].minimum = f64::NAN),
        ("maximum NaN", "no range", |file| file.features[0].maximum = f64::NAN),
        ("family 0", "family 0", |file| file.model[0] = 0),
        ("family 2", "family 2", |file| file.model[0] = 2),
        ("feature count", "says 5 features", |file| file.model[1] += 1),
        ("no features", "not 0", |file| {
            file.features.clear();
            file.model[1] = 0;
        }),
        ("class count", "says 1 classes", |file| file.model[2] -= 1),
        ("tree count", "says 2 trees", |file| file.model[3] += 1),
        ("two trees", "one tree, not 2", |file| {
            file.trees.push([0, 3]);
            file.model[3] = 2;
        }),
        ("no tree", "one tree, not 0", |file| {
            file.trees.clear();
            file.model[3] = 0;
        }),
        ("positive class outside", "positive one among them", |file| file.model[4] = 2),
        ("model reserved", "reserved field of the model", |file| file.model[5] = 1),
        ("model reserved at the end", "reserved field of the model", |file| file.wide[2] = 1 << 63),
        ("node count", "says 12 nodes", |file| file.wide[0] += 1),
        ("leaf count", "leaf values", |file| file.wide[1] += 1),
        ("leaf count that overflows", "leaf values", |file| file.wide[1] = 1 << 63),
        ("class doubled", "are not different ones", |file| file.classes[0] = 1),
        ("no class", "are not different ones", |file| {
            file.classes.clear();
            file.leaves.clear();
            file.model[2] = 0;
        }),
        ("root outside", "root lies outside", |file| file.trees[0][0] = 11),
        ("root far outside", "root lies outside", |file| file.trees[0][0] = u32::MAX),
        ("no nodes", "root lies outside", |file| {
            file.nodes.clear();
            file.wide[0] = 0;
        }),
        ("root not first", "not reached", |file| file.trees[0][0] = 1),
        ("depth too small", "3 deep, its record says 2", |file| file.trees[0][1] = 2),
        ("depth too great", "3 deep, its record says 4", |file| file.trees[0][1] = 4),
        ("node of unknown flags", "node 0 is no node", |file| file.nodes[0].flags = 4),
        ("threshold NaN", "node 0 is no node", |file| file.nodes[0].threshold = f64::NAN),
        ("feature outside", "node 1 points outside", |file| file.nodes[1].feature = 4),
        ("child is the node itself", "node 1 points outside", |file| file.nodes[1].child = 1),
        ("child before its parent", "node 2 points outside", |file| file.nodes[2].child = 0),
        ("right child outside", "node 2 points outside", |file| file.nodes[2].child = 10),
        ("child far outside", "node 2 points outside", |file| file.nodes[2].child = u32::MAX),
        ("two parents", "two parents", |file| file.nodes[2].child = file.nodes[1].child),
        ("node not reached", "not reached", |file| {
            file.nodes.push(Node { threshold: 0.0, feature: 0, flags: 1, child: 0 });
            file.wide[0] += 1;
        }),
        ("leaf that lets the missing go left", "is no leaf", |file| file.nodes[10].flags = 3),
        ("leaf with a threshold", "is no leaf", |file| file.nodes[10].threshold = 1.0),
        ("leaf with a negative zero", "is no leaf", |file| file.nodes[10].threshold = -0.0),
        ("leaf with a feature", "is no leaf", |file| file.nodes[10].feature = 1),
        ("leaf row outside", "is no leaf", |file| file.nodes[10].child = 6),
        ("probability above 1", "probability 1.5", |file| file.leaves[0] = 1.5),
        ("probability below 0", "probability -0.1", |file| file.leaves[0] = -0.1),
        ("probability NaN", "probability NaN", |file| file.leaves[11] = f64::NAN),
        ("probability infinite", "probability inf", |file| file.leaves[11] = ANY),
    ];
    for (name, reason, change) in changes {
        let mut file = credit().0;
        change(&mut file);
        let found = refusal(file.bytes());
        assert!(found.contains(reason), "{name}: {found}");
    }
}

#[test]
fn every_rule_of_the_frame_is_checked() {
    type Frame = fn(&mut Vec<u8>);
    fn set(bytes: &mut [u8], at: usize, value: u64, size: usize) {
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    let changes: &[(&str, &str, Frame)] = &[
        ("magic", "does not begin with TABMODEL", |bytes| bytes[7] = b'X'),
        ("empty", "does not begin with TABMODEL", Vec::clear),
        ("version 0", "format version 0", |bytes| set(bytes, 8, 0, 4)),
        ("version 2", "format version 2", |bytes| set(bytes, 8, 2, 4)),
        ("length", "its header says", |bytes| set(bytes, 16, 5, 8)),
        ("longer than said", "its header says", |bytes| bytes.push(0)),
        ("header reserved", "reserved field of the header", |bytes| bytes[31] = 1),
        ("seven sections", "7 sections", |bytes| set(bytes, 12, 7, 4)),
        ("many sections", "4294967295 sections", |bytes| set(bytes, 12, u64::MAX, 4)),
        ("table cut", "table is truncated", |bytes| {
            bytes.truncate(64 + 255);
            set(bytes, 16, 64 + 255, 8);
        }),
        ("unknown kind", "entry of section leaves", |bytes| set(bytes, 64 + 7 * 32, 9, 4)),
        ("kind doubled", "entry of section strings", |bytes| set(bytes, 64 + 32, 1, 4)),
        ("element size", "entry of section nodes", |bytes| set(bytes, 64 + 6 * 32 + 4, 8, 4)),
        ("entry reserved", "entry of section metadata", |bytes| bytes[64 + 31] = 1),
        ("offset outside", "section leaves lies outside", |bytes| set(bytes, 64 + 7 * 32 + 8, 1 << 40, 8)),
        ("offset overflows", "section leaves lies outside", |bytes| set(bytes, 64 + 7 * 32 + 8, u64::MAX, 8)),
        ("length overflows", "section metadata lies outside", |bytes| set(bytes, 64 + 16, u64::MAX, 8)),
        ("length outside", "section leaves lies outside", |bytes| set(bytes, 64 + 7 * 32 + 16, 1 << 20, 8)),
        ("half an element", "section nodes lies outside", |bytes| bytes[64 + 6 * 32 + 16] -= 8),
        ("sections overlap", "section strings does not follow", |bytes| bytes[64 + 32 + 8] -= 8),
        ("a hole between sections", "section strings does not follow", |bytes| bytes[64 + 32 + 8] += 8),
        ("gap not zero", "section strings does not follow", |bytes| {
            let end = place(bytes, 1).end;
            bytes[end] = 1;
        }),
        ("eight bytes more", "after the last section", |bytes| {
            bytes.extend([0; 8]);
            let length = bytes.len() as u64;
            set(bytes, 16, length, 8);
        }),
        ("no model record", "exactly one model record", |bytes| {
            let mut sections = credit().0.sections();
            sections[3].2.clear();
            *bytes = assemble(&sections);
        }),
        ("two model records", "exactly one model record", |bytes| {
            let mut sections = credit().0.sections();
            sections[3].2 = sections[3].2.repeat(2);
            *bytes = assemble(&sections);
        }),
    ];
    for (name, reason, change) in changes {
        let mut bytes = credit().0.bytes();
        change(&mut bytes);
        rehash(&mut bytes);
        let found = refusal(bytes);
        assert!(found.contains(reason), "{name}: {found}");
    }
    // Padding behind the last section, which here ends at a multiple of 8.
    let mut sections = credit().0.sections();
    sections.swap(0, 7);
    assert!(refusal(assemble(&sections)).contains("entry of section metadata"));
    let mut bytes = credit().0.bytes();
    bytes[40] ^= 1;
    assert!(refusal(bytes).contains("was changed"));
}

#[test]
fn too_many_features_are_refused_and_the_most_are_read_quickly() {
    let names: Vec<String> = (0..=1 << 16).map(|index| format!("x{index}")).collect();
    let features: Vec<(&str, u32, f64, f64)> = names.iter().map(|name| (name.as_str(), 0, -ANY, ANY)).collect();
    let tree = split(u16::MAX, 0.0, false, leaf(&[1.0, 0.0]), leaf(&[0.0, 1.0]));
    let model = File::new(&features[..1 << 16], &[0, 1], 1, &tree).model();
    let mut row = vec![0.0; 1 << 16];
    row[(1 << 16) - 1] = 1.0;
    assert_eq!(model.predict(&row).class, 1);
    assert!(refusal(File::new(&features, &[0, 1], 1, &tree).bytes()).contains("not 65537"));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = credit().0.bytes();
    for length in 0..bytes.len() {
        let mut cut = bytes[..length].to_vec();
        refusal(cut.clone());
        // With a header that agrees, the structure has to refuse it.
        if length >= 24 {
            cut[16..24].copy_from_slice(&(length as u64).to_le_bytes());
            refusal(cut.clone());
            rehash(&mut cut);
            refusal(cut);
        }
    }
}

#[test]
fn every_changed_byte_is_refused() {
    let bytes = credit().0.bytes();
    for at in 0..bytes.len() {
        for change in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            refusal(changed);
        }
    }
}

#[test]
fn every_changed_byte_under_a_right_hash_is_refused_or_harmless() {
    let bytes = credit().0.bytes();
    let mut random = Random(3);
    let (mut accepted, mut refused) = (0, 0);
    // Table, and the sections of which every bit means something.
    let strict: Vec<usize> = (64..64 + 256).chain(place(&bytes, 4)).chain(place(&bytes, 6)).collect();
    for at in 64..bytes.len() {
        for change in 1..=255 {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            rehash(&mut changed);
            match Model::from_bytes(changed) {
                Ok(model) => {
                    // Another positive class, or padding counted to the strings, is as good a model.
                    let harmless = [place(&bytes, 4).start + 16, 64 + 32 + 16].contains(&at);
                    assert!(harmless || !strict.contains(&at), "byte {at} ^ {change}");
                    accepted += 1;
                    exercise(&model, &mut random);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(accepted > 10_000 && refused > 100_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn random_changes_are_refused_or_harmless() {
    let mut random = Random(4);
    let originals: Vec<Vec<u8>> = (0..8)
        .map(|round| {
            let tree = Tree::random(&mut random, round, 2, 3);
            File::new(&[("a", 0, -ANY, ANY), ("b", 1, 0.0, 9.0)], &[0, 1, 2], 2, &tree).bytes()
        })
        .chain([credit().0.bytes()])
        .collect();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..200_000 {
        let mut bytes = originals[random.below(originals.len())].clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            match random.below(8) {
                0 => bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff][random.below(6)],
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, random.next() as u8),
                3 => {
                    let from = random.below(bytes.len());
                    let length = random.below(33).min(bytes.len() - at.max(from));
                    bytes.copy_within(from..from + length, at);
                }
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        if bytes.len() >= 24 && random.below(4) > 0 {
            let length = bytes.len() as u64;
            bytes[16..24].copy_from_slice(&length.to_le_bytes());
        }
        rehash(&mut bytes);
        match Model::from_bytes(bytes) {
            Ok(model) => {
                accepted += 1;
                exercise(&model, &mut random);
            }
            Err(reason) => {
                assert!(!reason.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(accepted > 5_000 && refused > 100_000, "{accepted} accepted, {refused} refused");
}
