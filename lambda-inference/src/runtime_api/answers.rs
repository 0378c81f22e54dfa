//! Reading the Runtime API's answers: HTTP/1, one after the other from a connection.

use std::io::{self, Read};
use std::ops::Range;

use super::Error;

/// Bytes that are asked of the connection at a time, and the greatest head of an answer.
const BUFFER: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;
/// Greatest event. Lambda's own bound is 6 MB.
const GREATEST_EVENT: usize = 16 << 20;

/// What reads the answers of a connection.
pub struct Answers {
    buffer: Box<[u8]>,
    /// Part of the buffer that was received and not yet understood.
    unread: Range<usize>,
}

/// An answer without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The invocation that it hands out, if it says one.
    pub id: Option<String>,
    /// Whether the connection can be used again.
    pub goes_on: bool,
}

/// The head of an answer.
struct Head {
    status: u16,
    id: Option<String>,
    body: Body,
    close: bool,
}

/// Where an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Body {
    Length(usize),
    Chunked,
    UntilClosed,
}

impl Default for Answers {
    fn default() -> Answers {
        Answers { buffer: vec![0; BUFFER].into_boxed_slice(), unread: 0..0 }
    }
}

impl Answers {
    /// Forgets what was received, for another connection.
    pub(super) fn forget(&mut self) {
        self.unread = 0..0;
    }

    /// Reads the next answer, whose body goes to `body`.
    ///
    /// # Errors
    /// The connection broke, or what came is no answer.
    pub fn read(&mut self, stream: &mut impl Read, body: &mut Vec<u8>) -> Result<Answer, Error> {
        let head = self.head(stream)?;
        self.body(stream, head.body, body)?;
        // What nobody asked for would be taken for the next answer.
        let goes_on = !head.close && self.unread.is_empty();
        Ok(Answer { status: head.status, id: head.id, goes_on })
    }

    /// Receives at least one more byte.
    pub(super) fn receive(&mut self, stream: &mut impl Read) -> io::Result<()> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.end == self.buffer.len() {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if self.unread.end == self.buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer's head is too long"));
        }
        loop {
            match stream.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.unread.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The answer's head, once it is whole.
    fn head(&mut self, stream: &mut impl Read) -> Result<Head, Error> {
        loop {
            if let Some((head, length)) = parse_head(&self.buffer[self.unread.clone()])? {
                self.unread.start += length;
                return Ok(head);
            }
            self.receive(stream).map_err(Error::Connection)?;
        }
    }

    fn body(&mut self, stream: &mut impl Read, end: Body, body: &mut Vec<u8>) -> Result<(), Error> {
        body.clear();
        match end {
            Body::Length(length) => self.take(stream, length, body),
            Body::Chunked => {
                loop {
                    let size = self.chunk_size(stream)?;
                    if size == 0 {
                        break;
                    }
                    self.take(stream, size, body)?;
                    if !self.line(stream)?.is_empty() {
                        return Err(Error::Malformed("a chunk does not end where it says"));
                    }
                }
                // Trailers, which say nothing that is needed.
                while !self.line(stream)?.is_empty() {}
                Ok(())
            }
            Body::UntilClosed => loop {
                self.take(stream, self.unread.len(), body)?;
                match self.receive(stream) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    Err(error) => return Err(Error::Connection(error)),
                }
            },
        }
    }

    /// Appends so many bytes to `body`.
    fn take(&mut self, stream: &mut impl Read, length: usize, body: &mut Vec<u8>) -> Result<(), Error> {
        if length > GREATEST_EVENT - body.len() {
            return Err(Error::Malformed("the event is larger than 16 MiB"));
        }
        let here = length.min(self.unread.len());
        body.extend_from_slice(&self.buffer[self.unread.start..][..here]);
        self.unread.start += here;
        let begin = body.len();
        body.resize(begin + length - here, 0);
        stream.read_exact(&mut body[begin..]).map_err(Error::Connection)
    }

    fn chunk_size(&mut self, stream: &mut impl Read) -> Result<usize, Error> {
        loop {
            match httparse::parse_chunk_size(&self.buffer[self.unread.clone()]) {
                Ok(httparse::Status::Complete((length, size))) => {
                    self.unread.start += length;
                    return usize::try_from(size).map_err(|_| Error::Malformed("a chunk is too large"));
                }
                Ok(httparse::Status::Partial) => self.receive(stream).map_err(Error::Connection)?,
                Err(_) => return Err(Error::Malformed("a chunk has no size")),
            }
        }
    }

    /// The next line, without its end.
    fn line(&mut self, stream: &mut impl Read) -> Result<&[u8], Error> {
        loop {
            let unread = &self.buffer[self.unread.clone()];
            if let Some(length) = unread.windows(2).position(|pair| pair == b"\r\n") {
                let begin = self.unread.start;
                self.unread.start += length + 2;
                return Ok(&self.buffer[begin..begin + length]);
            }
            self.receive(stream).map_err(Error::Connection)?;
        }
    }
}

/// Understands the head of an answer, if it is whole, and says how long it is.
fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Error::Malformed("its head is not that of HTTP/1")),
    };
    // The parser takes any three digits.
    let (Some(status @ 100..), Some(version)) = (answer.code, answer.version) else {
        return Err(Error::Malformed("it has no status"));
    };
    let mut head = Head { status, id: None, body: Body::UntilClosed, close: version == 0 };
    for header in answer.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| Error::Malformed("a header is not text"))?.trim();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("lambda-runtime-aws-request-id") {
            head.id = Some(value.to_string());
        } else if is("connection") {
            head.close |= value.eq_ignore_ascii_case("close");
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(Error::Malformed("it is coded in another way than in chunks"));
            }
            head.body = Body::Chunked;
        } else if is("content-length") && head.body != Body::Chunked {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let Some(length) = value.parse().ok().filter(|_| digits) else {
                return Err(Error::Malformed("its length is not a number"));
            };
            if head.body != Body::UntilClosed && head.body != Body::Length(length) {
                return Err(Error::Malformed("it has two lengths"));
            }
            head.body = Body::Length(length);
        }
    }
    if matches!(status, 100..=199 | 204 | 304) {
        head.body = Body::Length(0);
    }
    head.close |= head.body == Body::UntilClosed;
    Ok(Some((head, length)))
}
