//! Cutting a stream of text into chunks at the ends of records.

use std::io::Read;

use memchr::{memchr, memchr_iter, memrchr};

use super::{Chunk, Source};

/// Size of a chunk, in bytes: small enough for a processor's own cache, large enough to make what threads say to each other
/// cheap.
const CHUNK: usize = 256 * 1024;
/// Greatest size of a record, in bytes. A quote that is never closed makes one record of all that follows, which has to end
/// before the memory does.
const GREATEST_RECORD: usize = 16 * 1024 * 1024;

/// A stream of records that end with a line, cut into chunks.
pub(super) struct Chunks<R> {
    input: R,
    /// Where the last record that ends within bytes ends.
    last_end: fn(&[u8]) -> Option<usize>,
    /// Read already, for the next chunk.
    rest: Vec<u8>,
    line: u64,
    read: u64,
}

impl<R: Read> Chunks<R> {
    pub fn new(input: R, last_end: fn(&[u8]) -> Option<usize>) -> Chunks<R> {
        Chunks { input, last_end, rest: Vec::new(), line: 1, read: 0 }
    }

    /// Gives the end of a chunk back, to be the start of the next.
    pub fn give_back(&mut self, chunk: &Chunk, from: usize) {
        let back = &chunk.bytes[from..];
        self.rest.splice(0..0, back.iter().copied());
        self.line -= newlines(back);
        self.read -= back.len() as u64;
    }

    /// Reads up to `count` more bytes; false at the end of the input.
    fn read_more(&mut self, bytes: &mut Vec<u8>, count: usize) -> Result<bool, String> {
        let read = (&mut self.input).take(count as u64).read_to_end(bytes).map_err(|error| format!("read: {error}"))?;
        Ok(read == count)
    }
}

impl<R: Read + Send> Source for Chunks<R> {
    fn next(&mut self, chunk: &mut Chunk) -> Result<bool, String> {
        let bytes = &mut chunk.bytes;
        bytes.clear();
        bytes.append(&mut self.rest);
        // A record that is longer than the chunk is searched anew each time that what was read has doubled.
        while self.read_more(bytes, CHUNK.max(bytes.len()))? {
            if let Some(end) = (self.last_end)(bytes) {
                self.rest.extend_from_slice(&bytes[end..]);
                bytes.truncate(end);
                break;
            }
            if bytes.len() >= GREATEST_RECORD {
                return Err(format!(
                    "line {}: a record longer than {} MiB: is a quote left open?",
                    self.line,
                    GREATEST_RECORD >> 20
                ));
            }
        }
        chunk.first = self.line;
        self.line += newlines(&chunk.bytes);
        self.read += chunk.bytes.len() as u64;
        chunk.read = self.read;
        Ok(!chunk.bytes.is_empty())
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

/// The end of the last whole line.
pub(super) fn last_line_end(bytes: &[u8]) -> Option<usize> {
    memrchr(b'\n', bytes).map(|newline| newline + 1)
}

/// The end of the last whole record of a CSV, whose quoted fields may hold line ends. The bytes begin with a record.
pub(super) fn last_record_end(bytes: &[u8]) -> Option<usize> {
    let (mut end, mut at) = (None, 0);
    loop {
        let quote = opening_quote(bytes, at);
        let outside = &bytes[at..quote.unwrap_or(bytes.len())];
        end = last_line_end(outside).map(|line_end| at + line_end).or(end);
        let Some(close) = quote.and_then(|quote| closing_quote(bytes, quote + 1)) else { return end };
        at = close + 1;
    }
}

/// The next quote that opens a field: elsewhere than at its start a quote is a character like others.
fn opening_quote(bytes: &[u8], from: usize) -> Option<usize> {
    let mut quotes = memchr_iter(b'"', &bytes[from..]).map(|quote| from + quote);
    quotes.find(|quote| *quote == 0 || matches!(bytes[quote - 1], b',' | b'\n'))
}

/// The quote that closes a field; a doubled one stands for itself.
fn closing_quote(bytes: &[u8], mut from: usize) -> Option<usize> {
    loop {
        let quote = from + memchr(b'"', &bytes[from..])?;
        if bytes.get(quote + 1) != Some(&b'"') {
            return Some(quote);
        }
        from = quote + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks of a stream that gives a few bytes at a time.
    fn chunks(text: &[u8], last_end: fn(&[u8]) -> Option<usize>) -> Vec<(u64, Vec<u8>)> {
        let mut source = Chunks::new(text, last_end);
        let (mut chunk, mut found) = (Chunk::default(), Vec::new());
        while source.next(&mut chunk).unwrap() {
            found.push((chunk.first, chunk.bytes.clone()));
        }
        assert_eq!(chunk.read, text.len() as u64);
        found
    }

    #[test]
    fn a_quote_opens_only_at_the_start_of_a_field() {
        for (text, end) in [
            ("", None),
            ("a,b", None),
            ("a\nb", Some(2)),
            ("a\n\"b\nc", Some(2)),
            ("a\n\"b\nc\"\nd", Some(8)),
            ("a\"b\nc\"\nd", Some(7)),
            ("a,\"b\"\"\nc\"\nd", Some(10)),
            ("a,\"b\"\"\nc", None),
            ("a,\"b\"\"", None),
            ("\"a\"b\"\n\"\n\n", Some(6)),
            (" \"a\n\"\n", Some(4)),
            ("\"\"\n\"\"", Some(3)),
            ("\"\n\",\"\n\"\r\nx", Some(9)),
        ] {
            assert_eq!(last_record_end(text.as_bytes()), end, "{text:?}");
        }
    }

    #[test]
    fn chunks_are_whole_lines_and_know_their_number() {
        let text: Vec<u8> = (0..200_000).flat_map(|number| format!("{number}\n").into_bytes()).chain(*b"end").collect();
        let found = chunks(&text, last_line_end);
        assert!(found.len() > 4);
        assert_eq!(found.concat_bytes(), text);
        let mut lines = 1;
        for (index, (first, bytes)) in found.iter().enumerate() {
            assert_eq!(*first, lines);
            lines += newlines(bytes);
            assert_eq!(bytes.ends_with(b"\n"), index + 1 < found.len());
        }
    }

    #[test]
    fn a_record_longer_than_a_chunk_is_whole() {
        let long = format!("\"{}\"\nx\n", "y\n".repeat(CHUNK));
        let found = chunks(long.as_bytes(), last_record_end);
        assert_eq!((found.len(), found.concat_bytes() == long.as_bytes()), (1, true));
        let open = format!("a\n\"{}", "y\n".repeat(GREATEST_RECORD));
        let mut source = Chunks::new(open.as_bytes(), last_record_end);
        let mut chunk = Chunk::default();
        assert_eq!(source.next(&mut chunk), Ok(true));
        let error = source.next(&mut chunk).unwrap_err();
        assert_eq!(error, "line 2: a record longer than 16 MiB: is a quote left open?");
    }

    #[test]
    fn what_is_given_back_comes_again() {
        let mut source = Chunks::new(b"a\nb\nc".as_slice(), last_line_end);
        let mut chunk = Chunk::default();
        source.next(&mut chunk).unwrap();
        source.give_back(&chunk, 2);
        assert_eq!(source.next(&mut chunk), Ok(true));
        assert_eq!((chunk.bytes.as_slice(), chunk.first, chunk.read), (b"b\nc".as_slice(), 2, 5));
        assert_eq!(source.next(&mut chunk), Ok(false));
    }

    trait Concatenated {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl Concatenated for Vec<(u64, Vec<u8>)> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect()
        }
    }
}
