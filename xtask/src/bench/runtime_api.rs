//! A stand-in for the Lambda Runtime API on loopback that keeps time: when it handed an event out, when the answer was
//! there.
//!
//! It hands the same event out a given number of times; who asks for more waits until the stand-in ends, as a function
//! without traffic does. Every function under measurement gets a stand-in of its own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

const PREFIX: &str = "/2018-06-01/runtime/";
/// Connections served at once. A function uses one or two; the threads wait from the start, so that none has to be
/// started while the clock runs.
const WORKERS: usize = 3;
/// Bound of a head, and of a body.
const GREATEST: usize = 1 << 20;

/// One answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// When it had arrived whole.
    pub(super) at: Instant,
    /// From handing the event out until then.
    pub(super) round_trip: Duration,
    /// What the function returned.
    pub(super) body: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// Events not yet handed out.
    left: usize,
    handed_out: usize,
    handed_out_at: Option<Instant>,
    answers: Vec<Answer>,
    /// What the function said was wrong, or what was wrong about its requests.
    failure: Option<String>,
    connections: Vec<TcpStream>,
    closed: bool,
}

struct Shared {
    event: String,
    wanted: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    /// A worker that panicked has said so already: what it left is still worth reading.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stand-in; ends its connections and threads when dropped.
pub(super) struct RuntimeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl RuntimeApi {
    /// Listens on a free port, ready to hand `event` out `count` times.
    pub(super) fn start(event: &Value, count: usize) -> Result<RuntimeApi> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
        let address = listener.local_addr().context("read the port")?;
        let state = State { left: count, answers: Vec::with_capacity(count), ..State::default() };
        let shared = Arc::new(Shared {
            event: event.to_string(),
            wanted: count,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let mut api = RuntimeApi { address, shared, workers: Vec::new() };
        for _ in 0..WORKERS {
            let listener = listener.try_clone().context("share the listening socket")?;
            let shared = Arc::clone(&api.shared);
            api.workers.push(std::thread::spawn(move || work(&listener, &shared)));
        }
        Ok(api)
    }

    /// What `AWS_LAMBDA_RUNTIME_API` says.
    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Waits until every event is answered. `alive` is asked now and then, and ends the waiting with its error.
    ///
    /// # Errors
    /// The function reported an error, is no longer alive, or did not answer within `limit`.
    pub(super) fn wait(&self, limit: Duration, mut alive: impl FnMut() -> Result<()>) -> Result<Vec<Answer>> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.state();
        loop {
            if let Some(failure) = state.failure.take() {
                bail!("{failure}");
            }
            if state.answers.len() >= self.shared.wanted {
                return Ok(std::mem::take(&mut state.answers));
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} of {} events were answered within {} s",
                    state.answers.len(),
                    self.shared.wanted,
                    limit.as_secs()
                );
            }
            let pause = Duration::from_millis(100);
            let (guard, timeout) =
                self.shared.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if timeout.timed_out() {
                drop(state);
                alive()?;
                state = self.shared.state();
            }
        }
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        let connections = {
            let mut state = self.shared.state();
            state.closed = true;
            std::mem::take(&mut state.connections)
        };
        self.shared.changed.notify_all();
        for connection in connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
        for _ in &self.workers {
            // Wakes a worker that waits for a connection.
            let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// Serves one connection after the other.
fn work(listener: &TcpListener, shared: &Shared) {
    while let Ok((mut stream, _)) = listener.accept() {
        {
            let mut state = shared.state();
            if state.closed {
                return;
            }
            let Ok(handle) = stream.try_clone() else { continue };
            state.connections.push(handle);
        }
        let served = stream.set_nodelay(true).and_then(|()| serve(&mut stream, shared));
        let mut state = shared.state();
        if state.closed {
            return;
        }
        // A connection that the function breaks off is seen by its consequences; one that we cannot read is a fault.
        if let Err(error) = served
            && error.kind() == io::ErrorKind::InvalidData
        {
            state.failure.get_or_insert(format!("cannot read a request to the Runtime API: {error}"));
            drop(state);
            shared.changed.notify_all();
        }
    }
}

fn serve(stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    while let Some((request, arrived)) = receive(stream, &mut buffer)? {
        let Some(path) = request.path.strip_prefix(PREFIX) else {
            respond(stream, "404 Not Found", "{}")?;
            continue;
        };
        match (request.method.as_str(), path) {
            ("GET", "invocation/next") => {
                let mut state = shared.state();
                while state.left == 0 && !state.closed {
                    state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.closed {
                    return Ok(());
                }
                state.left -= 1;
                state.handed_out += 1;
                let response = next(state.handed_out, &shared.event);
                state.handed_out_at = Some(Instant::now());
                drop(state);
                stream.write_all(&response)?;
            }
            ("POST", path) if path.starts_with("invocation/") && path.ends_with("/response") => {
                let mut state = shared.state();
                let round_trip = state.handed_out_at.take().map_or(Duration::ZERO, |at| arrived - at);
                state.answers.push(Answer { at: arrived, round_trip, body: request.body });
                let done = state.answers.len() >= shared.wanted;
                drop(state);
                // Only then: waking the waiting thread for every answer would take processor time from the function.
                if done {
                    shared.changed.notify_all();
                }
                respond(stream, "202 Accepted", "{\"status\":\"OK\"}")?;
            }
            ("POST", path) if path == "init/error" || path.ends_with("/error") => {
                let text = String::from_utf8_lossy(&request.body).into_owned();
                shared.state().failure.get_or_insert(format!("it reported at {path}: {text}"));
                shared.changed.notify_all();
                respond(stream, "202 Accepted", "{\"status\":\"OK\"}")?;
            }
            _ => respond(stream, "404 Not Found", "{}")?,
        }
    }
    Ok(())
}

/// The answer to `GET invocation/next`, in one piece so that it travels in one.
fn next(number: usize, event: &str) -> Vec<u8> {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + Duration::from_secs(60);
    let headers = format!(
        "Lambda-Runtime-Aws-Request-Id: 00000000-0000-4000-8000-{number:012}\r\n\
         Lambda-Runtime-Deadline-Ms: {}\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:bench\r\n\
         Lambda-Runtime-Trace-Id: Root=1-00000000-000000000000000000000000;Sampled=0\r\n",
        deadline.as_millis()
    );
    message("200 OK", &headers, event)
}

fn message(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn respond(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    stream.write_all(&message(status, "", body))
}

/// A request.
#[derive(Debug, PartialEq)]
struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

/// The next whole request and when its last byte was here, or nothing when the other side is done. What came behind it
/// stays in `buffer`.
fn receive(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Option<(Request, Instant)>> {
    let mut piece = [0; 4096];
    // Taken before parsing, whose time is not the function's.
    let mut arrived = Instant::now();
    loop {
        if let Some((request, length)) = parse(buffer)? {
            buffer.drain(..length);
            return Ok(Some((request, arrived)));
        }
        let count = stream.read(&mut piece)?;
        arrived = Instant::now();
        match count {
            0 if buffer.is_empty() => return Ok(None),
            0 => return Err(malformed("the connection ended in the middle of a request")),
            count => buffer.extend_from_slice(&piece[..count]),
        }
    }
}

fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The request that `bytes` begin with and how many of them it takes, or nothing while it is not whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let Some(head_length) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > GREATEST { Err(malformed("the head has no end")) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..head_length]).map_err(|_| malformed("the head is not text"))?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1"), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed("the first line is not that of an HTTP/1.1 request"));
    };
    let mut length = 0;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("a header has no colon"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().map_err(|_| malformed("the length is not a number"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(malformed("a body without a length is not supported"));
        }
    }
    if length > GREATEST {
        return Err(malformed("the body is too long"));
    }
    let end = head_length + 4 + length;
    if bytes.len() < end {
        return Ok(None);
    }
    let body = bytes[head_length + 4..end].to_vec();
    Ok(Some((Request { method: method.to_string(), path: path.to_string(), body }, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_parsed_once_it_is_whole_and_leaves_the_next_one() {
        let text = b"POST /a/b HTTP/1.1\r\nhost: x\r\ncontent-LENGTH: 5\r\n\r\nhelloGET /c HTTP/1.1\r\n\r\n";
        let whole = text.len() - b"GET /c HTTP/1.1\r\n\r\n".len();
        for length in 0..whole {
            assert_eq!(parse(&text[..length]).unwrap(), None, "{length} bytes");
        }
        let (request, length) = parse(text).unwrap().unwrap();
        assert_eq!(request, Request { method: "POST".into(), path: "/a/b".into(), body: b"hello".to_vec() });
        assert_eq!(length, whole);
        let (request, _) = parse(&text[whole..]).unwrap().unwrap();
        assert_eq!(request, Request { method: "GET".into(), path: "/c".into(), body: Vec::new() });
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in [
            "nonsense\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1 x\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{text:?}");
        }
        assert!(parse(&vec![b'x'; GREATEST + 1]).is_err());
    }

    #[test]
    fn a_connection_may_end_between_requests_but_not_inside_one() {
        let mut buffer = Vec::new();
        assert!(receive(&mut &b""[..], &mut buffer).unwrap().is_none());
        assert!(receive(&mut &b"GET / HT"[..], &mut buffer).is_err());
    }

    /// Sends one request and reads the answer's head and body.
    fn ask(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    fn connect(api: &RuntimeApi) -> TcpStream {
        let stream = TcpStream::connect(api.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    const NEXT: &str = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn events_are_handed_out_and_answers_timed() {
        let api = RuntimeApi::start(&serde_json::json!({"Income": 1}), 2).unwrap();
        let mut stream = connect(&api);
        for number in ["one", "two"] {
            let event = ask(&mut stream, NEXT);
            assert!(event.contains("Lambda-Runtime-Aws-Request-Id: ") && event.ends_with("{\"Income\":1}"), "{event}");
            let answer =
                format!("POST /2018-06-01/runtime/invocation/7/response HTTP/1.1\r\nContent-Length: 3\r\n\r\n{number}");
            assert!(ask(&mut stream, &answer).starts_with("HTTP/1.1 202 "));
        }
        let answers = api.wait(Duration::from_secs(10), || Ok(())).unwrap();
        let bodies: Vec<_> = answers.iter().map(|answer| answer.body.as_slice()).collect();
        assert_eq!(bodies, [b"one", b"two"]);
        assert!(answers.iter().all(|answer| answer.round_trip > Duration::ZERO));
        // A third request waits until the end, and does not keep the stand-in from ending.
        stream.write_all(NEXT.as_bytes()).unwrap();
        drop(api);
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }

    #[test]
    fn a_reported_error_a_dead_function_and_silence_end_the_waiting() {
        let api = RuntimeApi::start(&Value::Null, 1).unwrap();
        let error = api.wait(Duration::from_millis(1), || Ok(())).unwrap_err().to_string();
        assert!(error.contains("0 of 1 events"), "{error}");
        let error = api.wait(Duration::from_secs(10), || bail!("it died")).unwrap_err().to_string();
        assert_eq!(error, "it died");
        let mut stream = connect(&api);
        ask(&mut stream, "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 8\r\n\r\nno model");
        let error = api.wait(Duration::from_secs(10), || Ok(())).unwrap_err().to_string();
        assert!(error.contains("init/error") && error.contains("no model"), "{error}");
    }
}
