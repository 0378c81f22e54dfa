//! A client of the Lambda Runtime API: events in, answers out, over one connection that is kept.
//!
//! A function has one event at a time, so that reading and writing may block and nothing has to be scheduled. The interface is
//! AWS's "runtime API for custom runtimes" of 2018-06-01. What it says of an event beside its id is not needed here: an answer takes
//! microseconds of any deadline, and there are no calls to others that a trace could follow.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Bytes that are asked of the connection at a time, and the greatest head of an answer.
const BUFFER: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;
/// Greatest event. Lambda's own bound is 6 MB.
const GREATEST_EVENT: usize = 16 << 20;
const LONGEST_ID: usize = 128;

/// Why the conversation with the Runtime API cannot go on.
#[derive(Debug)]
pub enum Error {
    /// The connection could not be made, or broke.
    Connection(io::Error),
    /// What came is not an answer to what was asked; the reason.
    Malformed(&'static str),
    /// An answer with this status, which leaves nothing to do but to end.
    Status(u16),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connection(error) => write!(formatter, "{error}"),
            Error::Malformed(reason) => write!(formatter, "its answer is malformed: {reason}"),
            Error::Status(status) => write!(formatter, "it answered with status {status}"),
        }
    }
}

impl std::error::Error for Error {}

/// What the function is asked; filled anew by [`Client::next`].
#[derive(Debug, Default)]
pub struct Event {
    /// The invocation, which its answer names.
    pub id: String,
    /// The event as it came, JSON.
    pub payload: Vec<u8>,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is on its way to whoever asked.
    Accepted,
    /// Refused with this status, 400 to 499: too late or too large. The next event is another matter.
    Refused(u16),
}

/// The connection to the Runtime API.
pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    buffer: Box<[u8]>,
    /// Part of the buffer that was received and not yet understood.
    unread: std::ops::Range<usize>,
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

/// How an exchange failed.
enum Failure {
    /// Before a byte of the answer had come, as when the other side had closed a connection that nobody used.
    Unanswered(io::Error),
    Final(Error),
}

impl Client {
    /// A client that will connect to this address.
    pub fn new(address: SocketAddr) -> Client {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Client { address, stream: None, request: Vec::new(), buffer, unread: 0..0 }
    }

    /// Connects ahead of the first request, so that the other side can do its part meanwhile.
    ///
    /// # Errors
    /// Nobody answers at the address.
    pub fn connect(&mut self) -> Result<(), Error> {
        let stream = TcpStream::connect(self.address).map_err(Error::Connection)?;
        // An answer must not wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(Error::Connection)?;
        self.unread = 0..0;
        self.stream = Some(stream);
        Ok(())
    }

    /// Waits for the next event, however long that takes.
    ///
    /// # Errors
    /// There is no next event.
    pub fn next(&mut self, event: &mut Event) -> Result<(), Error> {
        self.begin_request("GET", format_args!("invocation/next"));
        self.request.extend_from_slice(b"\r\n");
        let head = self.exchange(&mut event.payload)?;
        if head.status != 200 {
            return Err(Error::Status(head.status));
        }
        let Some(id) = head.id else { return Err(Error::Malformed("the event has no id")) };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        // It becomes part of a path.
        if !(1..=LONGEST_ID).contains(&id.len()) || !id.bytes().all(is_plain) {
            return Err(Error::Malformed("the event's id is none"));
        }
        event.id = id;
        Ok(())
    }

    /// Answers an event; `answer` is JSON.
    ///
    /// # Errors
    /// The Runtime API cannot be told.
    pub fn respond(&mut self, event: &Event, answer: &[u8]) -> Result<Delivery, Error> {
        self.begin_request("POST", format_args!("invocation/{}/response", event.id));
        self.post(answer)
    }

    /// Says that an event has no answer.
    ///
    /// # Errors
    /// The Runtime API cannot be told.
    pub fn fail(&mut self, event: &Event, kind: &str, message: &str) -> Result<Delivery, Error> {
        self.begin_request("POST", format_args!("invocation/{}/error", event.id));
        self.post_error(kind, message)
    }

    /// Says that the function cannot start.
    ///
    /// # Errors
    /// The Runtime API cannot be told.
    pub fn fail_to_start(&mut self, kind: &str, message: &str) -> Result<Delivery, Error> {
        self.begin_request("POST", format_args!("init/error"));
        self.post_error(kind, message)
    }

    fn begin_request(&mut self, method: &str, path: fmt::Arguments<'_>) {
        self.request.clear();
        let address = self.address;
        self.write_head(format_args!("{method} /2018-06-01/runtime/{path} HTTP/1.1\r\nHost: {address}\r\n"));
    }

    fn write_head(&mut self, text: fmt::Arguments<'_>) {
        // Memory takes everything: there is no error to see.
        let _ = self.request.write_fmt(text);
    }

    fn post_error(&mut self, kind: &str, message: &str) -> Result<Delivery, Error> {
        self.write_head(format_args!("Lambda-Runtime-Function-Error-Type: {kind}\r\n"));
        let error = serde_json::json!({"errorType": kind, "errorMessage": message, "stackTrace": []});
        self.post(error.to_string().as_bytes())
    }

    /// Ends the request with a body, in one piece with its head so that it travels in one.
    fn post(&mut self, body: &[u8]) -> Result<Delivery, Error> {
        let length = body.len();
        self.write_head(format_args!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"));
        self.request.extend_from_slice(body);
        match self.exchange(&mut Vec::new())?.status {
            200..=299 => Ok(Delivery::Accepted),
            status @ 400..=499 => Ok(Delivery::Refused(status)),
            status => Err(Error::Status(status)),
        }
    }

    /// Sends the request and receives the answer, whose body goes to `body`.
    fn exchange(&mut self, body: &mut Vec<u8>) -> Result<Head, Error> {
        if self.stream.is_some() {
            match self.attempt(body) {
                Ok(head) => return Ok(head),
                Err(Failure::Final(error)) => return Err(error),
                // Whoever served the connection may have closed it between two requests: a new one tells.
                Err(Failure::Unanswered(_)) => {}
            }
        }
        self.connect()?;
        self.attempt(body).map_err(|failure| match failure {
            Failure::Unanswered(error) => Error::Connection(error),
            Failure::Final(error) => error,
        })
    }

    fn attempt(&mut self, body: &mut Vec<u8>) -> Result<Head, Failure> {
        // Put back when it can be used again.
        let Some(mut stream) = self.stream.take() else {
            return Err(Failure::Unanswered(io::ErrorKind::NotConnected.into()));
        };
        stream.write_all(&self.request).map_err(Failure::Unanswered)?;
        self.receive(&mut stream).map_err(Failure::Unanswered)?;
        let head = self.head(&mut stream).map_err(Failure::Final)?;
        self.body(&mut stream, head.body, body).map_err(Failure::Final)?;
        // What nobody asked for would be taken for the next answer.
        if !head.close && self.unread.is_empty() {
            self.stream = Some(stream);
        }
        Ok(head)
    }

    /// Receives at least one more byte.
    fn receive(&mut self, stream: &mut impl Read) -> io::Result<()> {
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
    let (Some(status), Some(version)) = (answer.code, answer.version) else {
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
