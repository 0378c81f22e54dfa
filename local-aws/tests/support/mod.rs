//! What the tests share: a client that speaks plain HTTP and signs, images to push, and functions made of them.

#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use local_aws::{ACCESS_KEY_ID, LocalCloud, Options, SECRET_ACCESS_KEY};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The role of all functions.
pub const ROLE: &str = "arn:aws:iam::000000000000:role/test";

/// A cloud on a free port.
pub async fn start(root: &Path) -> LocalCloud {
    let options = Options { root: root.to_owned(), port: 0, region: "us-east-1".to_owned() };
    LocalCloud::start(options).await.expect("a cloud")
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// Its status; 0 when the connection ended without one.
    pub status: u16,
    /// Its header lines.
    pub head: String,
    /// Its body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Sends bytes and reads until the connection ends.
pub async fn raw(endpoint: &str, bytes: &[u8]) -> Reply {
    let address = endpoint.trim_start_matches("http://");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let _ = stream.write_all(bytes).await;
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        reply
    };
    let reply = tokio::time::timeout(Duration::from_secs(60), exchange).await.expect("an answer in time");
    let end = reply.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(reply.len());
    let head = String::from_utf8_lossy(&reply[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut body = reply.get(end + 4..).unwrap_or_default().to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = join_chunks(&body);
    }
    Reply { status, head, body }
}

fn join_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).unwrap_or(0);
        let Some(chunk) = rest.get(end + 2..end + 2 + length).filter(|_| length > 0) else { break };
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + length..).unwrap_or_default();
    }
    body
}

/// Sends one request with the headers given.
pub async fn request(endpoint: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let host = endpoint.trim_start_matches("http://");
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    raw(endpoint, &[text.as_bytes(), body].concat()).await
}

/// Sends one signed request.
pub async fn signed(
    endpoint: &str,
    service: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let host = endpoint.trim_start_matches("http://");
    let time = chrono::Utc::now().format("%Y%m%dT%H%M%SZ").to_string();
    let hash = hex::encode(Sha256::digest(body));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // S3 signs the path as it means it, all others as it was sent.
    let path = if service == "s3" { decode(path) } else { path.as_bytes().to_vec() };
    let path: Vec<String> = path.split(|byte| *byte == b'/').map(encode).collect();
    let path = path.join("/");
    let mut query: Vec<(String, String)> = query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (encode(&decode(name)), encode(&decode(value))))
        .collect();
    query.sort();
    let query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let names = "host;x-amz-content-sha256;x-amz-date";
    let canonical = format!(
        "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{time}\n\n{names}\n{hash}"
    );
    let scope = format!("{}/us-east-1/{service}/aws4_request", &time[..8]);
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let mut key = hmac(format!("AWS4{SECRET_ACCESS_KEY}").as_bytes(), &time.as_bytes()[..8]);
    for part in ["us-east-1", service, "aws4_request", &text] {
        key = hmac(&key, part.as_bytes());
    }
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/{scope}, SignedHeaders={names}, Signature={}",
        hex::encode(key)
    );
    let mut all =
        vec![("x-amz-date", time.as_str()), ("x-amz-content-sha256", &hash), ("authorization", &authorization)];
    all.extend_from_slice(headers);
    let reply = request(endpoint, method, target, &all, body).await;
    assert!(!reply.text().contains("signature we calculated"), "{method} {target} was not signed well");
    reply
}

fn decode(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

fn encode(bytes: &[u8]) -> String {
    const UNRESERVED: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encoding::percent_encode(bytes, UNRESERVED).to_string()
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::digest([&pad(0x36)[..], message].concat());
    Sha256::digest([&pad(0x5c)[..], &inner].concat()).to_vec()
}

/// Calls an operation of ECR.
pub async fn ecr(endpoint: &str, operation: &str, input: &Value) -> Reply {
    let target = format!("AmazonEC2ContainerRegistry_V20150921.{operation}");
    let headers = [("x-amz-target", target.as_str()), ("content-type", "application/x-amz-json-1.1")];
    signed(endpoint, "ecr", "POST", "/", &headers, input.to_string().as_bytes()).await
}

/// Calls an operation of Lambda; no body when the input is null.
pub async fn lambda(endpoint: &str, method: &str, path: &str, input: &Value) -> Reply {
    let body = if input.is_null() { String::new() } else { input.to_string() };
    signed(endpoint, "lambda", method, path, &[("content-type", "application/json")], body.as_bytes()).await
}

/// Calls S3.
pub async fn s3(endpoint: &str, method: &str, target: &str, body: &[u8]) -> Reply {
    signed(endpoint, "s3", method, target, &[], body).await
}

/// The registry's `Authorization` header.
pub async fn registry_login(endpoint: &str) -> String {
    let token = ecr(endpoint, "GetAuthorizationToken", &json!({})).await.json();
    format!("Basic {}", token["authorizationData"][0]["authorizationToken"].as_str().expect("a token"))
}

/// An entry of a layer.
pub enum Entry<'a> {
    /// A file with its mode.
    File(&'a str, u32, &'a [u8]),
    /// A directory.
    Directory(&'a str),
    /// A symbolic link and its target.
    Link(&'a str, &'a str),
    /// A hard link and its target.
    HardLink(&'a str, &'a str),
}

/// An uncompressed layer. Names are written as they are, also those that no honest archive has.
pub fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let (name, kind, mode, content, link) = match entry {
            Entry::File(name, mode, content) => (*name, tar::EntryType::Regular, *mode, *content, ""),
            Entry::Directory(name) => (*name, tar::EntryType::Directory, 0o755, &b""[..], ""),
            Entry::Link(name, to) => (*name, tar::EntryType::Symlink, 0o777, &b""[..], *to),
            Entry::HardLink(name, to) => (*name, tar::EntryType::Link, 0o644, &b""[..], *to),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        archive.append(&header, content).expect("an entry");
    }
    archive.into_inner().expect("a layer")
}

/// `sha256:<hex>`
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Pushes an image of these layers and returns its digest.
pub async fn push(
    endpoint: &str,
    login: &str,
    repository: &str,
    tag: &str,
    layers: &[Vec<u8>],
    config: &Value,
) -> String {
    let blobs: Vec<Vec<u8>> = layers
        .iter()
        .map(|layer| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(layer).expect("a layer");
            encoder.finish().expect("a layer")
        })
        .collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let configuration = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>() },
        "history": layers.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let describe = |kind: &str, blob: &[u8]| json!({ "mediaType": kind, "size": blob.len(), "digest": digest(blob) });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": describe("application/vnd.docker.container.image.v1+json", &configuration),
        "layers": blobs.iter().map(|blob| describe("application/vnd.docker.image.rootfs.diff.tar.gzip", blob)).collect::<Vec<_>>(),
    })
    .to_string();
    for blob in blobs.iter().chain([&configuration]) {
        let target = format!("/v2/{repository}/blobs/uploads/?digest={}", digest(blob));
        let reply = request(endpoint, "POST", &target, &[("authorization", login)], blob).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    let headers = [("authorization", login), ("content-type", "application/vnd.docker.distribution.manifest.v2+json")];
    let target = format!("/v2/{repository}/manifests/{tag}");
    let reply = request(endpoint, "PUT", &target, &headers, manifest.as_bytes()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    digest(manifest.as_bytes())
}

/// The test function's program, built with the tests.
pub fn echo_program() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    let directory = own.parent().and_then(Path::parent).expect("target/<profile>").join("examples");
    let program = directory.join("echo_runtime");
    if !program.exists() {
        // A single test program was asked for, and cargo builds examples only with all of them.
        let status = std::process::Command::new(env!("CARGO"))
            .args(["build", "--package", "local-aws", "--example", "echo_runtime"])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "building the test function");
    }
    program
}

/// A layer with the test function's program.
pub fn echo_layer() -> Vec<u8> {
    let program = std::fs::read(echo_program()).expect("the test function");
    layer(&[Entry::File("var/task/bootstrap", 0o755, &program)])
}

/// The configuration that runs it.
pub fn echo_config() -> Value {
    json!({ "Entrypoint": ["/var/task/bootstrap"], "WorkingDir": "/var/task" })
}

/// Creates a function of an image and waits until it is settled; its configuration.
pub async fn function(endpoint: &str, name: &str, image: &str) -> Value {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    let uri = format!("{}/{image}", endpoint.trim_start_matches("http://"));
    let input = json!({
        "FunctionName": name, "PackageType": "Image", "Role": ROLE, "Architectures": [architecture],
        "Code": { "ImageUri": uri }, "Timeout": 20,
    });
    let reply = lambda(endpoint, "POST", "/2015-03-31/functions", &input).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    settled(endpoint, name).await
}

/// Waits until a function is settled; its configuration.
pub async fn settled(endpoint: &str, name: &str) -> Value {
    for _ in 0..500 {
        let path = format!("/2015-03-31/functions/{name}/configuration");
        let configuration = lambda(endpoint, "GET", &path, &Value::Null).await.json();
        if configuration["State"] != "Pending" && configuration["LastUpdateStatus"] != "InProgress" {
            return configuration;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} did not settle");
}

/// Invokes a function.
pub async fn invoke(endpoint: &str, name: &str, event: &Value) -> Reply {
    lambda(endpoint, "POST", &format!("/2015-03-31/functions/{name}/invocations"), event).await
}

/// A cloud with a repository `app` and the test function `echo` of it; the registry's login.
pub async fn with_echo(endpoint: &str) -> String {
    assert_eq!(ecr(endpoint, "CreateRepository", &json!({ "repositoryName": "app" })).await.status, 200);
    let login = registry_login(endpoint).await;
    push(endpoint, &login, "app", "1", &[echo_layer()], &echo_config()).await;
    function(endpoint, "echo", "app:1").await;
    login
}
