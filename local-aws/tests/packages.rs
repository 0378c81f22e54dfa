//! Zip packages: from bytes or an object to a running function, and what packages may do to the machine that unpacks them.

mod support;

use std::{
    fs,
    io::{Cursor, Write},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{ROLE, Reply, echo_program, invoke, lambda, request, s3, settled, start, with_echo};
use zip::{ZipWriter, write::SimpleFileOptions};

enum Entry<'a> {
    File(&'a str, u32, &'a [u8]),
    Link(&'a str, &'a str),
}

fn package(entries: &[Entry]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        let options = SimpleFileOptions::default();
        match entry {
            Entry::File(name, mode, content) => {
                writer.start_file(*name, options.unix_permissions(*mode)).expect("an entry");
                writer.write_all(content).expect("content");
            }
            Entry::Link(name, target) => writer.add_symlink(*name, *target, options).expect("a link"),
        }
    }
    writer.finish().expect("a zip").into_inner()
}

fn echo_package(model: &[u8]) -> Vec<u8> {
    let program = fs::read(echo_program()).expect("the test function");
    package(&[Entry::File("bootstrap", 0o755, &program), Entry::File("model.bin", 0o644, model)])
}

fn inline(bytes: &[u8]) -> Value {
    json!({ "ZipFile": STANDARD.encode(bytes) })
}

async fn create(endpoint: &str, name: &str, code: &Value) -> Reply {
    let input = json!({
        "FunctionName": name, "Code": code, "Role": ROLE, "Runtime": "provided.al2023", "Handler": "bootstrap",
    });
    lambda(endpoint, "POST", "/2015-03-31/functions", &input).await
}

fn refused(reply: &Reply, message: &str) {
    assert_eq!((reply.status, reply.header("x-amzn-errortype")), (400, Some("InvalidParameterValueException")));
    assert!(reply.text().contains(message), "{}", reply.text());
}

fn sha256(bytes: &[u8]) -> String {
    STANDARD.encode(hex::decode(support::digest(bytes).trim_start_matches("sha256:")).expect("hex"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_from_a_bucket_runs_and_is_kept() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    let (first, second) = (echo_package(b"first"), echo_package(b"second"));
    s3(&endpoint, "PUT", "/site", b"").await;
    for (key, bytes) in [("first", &first), ("second", &second)] {
        assert_eq!(s3(&endpoint, "PUT", &format!("/site/{key}.zip"), bytes).await.status, 200);
    }
    let reply = create(&endpoint, "f", &json!({ "S3Bucket": "site", "S3Key": "first.zip" })).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let configuration = settled(&endpoint, "f").await;
    let expected = json!({
        "PackageType": "Zip", "Runtime": "provided.al2023", "Handler": "bootstrap", "State": "Active",
        "CodeSize": first.len(), "CodeSha256": sha256(&first),
    });
    for (member, value) in expected.as_object().expect("an object") {
        assert_eq!(configuration[member], *value, "{member}");
    }
    assert_eq!(invoke(&endpoint, "f", &json!({ "reply": 1 })).await.text(), "1");
    let env = invoke(&endpoint, "f", &json!({})).await.json()["env"].clone();
    assert_eq!(env["_HANDLER"], "bootstrap");
    let beside = fs::read(format!("{}/model.bin", env["LAMBDA_TASK_ROOT"].as_str().expect("a path")));
    assert_eq!(beside.expect("the model"), b"first");

    let published =
        lambda(&endpoint, "POST", "/2015-03-31/functions/f/versions", &json!({ "CodeSha256": "other" })).await;
    refused(&published, "different from current CodeSHA256");
    let input = json!({ "CodeSha256": sha256(&first) });
    assert_eq!(lambda(&endpoint, "POST", "/2015-03-31/functions/f/versions", &input).await.status, 201);
    let code = json!({ "S3Bucket": "site", "S3Key": "second.zip" });
    assert_eq!(lambda(&endpoint, "PUT", "/2015-03-31/functions/f/code", &code).await.status, 200);
    assert_eq!(settled(&endpoint, "f").await["CodeSha256"], sha256(&second));
    // What the bucket has is of no matter any more: Lambda keeps its own copy, over a new start, too.
    for key in ["first", "second"] {
        assert_eq!(s3(&endpoint, "DELETE", &format!("/site/{key}.zip"), b"").await.status, 204);
    }
    cloud.shutdown().await;
    fs::write(root.path().join("packages").join(format!("{}.zip", "0".repeat(64))), "nobody's").expect("a file");
    fs::remove_dir_all(root.path().join("rootfs")).expect("the unpacked code");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    let reply = request(&endpoint, "GET", "/_code/0", &[], b"").await;
    assert_eq!(reply.status, 404);
    assert_eq!(invoke(&endpoint, "f:1", &json!({ "reply": 2 })).await.text(), "2");
    let got = lambda(&endpoint, "GET", "/2015-03-31/functions/f?Qualifier=1", &Value::Null).await.json();
    assert_eq!(got["Code"]["RepositoryType"], "S3");
    let location = got["Code"]["Location"].as_str().and_then(|url| url.strip_prefix(&endpoint)).expect("a location");
    assert_eq!(request(&endpoint, "GET", location, &[], b"").await.body, first);
    assert_eq!(fs::read_dir(root.path().join("packages")).expect("a directory").count(), 2);
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_combinations_are_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    with_echo(&endpoint).await;
    let small = inline(&package(&[Entry::File("x", 0o644, b"x")]));
    s3(&endpoint, "PUT", "/site", b"").await;
    refused(&create(&endpoint, "f", &json!({})).await, "provide a source for function code");
    refused(&create(&endpoint, "f", &json!({ "ZipFile": "%" })).await, "base64");
    refused(&create(&endpoint, "f", &json!({ "ZipFile": "" })).await, "non-empty zip");
    refused(&create(&endpoint, "f", &inline(b"no zip")).await, "Could not unzip uploaded file");
    refused(
        &create(&endpoint, "f", &json!({ "S3Bucket": "site", "S3Key": "absent" })).await,
        "S3 Error Code: NoSuchKey",
    );
    refused(&create(&endpoint, "f", &json!({ "S3Bucket": "gone", "S3Key": "x" })).await, "S3 Error Code: NoSuchBucket");
    refused(&create(&endpoint, "f", &json!({ "S3Bucket": "site" })).await, "S3Key");
    refused(&create(&endpoint, "f", &json!({ "ImageUri": "x/y:1" })).await, "PackageType is Zip");
    let with = |members: Value| {
        let mut input = json!({ "FunctionName": "f", "Code": small, "Role": ROLE });
        input.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
        input
    };
    for (members, message) in [
        (json!({}), "Runtime and Handler are mandatory"),
        (json!({ "Runtime": "provided.al2023" }), "Runtime and Handler are mandatory"),
        (json!({ "Runtime": "rust", "Handler": "x" }), "Value rust at 'runtime'"),
        (json!({ "Runtime": "provided.al2023", "Handler": "x", "ImageConfig": { "Command": ["x"] } }), "ImageConfig"),
        (json!({ "PackageType": "Image" }), "PackageType is Image"),
    ] {
        refused(&lambda(&endpoint, "POST", "/2015-03-31/functions", &with(members)).await, message);
    }
    let python = json!({ "Runtime": "python3.13", "Handler": "x" });
    assert_eq!(lambda(&endpoint, "POST", "/2015-03-31/functions", &with(python)).await.status, 501);
    // A function's kind stays.
    refused(&lambda(&endpoint, "PUT", "/2015-03-31/functions/echo/code", &small).await, "Please provide ImageUri");
    assert_eq!(create(&endpoint, "f", &small).await.status, 201);
    settled(&endpoint, "f").await;
    let image = json!({ "ImageUri": format!("{}/app:1", endpoint.trim_start_matches("http://")) });
    refused(&lambda(&endpoint, "PUT", "/2015-03-31/functions/f/code", &image).await, "Please don't provide ImageUri");
    assert_eq!(create(&endpoint, "f", &small).await.status, 409);
    let handler = json!({ "Handler": "other" });
    assert_eq!(
        lambda(&endpoint, "PUT", "/2015-03-31/functions/f/configuration", &handler).await.json()["Handler"],
        "other"
    );
    let image = lambda(&endpoint, "PUT", "/2015-03-31/functions/echo/configuration", &handler).await;
    refused(&image, "PackageType is Image");
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_and_broken_packages_fail_as_on_lambda() {
    let area = tempfile::tempdir().expect("a directory");
    let root = area.path().join("cloud");
    let cloud = start(&root).await;
    let endpoint = cloud.endpoint_url().to_owned();
    let evil = package(&[Entry::File("../../../../../evil", 0o644, b"x")]);
    refused(&create(&endpoint, "f", &inline(&evil)).await, "Could not unzip uploaded file");
    let program = fs::read(echo_program()).expect("the test function");
    let outside = area.path().to_str().expect("a path");
    let broken = [
        (
            "missing",
            package(&[Entry::File("other", 0o755, &program)]),
            "Couldn't find valid bootstrap(s): [/var/task/bootstrap",
        ),
        ("nested", package(&[Entry::File("bin/bootstrap", 0o755, &program)]), "Couldn't find valid bootstrap(s)"),
        ("unexecutable", package(&[Entry::File("bootstrap", 0o644, &program)]), "permission denied"),
        ("others", package(&[Entry::File("bootstrap", 0o750, &program)]), "permission denied"),
        ("link", package(&[Entry::Link("bootstrap", "/bin/sh")]), "Couldn't find valid bootstrap(s)"),
        ("directory", package(&[Entry::File("bootstrap/x", 0o755, &program)]), "permission denied"),
        (
            "through",
            package(&[Entry::Link("l", outside), Entry::File("l/evil", 0o644, b"x")]),
            "Couldn't find valid bootstrap(s)",
        ),
    ];
    for (name, bytes, message) in broken {
        assert_eq!(create(&endpoint, name, &inline(&bytes)).await.status, 201, "{name}");
        assert_eq!(settled(&endpoint, name).await["State"], "Active", "{name}");
        let reply = invoke(&endpoint, name, &json!({})).await;
        assert_eq!((reply.status, reply.header("x-amz-function-error")), (200, Some("Unhandled")), "{name}");
        assert_eq!(reply.json()["errorType"], "Runtime.InvalidEntrypoint", "{name}");
        assert!(reply.text().contains(message), "{name}: {}", reply.text());
    }
    assert!(!area.path().join("evil").exists() && !root.join("evil").exists());
    assert_eq!(fs::read_dir(area.path()).expect("a directory").count(), 1);
    cloud.shutdown().await;
}
