//! A function for tests: speaks the Runtime API with nothing but the standard library, and does what its event
//! asks for; the event of a function URL by its body.
//!
//! | event | effect |
//! |---|---|
//! | `{"sleep_ms": n}` | answers late |
//! | `{"exit": n}` | ends the process instead of answering |
//! | `{"fail": "text"}` | answers an error |
//! | `{"reply": …}` | answers just that |
//! | `{"big": n}` | answers a string of n bytes |
//! | anything else | `{"event": …, "env": {…}, "pid": n, "version": "…", "count": n}` |
//!
//! With `ECHO_INIT=exit` in its environment it ends before it asks for work, with `ECHO_INIT=error` it reports that it cannot start.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

const RUNTIME: &str = "/2018-06-01/runtime";

fn main() -> io::Result<()> {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API").map_err(io::Error::other)?;
    match std::env::var("ECHO_INIT").as_deref() {
        Ok("exit") => std::process::exit(7),
        Ok("error") => {
            let error = json!({ "errorType": "Echo.NoModel", "errorMessage": "there is no model" });
            exchange(&mut connect(&address)?, "POST", &format!("{RUNTIME}/init/error"), error.to_string().as_bytes())?;
            std::process::exit(1);
        }
        _ => {}
    }
    let mut connection = connect(&address)?;
    for count in 1_u64.. {
        let (headers, body) = exchange(&mut connection, "GET", &format!("{RUNTIME}/invocation/next"), b"")?;
        let id = headers.get("lambda-runtime-aws-request-id").cloned().unwrap_or_default();
        let event: Value = serde_json::from_slice(&body).unwrap_or_default();
        let orders = match &event["body"] {
            Value::String(body) if event.get("requestContext").is_some() => {
                serde_json::from_str(body).unwrap_or_default()
            }
            _ => event.clone(),
        };
        println!("echo {count}");
        if let Some(code) = orders["exit"].as_i64() {
            std::process::exit(i32::try_from(code).unwrap_or(1));
        }
        if let Some(milliseconds) = orders["sleep_ms"].as_u64() {
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        let (kind, answer) = if let Some(text) = orders["fail"].as_str() {
            ("error", json!({ "errorType": "Echo.Failed", "errorMessage": text }))
        } else if let Some(reply) = orders.get("reply") {
            ("response", reply.clone())
        } else if let Some(length) = orders["big"].as_u64() {
            ("response", Value::String("x".repeat(usize::try_from(length).unwrap_or_default())))
        } else {
            let env: BTreeMap<String, String> = std::env::vars().collect();
            let version = std::env::var("AWS_LAMBDA_FUNCTION_VERSION").unwrap_or_default();
            let directory = std::env::current_dir()?.display().to_string();
            let own = json!({
                "event": event, "env": env, "pid": std::process::id(), "version": version, "count": count, "directory": directory,
                "arn": headers.get("lambda-runtime-invoked-function-arn"), "deadline": headers.get("lambda-runtime-deadline-ms"),
            });
            ("response", own)
        };
        exchange(&mut connection, "POST", &format!("{RUNTIME}/invocation/{id}/{kind}"), answer.to_string().as_bytes())?;
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// One request on a kept connection.
fn exchange(
    connection: &mut BufReader<TcpStream>,
    method: &str,
    path: &str,
    body: &[u8],
) -> io::Result<(BTreeMap<String, String>, Vec<u8>)> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: runtime\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.get_mut().write_all(&[head.as_bytes(), body].concat())?;
    let mut headers = BTreeMap::new();
    let mut line = String::new();
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok((headers, body))
}
