use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
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

const VARIABLES: [(&str, &str); 3] = [
    ("AWS_LAMBDA_FUNCTION_NAME", "x"),
    ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
    ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
];

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
    command.env_clear().envs(VARIABLES).env("AWS_LAMBDA_RUNTIME_API", api);
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
    // What is no JSON at all is an error of the invocation, and the next one is answered all the same.
    for answer in &answers[4..7] {
        assert_eq!(answer.0, "error", "{answer:?}");
        assert!(answer.1["errorMessage"].as_str().is_some_and(|message| !message.is_empty()));
    }
    assert!(answers[7].0 == "error" || answers[7].1["statusCode"] == 413, "{:?}", answers[7]);
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
    for name in VARIABLES.map(|(name, _)| name).into_iter().chain(["AWS_LAMBDA_RUNTIME_API"]) {
        let (code, err) = ended(program(&folder, "127.0.0.1:1").env_remove(name).spawn().unwrap());
        assert_eq!(code, 1);
        assert!(err.contains(&format!("{name} is not set")), "{err}");
    }
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "much"),
        ("AWS_LAMBDA_RUNTIME_API", ""),
        ("AWS_LAMBDA_RUNTIME_API", "not an address"),
        ("AWS_LAMBDA_RUNTIME_API", "http://127.0.0.1:1/x"),
    ] {
        let (code, err) = ended(program(&folder, "127.0.0.1:1").env(name, value).spawn().unwrap());
        assert_eq!(code, 1);
        assert!(err.contains(&format!("{name} is {value:?}")), "{err}");
    }
}
