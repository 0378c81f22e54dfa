//! Answers of any bytes on the connection to the Runtime API: understood the same however they are cut into pieces, or refused.

use std::io::{self, Read};

use lambda_inference::runtime_api::{Answer, Answers};

/// Bytes that come in pieces of at most so many.
struct Pieces<'a> {
    bytes: &'a [u8],
    most: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.most.min(buffer.len());
        self.bytes.read(&mut buffer[..most])
    }
}

/// Reads one answer after the other as long as the connection goes on; how many there were.
pub fn withstands(bytes: &[u8]) -> usize {
    let whole = read(bytes, usize::MAX);
    for most in [1, 7] {
        let pieces = read(bytes, most);
        // In pieces nothing has come yet that nobody asked for, so that a connection may go on which else does not.
        assert_eq!(whole[..], pieces[..whole.len()], "in pieces of {most}");
    }
    whole.len()
}

/// The answers in bytes that come in pieces, each with its body.
fn read(bytes: &[u8], most: usize) -> Vec<(u16, Option<String>, Vec<u8>)> {
    let mut stream = Pieces { bytes, most };
    let mut answers = Answers::default();
    let mut found = Vec::new();
    let mut body = Vec::new();
    while let Ok(Answer { status, id, goes_on }) = answers.read(&mut stream, &mut body) {
        assert!((100..1000).contains(&status), "{status}");
        assert!(body.len() <= bytes.len(), "a body of more than came");
        found.push((status, id, body.clone()));
        if !goes_on {
            break;
        }
    }
    found
}
