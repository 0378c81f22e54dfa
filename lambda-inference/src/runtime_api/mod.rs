//! A client of the Lambda Runtime API: events in, answers out, over one connection that is kept.
//!
//! A function has one event at a time, so that reading and writing may block and nothing has to be scheduled. The interface is
//! AWS's "runtime API for custom runtimes" of 2018-06-01. What it says of an event beside its id is not needed here: an answer takes
//! microseconds of any deadline, and there are no calls to others that a trace could follow.

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

mod answers;

pub use answers::{Answer, Answers};

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
    answers: Answers,
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
        Client { address, stream: None, request: Vec::new(), answers: Answers::default() }
    }

    /// Connects ahead of the first request, so that the other side can do its part meanwhile.
    ///
    /// # Errors
    /// Nobody answers at the address.
    pub fn connect(&mut self) -> Result<(), Error> {
        let stream = TcpStream::connect(self.address).map_err(Error::Connection)?;
        // An answer must not wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(Error::Connection)?;
        self.answers.forget();
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
        let answer = self.exchange(&mut event.payload)?;
        if answer.status != 200 {
            return Err(Error::Status(answer.status));
        }
        let Some(id) = answer.id else { return Err(Error::Malformed("the event has no id")) };
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
    fn exchange(&mut self, body: &mut Vec<u8>) -> Result<Answer, Error> {
        if self.stream.is_some() {
            match self.attempt(body) {
                Ok(answer) => return Ok(answer),
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

    fn attempt(&mut self, body: &mut Vec<u8>) -> Result<Answer, Failure> {
        // Put back when it can be used again.
        let Some(mut stream) = self.stream.take() else {
            return Err(Failure::Unanswered(io::ErrorKind::NotConnected.into()));
        };
        stream.write_all(&self.request).map_err(Failure::Unanswered)?;
        self.answers.receive(&mut stream).map_err(Failure::Unanswered)?;
        let answer = self.answers.read(&mut stream, body).map_err(Failure::Final)?;
        if answer.goes_on {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}
