//! A file's bytes, where numbers and nodes lie as they may be used in place.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions};

/// Bytes that begin at a multiple of eight.
pub(super) enum Bytes {
    /// A copy, eight bytes a word, zeros behind the last ones; and how many bytes it is.
    Owned(Vec<u64>, usize),
    /// The pages of the file itself.
    Mapped(Mmap),
}

impl Bytes {
    /// Copies bytes, which may lie anywhere.
    pub fn copy(bytes: &[u8]) -> Bytes {
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Bytes::Owned(words, bytes.len())
    }

    /// Maps a file, all of its pages at once: asking for each of them when it is first read takes longer.
    ///
    /// # Safety
    /// Nobody changes or shortens the file as long as these bytes live.
    pub unsafe fn map(file: &File) -> io::Result<Bytes> {
        // SAFETY: what the caller promises is what mapping asks for.
        unsafe { MmapOptions::new().populate().map(file) }.map(Bytes::Mapped)
    }

    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Owned(words, length) => &bytemuck::cast_slice(words)[..*length],
            Bytes::Mapped(pages) => pages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_bytes_at_a_place_for_words() {
        let bytes: Vec<u8> = (0..41).collect();
        for begin in 0..9 {
            for end in begin..bytes.len() {
                let copy = Bytes::copy(&bytes[begin..end]);
                assert_eq!(copy.as_slice(), &bytes[begin..end]);
                assert!(copy.as_slice().as_ptr().cast::<u64>().is_aligned());
            }
        }
    }
}
