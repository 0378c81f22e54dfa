use std::panic::{AssertUnwindSafe, catch_unwind};

use lambda_inference::{FeatureKind, Model, Refusal};
use sha2::{Digest, Sha256};

use crate::builder::{File, Node, Random, Tree, assemble, credit, everything, leaf, place, rehash, split};
use crate::corpus;
use crate::oracle::models::{exercise, withstands};

const ANY: f64 = f64::INFINITY;

fn refusal(bytes: Vec<u8>) -> String {
    match Model::from_bytes(&bytes) {
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
    let mut scorer = model.scorer();
    for _ in 0..rows {
        let row: Vec<f64> = model.features().iter().map(|_| random.value()).collect();
        let expected = tree.probabilities(&row);
        let greatest = expected.iter().copied().fold(0.0, f64::max);
        let first = expected.iter().position(|value| *value == greatest).expect("the greatest is one of them");
        let too_large = row.iter().position(|value| (*value as f32).is_infinite());
        let found = match (scorer.predict(&row), too_large) {
            (Ok(found), None) => found,
            (Err(error), Some(feature)) => {
                assert_eq!((error.feature(model), error.refusal), (Some(feature), Refusal::TooLarge), "{row:?}");
                continue;
            }
            (found, _) => panic!("{found:?} for {row:?}"),
        };
        assert_eq!(found.class, model.classes()[first], "{row:?}");
        assert_eq!(found.probability.to_bits(), expected[positive].to_bits(), "{row:?}");
        assert!(
            scorer.probabilities().iter().map(|value| value.to_bits()).eq(expected.iter().map(|value| value.to_bits()))
        );
    }
}

#[test]
fn a_valid_file_says_what_is_in_it() {
    let (file, tree) = credit();
    let bytes = file.bytes();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    let model = Model::from_bytes(&bytes).unwrap();
    assert_eq!(model.digest(), digest);
    assert_eq!(model.classes(), [0, 1]);
    assert_eq!(model.positive_class(), 1);
    assert_eq!(model.metadata(), r#"{"family":"decision tree"}"#);
    let names: Vec<&str> = model.features().iter().map(|feature| feature.name.as_str()).collect();
    assert_eq!(names, ["Num_Children", "Income", "Own_Car", "Own_Housing"]);
    let kinds: Vec<FeatureKind> = model.features().iter().map(|feature| feature.kind).collect();
    assert_eq!(kinds, [FeatureKind::Integer, FeatureKind::Number, FeatureKind::Flag, FeatureKind::Flag]);
    assert_eq!((model.features()[1].minimum, model.features()[1].maximum), (0.0, 1e8));
    let reasons: Vec<&str> = model.features().iter().map(|feature| feature.reason.as_str()).collect();
    assert_eq!(reasons, ["Num_Children", "Your yearly income", "Own_Car", "Whether you own your home"]);
    compare(&model, &tree, &mut Random(1), 20_000);
}

#[test]
fn training_means_are_finite_and_one_for_each_input_of_a_linear_step() {
    for means in [vec![0.0], vec![0.0; 3], vec![0.0, f64::NAN], vec![ANY, 0.0]] {
        let mut file = everything();
        file.means = means;
        assert!(refusal(file.bytes()).contains("training means"));
    }
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
    let prediction = file.model().predict(&[0.0]).unwrap();
    assert_eq!((prediction.class, prediction.probability), (3, 0.375));
}

#[test]
fn values_are_compared_in_single_precision_with_thresholds_in_double() {
    // 0.1 is 0.10000000149... in single precision, more than the threshold.
    let tree = split(0, 0.1, true, leaf(&[1.0, 0.0]), leaf(&[0.0, 1.0]));
    let model = File::new(&[("x", 0, -ANY, ANY)], &[0, 1], 1, &tree).model();
    let class = |value| model.predict(&[value]).unwrap().class;
    assert_eq!(class(0.1), 1);
    assert_eq!(class(f64::from(0.1_f32.next_down())), 0);
    assert_eq!(class(f64::NAN), 0);
    for value in [ANY, -ANY, f64::MAX] {
        let error = model.predict(&[value]).unwrap_err();
        assert_eq!((error.feature(&model), error.refusal), (Some(0), Refusal::TooLarge));
    }
}

#[test]
fn a_row_of_another_length_is_the_callers_mistake() {
    let model = credit().0.model();
    for length in [0, 3, 5] {
        assert!(catch_unwind(AssertUnwindSafe(|| model.predict(&vec![0.0; length]))).is_err());
    }
}

#[test]
fn a_file_of_everything_answers_and_refuses() {
    let model = everything().model();
    assert_eq!(model.features()[3].texts, ["red", "green", "blue"]);
    assert_eq!((model.features()[3].code("blue"), model.features()[3].code("Red")), (2.0, -1.0));
    let red = [1.0, 2.0, 0.0, 0.0];
    let with = |feature: usize, value: f64| {
        let mut row = red;
        row[feature] = value;
        model.predict(&row)
    };
    assert!(model.predict(&red).is_ok());
    assert!(with(0, f64::NAN).is_ok());
    for (feature, value, refusal) in [
        (0, ANY, Refusal::TooLarge),
        (3, -1.0, Refusal::Unknown),
        (3, 1.0, Refusal::Unknown),
        (3, 5.0, Refusal::Unknown),
        (3, ANY, Refusal::Unknown),
    ] {
        let error = with(feature, value).unwrap_err();
        assert_eq!((error.feature(&model), error.refusal), (Some(feature), refusal), "{feature} {value}");
    }
}

/// A change to one step's record of the file with everything, which names that step.
fn step_refused(step: usize, field: usize, value: u32) {
    let mut file = everything();
    assert_ne!(file.steps[step][field], value);
    file.steps[step][field] = value;
    let found = refusal(file.bytes());
    assert!(found.contains("step ") || found.contains("slots") || found.contains("the steps use"), "{found}");
}

#[test]
fn every_count_of_every_step_is_checked() {
    for step in 0..everything().steps.len() {
        for field in 0..8 {
            for value in [u32::MAX, 1 << 31, 1 << 20] {
                step_refused(step, field, value);
            }
        }
        let file = everything();
        // One more or less of anything that a step has or writes.
        for field in 4..8 {
            step_refused(step, field, file.steps[step][field] + 1);
            if file.steps[step][field] > 0 {
                step_refused(step, field, file.steps[step][field] - 1);
            }
        }
    }
}

#[test]
fn what_steps_look_up_is_checked() {
    let changes: &[(&str, &str, Change)] = &[
        ("selects what is not written", "not yet written", |file| file.indices[12] = file.model[0]),
        ("keys descend", "do not ascend", |file| file.numbers[18] = 9.0),
        ("key NaN", "do not ascend", |file| file.numbers[18] = f64::NAN),
        ("too many keys", "column's record", |file| file.indices[0] = 3),
        ("keys far outside", "column's record", |file| file.indices[0] = u32::MAX),
        ("too few keys", "does not use all", |file| file.indices[0] = 1),
        ("lookup of unknown flags", "column's record", |file| file.indices[1] = 4),
        ("lookup reserved", "column's record", |file| file.indices[3] = 1),
        ("ordinal with a place", "column's record", |file| file.indices[2] = 1),
        ("hot outside", "place is not among", |file| file.indices[10] = 3),
        ("hot far outside", "place is not among", |file| file.indices[10] = u32::MAX),
        ("hot at a half", "place is not among", |file| file.numbers[26] = 0.5),
        ("hot at NaN", "place is not among", |file| file.numbers[26] = f64::NAN),
        ("hot below", "place is not among", |file| file.numbers[26] = -2.0),
    ];
    for (name, reason, change) in changes {
        let mut file = everything();
        change(&mut file);
        let found = refusal(file.bytes());
        assert!(found.contains(reason), "{name}: {found}");
    }
}

#[test]
fn every_changed_byte_of_a_file_of_everything_is_refused_or_harmless() {
    let bytes = everything().bytes();
    let (mut accepted, mut refused) = (0, 0);
    for at in 64..bytes.len() {
        for change in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            rehash(&mut changed);
            match Model::from_bytes(&changed) {
                Ok(model) => {
                    accepted += 1;
                    exercise(&model, &changed);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(accepted > 2_000 && refused > 5_000, "{accepted} accepted, {refused} refused");
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
        ("name behind the end", "outside the strings", |file| file.features[3].name.1 += 100),
        ("name far outside", "outside the strings", |file| file.features[0].name = (u32::MAX, u32::MAX)),
        ("name empty", "is empty", |file| file.features[0].name.1 = 0),
        ("name doubled", "two features are named Income", |file| file.features[0].name = file.features[1].name),
        ("type unknown", "unknown type 4", |file| file.features[0].kind = 4),
        ("feature half required", "neither required nor not", |file| file.features[0].required = 2),
        ("texts of a number", "texts that do not fit", |file| file.features[0].texts = 1),
        ("a text without texts", "texts that do not fit", |file| file.features[0].kind = 3),
        ("texts of no feature", "texts of no feature", |file| file.texts.push([0, 1])),
        ("range reversed", "no range", |file| file.features[0].minimum = 21.0),
        ("minimum NaN", "no range", |file| file.features[0].minimum = f64::NAN),
        ("maximum NaN", "no range", |file| file.features[0].maximum = f64::NAN),
        ("no features", "not 0", |file| file.features.clear()),
        ("positive class outside", "positive one among them", |file| file.model[2] = 2),
        ("slots", "says 5 slots, the steps have 6", |file| file.model[0] = 5),
        ("model reserved", "says 6 slots", |file| file.model[5] = 1),
        ("probabilities outside", "answer lies outside", |file| file.model[1] = 5),
        ("probabilities far outside", "answer lies outside", |file| file.model[1] = u32::MAX),
        ("decision outside", "answer lies outside", |file| file.model[4] = 5),
        ("decision unknown", "decision 4", |file| file.model[3] = 4),
        ("threshold without a use", "threshold does not fit", |file| file.threshold = 0.5),
        ("threshold NaN", "threshold does not fit", |file| (file.model[3], file.threshold) = (1, f64::NAN)),
        ("step of kind 0", "step 0: kind 0", |file| file.steps[0][0] = 0),
        ("step of kind 24", "step 1: kind 24", |file| file.steps[1][0] = 24),
        ("step reads what is not there", "step 0: it reaches past the slots", |file| file.steps[0][3] = 5),
        ("step reads far outside", "step 1: it reaches past the slots", |file| file.steps[1][2] = u32::MAX),
        ("step writes too much", "step 1: it reaches past the slots", |file| file.steps[1][4] = u32::MAX),
        ("numbers outside", "step 1: it reaches past the numbers", |file| file.steps[1][5] = u32::MAX),
        ("indices outside", "step 1: it reaches past the indices", |file| file.steps[1][6] = 1),
        ("trees outside", "step 1: it reaches past the trees", |file| file.steps[1][7] = 2),
        ("no trees", "step 1: its counts", |file| file.steps[1][7] = 0),
        ("argument unknown", "step 1: its counts", |file| file.steps[1][1] = 16),
        ("conversion unknown", "step 1: its counts", |file| file.steps[1][1] = 3),
        ("a tree that no step uses", "1 of 2 trees", |file| file.trees.push([11, 0])),
        ("numbers that no step uses", "14 of 15 numbers", |file| file.numbers.push(0.0)),
        ("indices that no step uses", "0 of 1 indices", |file| file.indices.push(0)),
        ("bitsets that no step uses", "0 of 1 bitsets", |file| file.bitsets.push(0)),
        ("class doubled", "are not different ones", |file| file.classes[0] = 1),
        ("no class", "are not different ones", |file| file.classes.clear()),
        ("root outside", "root does not follow", |file| file.trees[0][0] = 11),
        ("root far outside", "root does not follow", |file| file.trees[0][0] = u32::MAX),
        ("no nodes", "root does not follow", |file| file.nodes.clear()),
        ("root not first", "root does not follow", |file| file.trees[0][0] = 1),
        ("depth too small", "3 deep, its record says 2", |file| file.trees[0][1] = 2),
        ("depth too great", "3 deep, its record says 4", |file| file.trees[0][1] = 4),
        ("node of unknown flags", "node 0 has unknown flags", |file| file.nodes[0].flags = 16),
        ("split without a threshold", "node 0 has no threshold", |file| file.nodes[0].threshold = f64::NAN),
        ("feature outside", "node 1 asks for a feature", |file| file.nodes[1].feature = 4),
        ("child is the node itself", "children of node 1", |file| file.nodes[1].child = 1),
        ("child before its parent", "children of node 2", |file| file.nodes[2].child = 0),
        ("child far outside", "children of node 2", |file| file.nodes[2].child = u32::MAX),
        ("two parents", "children of node 2", |file| file.nodes[2].child = file.nodes[1].child),
        ("children outside", "children of node 4", |file| file.nodes.truncate(8)),
        ("node not reached", "11 of 12 nodes", |file| {
            file.nodes.push(Node { threshold: 0.0, feature: 0, flags: 1, child: 0 });
        }),
        ("set outside", "the set of node 0", |file| {
            (file.nodes[0].flags, file.nodes[0].threshold) = (4, f64::from_bits(1 << 32));
        }),
        ("set not next", "the set of node 0", |file| {
            (file.nodes[0].flags, file.nodes[0].threshold) = (4, f64::from_bits(1))
        }),
        ("leaf that lets the missing go left", "is no leaf", |file| file.nodes[10].flags = 3),
        ("leaf with a threshold", "is no leaf", |file| file.nodes[10].threshold = 1.0),
        ("leaf with a negative zero", "is no leaf", |file| file.nodes[10].threshold = -0.0),
        ("leaf with a feature", "is no leaf", |file| file.nodes[10].feature = 1),
        ("leaf row outside", "is no leaf", |file| file.nodes[10].child = 6),
        ("leaf value NaN", "not finite", |file| file.numbers[13] = f64::NAN),
        ("leaf value infinite", "not finite", |file| file.numbers[13] = ANY),
        ("weights missing", "10 training weights for 11", |file| file.covers.truncate(10)),
        ("weight zero", "weight of node 10", |file| {
            (file.covers[9], file.covers[10]) = (file.covers[5], 0.0);
        }),
        ("weight negative", "weight of node 10", |file| {
            (file.covers[9], file.covers[10]) = (file.covers[5] + 1.0, -1.0);
        }),
        ("weight NaN", "weight of node 5", |file| file.covers[10] = f64::NAN),
        ("weights infinite", "weight of node 0", |file| file.covers.fill(ANY)),
        ("weights that do not add up", "weight of node 5", |file| file.covers[10] *= 1.01),
        ("means of no step", "training means", |file| file.means.push(0.0)),
        ("reasons of some features", "not one a feature", |file| file.reasons.truncate(3)),
        ("reason outside the strings", "reason of feature Own_Housing", |file| file.reasons[3][1] += 1),
        ("numbers that are no rows", "step 1: its counts", |file| {
            file.numbers.pop();
            file.steps[1][5] -= 1;
        }),
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
        ("version 1", "format version 1", |bytes| set(bytes, 8, 1, 4)),
        ("version 2", "format version 2", |bytes| set(bytes, 8, 2, 4)),
        ("version 4", "format version 4", |bytes| set(bytes, 8, 4, 4)),
        ("length", "its header says", |bytes| set(bytes, 16, 5, 8)),
        ("longer than said", "its header says", |bytes| bytes.push(0)),
        ("header reserved", "reserved field of the header", |bytes| bytes[28] = 1),
        ("end of the header reserved", "reserved field of the header", |bytes| bytes[63] = 1),
        ("fourteen sections", "14 sections", |bytes| set(bytes, 12, 14, 4)),
        ("many sections", "4294967295 sections", |bytes| set(bytes, 12, u64::MAX, 4)),
        ("table cut", "table is truncated", |bytes| {
            bytes.truncate(64 + 479);
            set(bytes, 16, 64 + 479, 8);
        }),
        ("unknown kind", "entry of section reasons", |bytes| set(bytes, 64 + 14 * 32, 16, 4)),
        ("kind doubled", "entry of section strings", |bytes| set(bytes, 64 + 32, 1, 4)),
        ("element size", "entry of section nodes", |bytes| set(bytes, 64 + 10 * 32 + 4, 8, 4)),
        ("entry reserved", "entry of section metadata", |bytes| bytes[64 + 31] = 1),
        ("offset outside", "section bitsets lies outside", |bytes| set(bytes, 64 + 11 * 32 + 8, 1 << 40, 8)),
        ("offset overflows", "section bitsets lies outside", |bytes| set(bytes, 64 + 11 * 32 + 8, u64::MAX, 8)),
        ("length overflows", "section metadata lies outside", |bytes| set(bytes, 64 + 16, u64::MAX, 8)),
        ("length outside", "section bitsets lies outside", |bytes| set(bytes, 64 + 11 * 32 + 16, 1 << 20, 8)),
        ("half an element", "section nodes lies outside", |bytes| bytes[64 + 10 * 32 + 16] -= 8),
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
            sections[4].2.clear();
            *bytes = assemble(&sections);
        }),
        ("two model records", "exactly one model record", |bytes| {
            let mut sections = credit().0.sections();
            sections[4].2 = sections[4].2.repeat(2);
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
    sections.swap(0, 14);
    assert!(refusal(assemble(&sections)).contains("entry of section metadata"));
    for at in [24, 27, 64, 70] {
        let mut bytes = credit().0.bytes();
        bytes[at] ^= 1;
        assert!(refusal(bytes).contains("was changed"), "{at}");
    }
}

#[test]
fn too_many_features_are_refused_and_the_most_are_read_quickly() {
    let names: Vec<String> = (0..=1 << 16).map(|index| format!("x{index}")).collect();
    let features: Vec<(&str, u32, f64, f64)> = names.iter().map(|name| (name.as_str(), 0, -ANY, ANY)).collect();
    let tree = split(u16::MAX, 0.0, false, leaf(&[1.0, 0.0]), leaf(&[0.0, 1.0]));
    let model = File::new(&features[..1 << 16], &[0, 1], 1, &tree).model();
    let mut row = vec![0.0; 1 << 16];
    row[(1 << 16) - 1] = 1.0;
    assert_eq!(model.predict(&row).unwrap().class, 1);
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
    let (mut accepted, mut refused) = (0, 0);
    // Table, and the sections of which every bit means something.
    let strict: Vec<usize> = (64..64 + 384).chain(place(&bytes, 10)).collect();
    for at in 64..bytes.len() {
        for change in 1..=255 {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            rehash(&mut changed);
            match Model::from_bytes(&changed) {
                Ok(model) => {
                    // Padding counted to the strings is as good a model.
                    let harmless = at == 64 + 32 + 16;
                    assert!(harmless || !strict.contains(&at), "byte {at} ^ {change}");
                    accepted += 1;
                    if change.is_power_of_two() {
                        exercise(&model, &changed);
                    }
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
        .chain((0..8).map(|_| everything().bytes()))
        .chain(corpus::kept("models").into_iter().map(|(_, bytes)| bytes))
        .collect();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..50_000 {
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
        if withstands(&bytes) {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    println!("{accepted} files accepted, {refused} refused");
    assert!(accepted > 2_000 && refused > 30_000, "{accepted} accepted, {refused} refused");
}
