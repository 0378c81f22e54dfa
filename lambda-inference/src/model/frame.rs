//! The frame of the file: header, checksum and section table, and reading little-endian numbers in place.

use std::ops::Range;

use super::{ModelError, refused};

const MAGIC: &[u8; 8] = b"TABMODEL";
const VERSION: u32 = 3;
const HEADER: usize = 64;
const TABLE_ENTRY: usize = 32;
/// Most bytes whose checksum is looked up byte for byte.
const LOOKED_UP: usize = 4096;
/// Kind and element size of every section, in the order in which they stand in the file.
const SECTIONS: [(u32, u32, &str); 15] = [
    (1, 1, "metadata"),
    (2, 1, "strings"),
    (3, 40, "features"),
    (4, 8, "texts"),
    (5, 32, "model"),
    (6, 8, "classes"),
    (7, 32, "steps"),
    (8, 8, "numbers"),
    (9, 4, "indices"),
    (10, 8, "trees"),
    (11, 16, "nodes"),
    (12, 4, "bitsets"),
    (13, 8, "covers"),
    (14, 8, "means"),
    (15, 8, "reasons"),
];

/// Where the sections lie in the file.
#[derive(Default)]
pub(super) struct Sections {
    pub metadata: Range<usize>,
    pub strings: Range<usize>,
    pub features: Range<usize>,
    pub texts: Range<usize>,
    pub model: Range<usize>,
    pub classes: Range<usize>,
    pub steps: Range<usize>,
    pub numbers: Range<usize>,
    pub indices: Range<usize>,
    pub trees: Range<usize>,
    pub nodes: Range<usize>,
    pub bitsets: Range<usize>,
    pub covers: Range<usize>,
    pub means: Range<usize>,
    pub reasons: Range<usize>,
}

/// Finds the sections of a file whose header, checksum and table are right.
pub(super) fn sections(bytes: &[u8]) -> Result<Sections, ModelError> {
    if bytes.len() < HEADER || bytes[..8] != MAGIC[..] {
        return refused("this is no model file: it does not begin with TABMODEL and a whole header");
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return refused(format!("the file has format version {version}, this program reads version {VERSION}"));
    }
    if u64_at(bytes, 16) != bytes.len() as u64 {
        let said = u64_at(bytes, 16);
        return refused(format!("the file has {} bytes, its header says {said}: truncated?", bytes.len()));
    }
    if bytes[28..HEADER].iter().any(|byte| *byte != 0) {
        return refused("a reserved field of the header is not zero");
    }
    if checksum(&bytes[HEADER..]) != u32_at(bytes, 24) {
        return refused("the file was changed: its content does not have the checksum in its header");
    }
    if u32_at(bytes, 12) != SECTIONS.len() as u32 {
        let found = u32_at(bytes, 12);
        return refused(format!("the file has {found} sections, version {VERSION} has {}", SECTIONS.len()));
    }
    let places = places(bytes)?;
    let [metadata, strings, features, texts, model, classes, steps, numbers, indices, trees, nodes, bitsets, rest @ ..] =
        places;
    let [covers, means, reasons] = rest;
    Ok(Sections {
        metadata,
        strings,
        features,
        texts,
        model,
        classes,
        steps,
        numbers,
        indices,
        trees,
        nodes,
        bitsets,
        covers,
        means,
        reasons,
    })
}

/// CRC-32 of zip and gzip. What is short is looked up byte for byte: the quicker ways begin by asking the processor what it can,
/// which a virtual machine answers in some twenty microseconds.
fn checksum(bytes: &[u8]) -> u32 {
    if bytes.len() > LOOKED_UP {
        return crc32fast::hash(bytes);
    }
    !bytes.iter().fold(!0, |rest: u32, byte| REMAINDERS[usize::from(rest as u8 ^ byte)] ^ (rest >> 8))
}

/// What each byte leaves of a division by CRC-32's polynomial, lowest bit first.
const REMAINDERS: [u32; 256] = {
    let mut remainders = [0; 256];
    let mut byte = 0;
    while byte < remainders.len() {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { 0xEDB8_8320 ^ (rest >> 1) } else { rest >> 1 };
            bit += 1;
        }
        remainders[byte] = rest;
        byte += 1;
    }
    remainders
};

/// The ranges of the section table, which follow each other without a hole.
fn places(bytes: &[u8]) -> Result<[Range<usize>; SECTIONS.len()], ModelError> {
    let mut places: [Range<usize>; SECTIONS.len()] = Default::default();
    let mut end = HEADER + TABLE_ENTRY * SECTIONS.len();
    if bytes.len() < end {
        return refused("the section table is truncated");
    }
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

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

pub(super) fn f64_at(bytes: &[u8], at: usize) -> f64 {
    f64::from_bits(u64_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_a_checksum_are_the_same() {
        assert_eq!(checksum(b"123456789"), 0xCBF4_3926);
        let bytes: Vec<u8> = (0..LOOKED_UP as u32 + 2).map(|index| ((index * index) >> 3) as u8).collect();
        for length in (0..300).chain(LOOKED_UP - 1..=bytes.len()) {
            assert_eq!(checksum(&bytes[..length]), crc32fast::hash(&bytes[..length]), "{length} bytes");
        }
    }
}
