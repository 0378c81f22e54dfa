use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::builder::credit;

const GOOD: &str = r#"{"Num_Children": 2, "Income": 90000, "Own_Car": 1, "Own_Housing": 1}"#;

/// A Runtime API that hands out some events, notes what is answered, and goes away.
struct RuntimeApi {
    listener: TcpListener,
}

/// What the program posted: the last part of the path (`response` or `error`) and the body.
type Answer = (String, Value);

impl RuntimeApi {
    fn new() -> RuntimeApi {
        RuntimeApi { listener: TcpListener::bind("127.0.0.1:0").expect("a port") }
    }

    fn address(&self) -> String {
        self.listener.local_addr().expect("an address").to_string()
    }

    /// The next connection; a program that ended will make none.
    fn accept(&self) -> TcpStream {
        self.listener.set_nonblocking(true).expect("set non-blocking");
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).expect("set blocking");
                    return stream;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < limit => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("the program does not connect: {error}"),
            }
        }
    }

    /// Hands out the events in order; gives the answers. The listener is closed when it returns.
    fn serve(self, events: &[&[u8]]) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut next = 0;
        loop {
            let stream = self.accept();
            stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
            let mut reader = BufReader::new(stream);
            while let Some((line, body)) = request(&mut reader) {
                let path = line.split(' ').nth(1).expect("a path").to_string();
                if path.ends_with("/runtime/invocation/next") {
                    assert!(line.starts_with("GET "), "{line}");
                    let Some(event) = events.get(next) else { return answers };
                    hand_out(reader.get_mut(), next, event);
                    next += 1;
                } else {
                    let (id, kind) = path.rsplit_once('/').expect("a path of parts");
                    assert!(
                        line.starts_with("POST ") && id.ends_with(&format!("/invocation/event-{}", next - 1)),
                        "{line}"
                    );
                    answers.push((kind.to_string(), serde_json::from_slice(&body).expect("JSON")));
                    let accepted = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
                    reader.get_mut().write_all(accepted).expect("write");
                }
            }
        }
    }
}

/// Reads a request: its first line and its body; none when the connection ended.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut first = String::new();
    if reader.read_line(&mut first).expect("a line") == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().expect("a length"),
            "transfer-encoding" => panic!("the body has a length that is known"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    Some((first, body))
}

fn hand_out(stream: &mut TcpStream, number: usize, event: &[u8]) {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nlambda-runtime-aws-request-id: event-{number}\r\n\
         lambda-runtime-deadline-ms: 4102444800000\r\nlambda-runtime-invoked-function-arn: arn:aws:lambda:eu-west-1:123456789012:function:x\r\n\r\n",
        event.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(event)).expect("write");
}

/// A folder as the image has it: the program with the model beside it.
fn unpacked() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    // Copied by another process: a child that a test running beside this one starts would inherit the open file from us for a
    // moment, in which the program cannot be executed.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_bootstrap")).arg(folder.path().join("bootstrap")).status();
    assert!(copied.expect("start cp").success());
    fs::write(folder.path().join("model.bin"), credit().0.bytes()).expect("write the model");
    folder
}

fn program(folder: &TempDir, api: &str) -> Command {
    let mut command = Command::new(folder.path().join("bootstrap"));
    command.env_clear().env("AWS_LAMBDA_RUNTIME_API", api);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the program to end by itself.
fn ended(mut child: Child) -> (i32, String) {
    let limit = Instant::now() + Duration::from_secs(30);
    while child.try_wait().expect("wait").is_none() {
        if Instant::now() > limit {
            child.kill().expect("end the program");
            panic!("the program does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let Output { status, stdout, stderr } = child.wait_with_output().expect("wait");
    let err = String::from_utf8(stderr).expect("UTF-8");
    assert!(stdout.is_empty());
    assert!(!err.contains("panicked"), "{err}");
    (status.code().expect("no signal"), err)
}

fn body(answer: &Answer) -> Value {
    assert_eq!(answer.0, "response", "{answer:?}");
    serde_json::from_str(answer.1["body"].as_str().expect("a body")).expect("JSON")
}

#[test]
fn events_are_answered_until_the_runtime_api_goes_away() {
    let folder = unpacked();
    let api = RuntimeApi::new();
    let child = program(&folder, &api.address()).spawn().expect("start the program");
    let context = json!({"http": {"method": "POST"}});
    let through_http = json!({"requestContext": context, "body": GOOD, "isBase64Encoded": false}).to_string();
    let denied = GOOD.replace("90000", "1");
    let wrong = GOOD.replace("90000", "\"many\"");
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let events: [&[u8]; 10] = [
        GOOD.as_bytes(),
        denied.as_bytes(),
        wrong.as_bytes(),
        b"null",
        b"{\"Income\": ",
        b"\xff\xfe",
        b"",
        deep.as_bytes(),
        through_http.as_bytes(),
        GOOD.as_bytes(),
    ];
    let answers = api.serve(&events);
    let (code, err) = ended(child);
    assert_eq!(answers.len(), events.len(), "{answers:?}");
    assert_eq!(answers[0].1["statusCode"], 200);
    assert!(answers[0].1["body"].as_str().unwrap().starts_with("{\"prediction\": 1, \"decision\": \"approved\""));
    assert_eq!(body(&answers[1])["decision"], "denied");
    assert_eq!((&answers[2].1["statusCode"], &body(&answers[2])["field"]), (&json!(400), &json!("Income")));
    assert_eq!(answers[3].1["statusCode"], 400);
    assert_eq!(answers[4].1["statusCode"], 400);
    // What is no text is an error of the invocation, and the next one is answered all the same.
    assert_eq!(answers[5].0, "error");
    assert_eq!(answers[5].1["errorType"], "Runtime.InvalidEvent");
    assert!(answers[5].1["errorMessage"].as_str().unwrap().contains("not UTF-8"), "{:?}", answers[5]);
    assert_eq!(answers[6].1["statusCode"], 400);
    assert_eq!(answers[7].1["statusCode"], 413);
    assert_eq!(answers[8].1, answers[0].1);
    assert_eq!(answers[9].1, answers[0].1);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("speak to the Runtime API"), "{err}");
}

#[test]
fn without_a_runtime_api_it_ends() {
    let folder = unpacked();
    let address = RuntimeApi::new().address();
    let (code, err) = ended(program(&folder, &address).spawn().unwrap());
    assert_eq!(code, 1);
    assert!(err.contains("speak to the Runtime API"), "{err}");
}

#[test]
fn without_a_model_it_says_so() {
    let folder = unpacked();
    let model = folder.path().join("model.bin");
    let mut bytes = fs::read(&model).unwrap();
    bytes[100] ^= 1;
    fs::write(&model, &bytes).unwrap();
    let (code, err) = ended(program(&folder, "127.0.0.1:1").spawn().unwrap());
    assert_eq!(code, 1);
    assert!(err.contains("refuse the model") && err.contains("the file was changed"), "{err}");
    fs::remove_file(&model).unwrap();
    let (code, err) = ended(program(&folder, "127.0.0.1:1").spawn().unwrap());
    assert_eq!(code, 1);
    assert!(err.contains("read the model") && err.contains("model.bin"), "{err}");
}

#[test]
fn the_model_can_lie_elsewhere() {
    let folder = unpacked();
    fs::rename(folder.path().join("model.bin"), folder.path().join("other.bin")).unwrap();
    let api = RuntimeApi::new();
    let mut command = program(&folder, &api.address());
    let child = command.env("MODEL_PATH", folder.path().join("other.bin")).spawn().unwrap();
    let answers = api.serve(&[GOOD.as_bytes()]);
    assert_eq!(body(&answers[0])["prediction"], 1);
    ended(child);
}

#[test]
fn an_environment_that_is_not_lambdas_is_named() {
    let folder = unpacked();
    let (code, err) = ended(program(&folder, "").env_remove("AWS_LAMBDA_RUNTIME_API").spawn().unwrap());
    assert_eq!(code, 1);
    assert!(err.contains("AWS_LAMBDA_RUNTIME_API is not set"), "{err}");
    for value in ["", "not an address", "127.0.0.1", "http://127.0.0.1:1/x", "127.0.0.1:99999"] {
        let (code, err) = ended(program(&folder, value).spawn().unwrap());
        assert_eq!(code, 1);
        assert!(err.contains(&format!("AWS_LAMBDA_RUNTIME_API is {value:?}")), "{err}");
    }
}

/// What is written for one request, and whether the connection is closed then.
type Scripted = (Vec<u8>, bool);

/// Serves the answers in order, whatever is asked, and then goes away; gives the requests.
fn scripted(folder: &TempDir, script: Vec<Scripted>) -> (Vec<(String, Vec<u8>)>, i32, String) {
    let api = RuntimeApi::new();
    let child = program(folder, &api.address()).spawn().expect("start the program");
    let mut requests = Vec::new();
    let mut script = script.into_iter();
    'connections: loop {
        let stream = api.accept();
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut reader = BufReader::new(stream);
        while let Some(request) = request(&mut reader) {
            let Some((answer, close)) = script.next() else { break 'connections };
            requests.push(request);
            // A program that has seen enough may have gone.
            let _ = reader.get_mut().write_all(&answer);
            if close {
                let _ = reader.get_mut().shutdown(Shutdown::Write);
                break;
            }
        }
        if script.len() == 0 {
            break;
        }
    }
    drop(api);
    let (code, err) = ended(child);
    (requests, code, err)
}

const ID: &str = "lambda-runtime-aws-request-id: event-0\r\n";
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

fn keep(answer: impl AsRef<[u8]>) -> Scripted {
    (answer.as_ref().to_vec(), false)
}

fn close(answer: impl AsRef<[u8]>) -> Scripted {
    (answer.as_ref().to_vec(), true)
}

/// An event with a length.
fn event(payload: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{ID}Content-Length: {}\r\n\r\n{payload}", payload.len())
}

#[test]
fn an_event_may_come_in_any_form_of_http() {
    let folder = unpacked();
    let (begin, end) = GOOD.split_at(10);
    let chunks = format!("{:x}\r\n{begin}\r\n{:X};a=b\r\n{end}\r\n0\r\nTrailer: x\r\n\r\n", begin.len(), end.len());
    let chunked = format!("HTTP/1.1 200 OK\r\n{ID}Transfer-Encoding: Chunked\r\n\r\n{chunks}");
    let until_closed = format!("HTTP/1.1 200 OK\r\n{ID}\r\n{GOOD}");
    let old = format!("HTTP/1.0 200 OK\r\n{ID}Content-Length: {}\r\n\r\n{GOOD}", GOOD.len());
    let last = event(GOOD).replace("Content-Length", "Connection: close\r\nX: \u{e4}\r\ncontent-LENGTH");
    let script = vec![
        keep(chunked),
        // Closed without a word after a request was answered: the next one goes over a new connection.
        close(ACCEPTED),
        close(until_closed),
        keep(ACCEPTED),
        close(old),
        keep(ACCEPTED),
        close(last),
        keep("HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ];
    let (requests, code, err) = scripted(&folder, script);
    assert_eq!((requests.len(), code), (8, 1), "{err}");
    for (index, (line, body)) in requests.iter().enumerate() {
        if index % 2 == 0 {
            assert_eq!(line, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n");
        } else {
            assert_eq!(line, "POST /2018-06-01/runtime/invocation/event-0/response HTTP/1.1\r\n");
            let answer: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(answer["statusCode"], 200, "{answer}");
        }
    }
}

#[test]
fn an_answer_that_meets_a_closed_connection_is_sent_again() {
    let folder = unpacked();
    // Closed behind the event, so that the answer has to go over a new connection.
    let (requests, code, err) = scripted(&folder, vec![close(event(GOOD)), keep(ACCEPTED)]);
    assert_eq!(code, 1, "{err}");
    let lines: Vec<&str> = requests.iter().map(|(line, _)| line.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["GET", "POST"], "{requests:?}");
}

#[test]
fn a_big_event_arrives_whole() {
    let folder = unpacked();
    let api = RuntimeApi::new();
    let child = program(&folder, &api.address()).spawn().unwrap();
    let padding = " ".repeat(6_000_000);
    let context = json!({"http": {"method": "POST"}});
    let wrapped = json!({"requestContext": context, "padding": padding, "body": GOOD}).to_string();
    let bare = format!("{padding}{GOOD}");
    let answers = api.serve(&[wrapped.as_bytes(), bare.as_bytes(), GOOD.as_bytes()]);
    ended(child);
    assert_eq!(body(&answers[0])["prediction"], 1);
    assert_eq!(answers[1].1["statusCode"], 413);
    assert_eq!(answers[2].1, answers[0].1);
}

#[test]
fn a_refused_answer_is_said_and_the_next_event_is_answered() {
    let folder = unpacked();
    let refused = "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}";
    let script = vec![keep(event(GOOD)), keep(refused), keep(event(GOOD)), keep(ACCEPTED)];
    let (requests, code, err) = scripted(&folder, script);
    assert_eq!((requests.len(), code), (4, 1));
    assert!(err.contains("refused the answer to event-0 with status 400"), "{err}");
}

#[test]
fn answers_of_the_runtime_api_that_are_none_end_the_program() {
    let folder = unpacked();
    let good = event(GOOD);
    let with = |header: &str| good.replace("Content-Length", &format!("{header}\r\nContent-Length"));
    let without_length = |headers: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{ID}{headers}\r\n\r\n{body}");
    let chunked = |body: &str| without_length("Transfer-Encoding: chunked", body);
    let cases = [
        ("not HTTP", "SSH-2.0-OpenSSH_9.6\r\n".to_string(), "its head is not that of HTTP/1"),
        ("HTTP/2", "HTTP/2 200 OK\r\n\r\n".to_string(), "its head is not that of HTTP/1"),
        ("nothing, twice", String::new(), "Connection re"),
        ("half a head", good[..30].to_string(), "unexpected end of file"),
        ("half an event", good[..good.len() - 1].to_string(), "fill whole buffer"),
        ("no id", good.replace(ID, ""), "the event has no id"),
        ("empty id", good.replace("event-0", ""), "the event's id is none"),
        ("a path as id", good.replace("event-0", "../../init/error"), "the event's id is none"),
        ("a line as id", good.replace("event-0", "a b HTTP/1.1"), "the event's id is none"),
        ("endless id", good.replace("event-0", &"x".repeat(200)), "the event's id is none"),
        ("endless head", with(&format!("x: {}", "x".repeat(20_000))), "head is too long"),
        (
            "too many headers",
            with(&"x: y\r\n".repeat(100)).replace("\r\n\r\nC", "\r\nC"),
            "its head is not that of HTTP/1",
        ),
        ("negative length", without_length("Content-Length: -1", GOOD), "its length is not a number"),
        ("signed length", without_length("Content-Length: +5", GOOD), "its length is not a number"),
        ("huge length", without_length("Content-Length: 18446744073709551616", GOOD), "its length is not a number"),
        ("large length", without_length("Content-Length: 18446744073709551615", GOOD), "larger than 16 MiB"),
        ("two lengths", with("Content-Length: 3"), "it has two lengths"),
        ("gzip", with("Transfer-Encoding: gzip"), "coded in another way"),
        ("chunk without size", chunked("x\r\n"), "a chunk has no size"),
        ("chunk of another size", chunked("2\r\n{ }\r\n0\r\n\r\n"), "a chunk does not end where it says"),
        ("huge chunk", chunked("ffffffffffffffff\r\n"), "larger than 16 MiB"),
        ("half a chunk", chunked("20\r\n{"), "fill whole buffer"),
        ("no last chunk", chunked("2\r\n{}\r\n"), "unexpected end of file"),
        ("gone", "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n".to_string(), "it answered with status 410"),
        ("no event", "HTTP/1.1 204 No Content\r\n\r\n".to_string(), "it answered with status 204"),
    ];
    for (what, answer, reason) in cases {
        let (requests, code, err) = scripted(&folder, vec![close(&answer)]);
        assert_eq!((requests.len(), code), (1, 1), "{what}: {err}");
        assert!(err.contains("speak to the Runtime API: ") && err.contains(reason), "{what}: {err}");
    }
    let broken = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    let (_, code, err) = scripted(&folder, vec![keep(event(GOOD)), keep(broken)]);
    assert!(code == 1 && err.contains("it answered with status 500"), "{err}");
}

#[test]
fn a_refused_model_is_reported_before_the_program_ends() {
    let folder = unpacked();
    fs::write(folder.path().join("model.bin"), b"no model").unwrap();
    let (requests, code, err) = scripted(&folder, vec![keep(ACCEPTED)]);
    assert_eq!(code, 1);
    let (line, body) = &requests[0];
    assert_eq!(line, "POST /2018-06-01/runtime/init/error HTTP/1.1\r\n");
    let error: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(error["errorType"], "Runtime.ModelRefused");
    let message = error["errorMessage"].as_str().unwrap();
    assert!(message.contains("refuse the model") && err.trim() == message, "{err}");
}

#[test]
fn the_digest_beside_the_model_is_what_answers_name() {
    let folder = unpacked();
    let beside = folder.path().join("model.bin.sha256");
    let told = "0123456789abcdef".repeat(4);
    fs::write(&beside, format!("{told}  model.bin\n")).unwrap();
    let api = RuntimeApi::new();
    let child = program(&folder, &api.address()).spawn().unwrap();
    let answers = api.serve(&[GOOD.as_bytes()]);
    ended(child);
    assert_eq!(body(&answers[0])["model"], format!("sha256:{told}"));
    fs::remove_file(&beside).unwrap();
    let api = RuntimeApi::new();
    let child = program(&folder, &api.address()).spawn().unwrap();
    let answers = api.serve(&[GOOD.as_bytes()]);
    ended(child);
    assert_eq!(body(&answers[0])["model"], credit().0.model().digest());
    let upper = format!("{}  model.bin\n", told.to_uppercase());
    for wrong in ["", "\n", &told, &told[1..], &format!("{told}0  x"), &upper, &format!("sha256:{told}"), "ä"] {
        fs::write(&beside, wrong).unwrap();
        let (code, err) = ended(program(&folder, "127.0.0.1:1").spawn().unwrap());
        assert_eq!(code, 1, "{wrong:?}");
        assert!(err.contains("refuse the model's digest") && err.contains("model.bin.sha256"), "{wrong:?}: {err}");
    }
    fs::remove_file(&beside).unwrap();
    fs::create_dir(&beside).unwrap();
    let (code, err) = ended(program(&folder, "127.0.0.1:1").spawn().unwrap());
    assert!(code == 1 && err.contains("read the model's digest"), "{err}");
}
