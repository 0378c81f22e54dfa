//! State: one process at a time, across restarts, and when it was left half written.

mod support;

use std::{fs, path::Path, time::Duration};

use local_aws::{LocalCloud, Options, Running, StartError, running};
use serde_json::{Value, json};
use support::{echo_config, echo_layer, ecr, invoke, lambda, push, request, s3, settled, start, with_echo};

fn options(root: &Path, port: u16) -> Options {
    Options { root: root.to_owned(), port, region: "us-east-1".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_at_a_time() {
    let root = tempfile::tempdir().expect("a directory");
    assert_eq!(running(root.path()).await, None);
    let cloud = start(root.path()).await;
    let expected = Running { endpoint_url: cloud.endpoint_url().to_owned(), pid: std::process::id() };
    assert_eq!(running(root.path()).await, Some(expected));
    match LocalCloud::start(options(root.path(), 0)).await {
        Err(StartError::AlreadyRunning { endpoint_url, pid }) => {
            assert_eq!((endpoint_url.as_str(), pid), (cloud.endpoint_url(), std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    let port: u16 = cloud.endpoint_url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let other = tempfile::tempdir().expect("a directory");
    match LocalCloud::start(options(other.path(), port)).await {
        Err(StartError::PortTaken { port: taken }) => assert_eq!(taken, port),
        other => panic!("{other:?}"),
    }
    // Another state's cloud on the recorded port is not this one.
    fs::copy(root.path().join("endpoint.json"), other.path().join("endpoint.json")).expect("a copy");
    let text = fs::read_to_string(other.path().join("endpoint.json")).expect("a file");
    let mut stale: Value = serde_json::from_str(&text).expect("JSON");
    stale["id"] = json!("another");
    fs::write(other.path().join("endpoint.json"), stale.to_string()).expect("a file");
    assert_eq!(running(other.path()).await, None);
    cloud.shutdown().await;
    assert_eq!(running(root.path()).await, None);
    start(root.path()).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_a_restart() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    with_echo(&endpoint).await;
    lambda(&endpoint, "POST", "/2015-03-31/functions/echo/versions", &json!({})).await;
    let alias = json!({ "Name": "live", "FunctionVersion": "1" });
    lambda(&endpoint, "POST", "/2015-03-31/functions/echo/aliases", &alias).await;
    s3(&endpoint, "PUT", "/site", b"").await;
    s3(&endpoint, "PUT", "/site/a/b.txt", b"content").await;
    // An update that is in progress when the process ends is finished by the next one.
    let update = json!({ "Timeout": 7 });
    assert_eq!(lambda(&endpoint, "PUT", "/2015-03-31/functions/echo/configuration", &update).await.status, 200);
    cloud.shutdown().await;

    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    let configuration = settled(&endpoint, "echo").await;
    assert_eq!(configuration["Timeout"], 7);
    assert_eq!(configuration["LastUpdateStatus"], "Successful");
    let reply = invoke(&endpoint, "echo:live", &json!({ "n": 1 })).await;
    assert_eq!((reply.status, reply.header("x-amz-executed-version")), (200, Some("1")), "{}", reply.text());
    assert_eq!(s3(&endpoint, "GET", "/site/a/b.txt", b"").await.body, b"content");
    let images = ecr(&endpoint, "DescribeImages", &json!({ "repositoryName": "app" })).await.json();
    assert_eq!(images["imageDetails"][0]["imageTags"], json!(["1"]));
    cloud.shutdown().await;
}

/// The single file below a directory whose name ends like this.
fn find(directory: &Path, end: &str) -> std::path::PathBuf {
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                return path;
            }
        }
    }
    panic!("no {end} in {}", directory.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_state_is_named() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    with_echo(&endpoint).await;
    s3(&endpoint, "PUT", "/site", b"").await;
    s3(&endpoint, "PUT", "/site/a", b"a").await;
    cloud.shutdown().await;
    let files = [
        root.path().join("identity.json"),
        root.path().join("lambda").join("echo.json"),
        find(&root.path().join("ecr"), "repository.json"),
        find(&root.path().join("s3"), "bucket.json"),
        find(&root.path().join("s3").join("site").join("objects"), ".json"),
    ];
    for file in files {
        let whole = fs::read(&file).expect("a file");
        for damaged in [&whole[..whole.len() / 2], b"", b"[]", b"\xff\xfe"] {
            fs::write(&file, damaged).expect("a file");
            match LocalCloud::start(options(root.path(), 0)).await {
                Err(StartError::State(error)) => {
                    let text = format!("{error:#}");
                    assert!(text.contains(&file.display().to_string()) && text.contains("damaged"), "{text}");
                }
                other => panic!("{}: {other:?}", file.display()),
            }
        }
        fs::write(&file, whole).expect("a file");
    }
    let older = fs::read_to_string(root.path().join("identity.json"))
        .expect("a file")
        .replace("\"format\": 1", "\"format\": 99");
    fs::write(root.path().join("identity.json"), older).expect("a file");
    let error = LocalCloud::start(options(root.path(), 0)).await.expect_err("another format");
    assert!(error.to_string().contains("format 99"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_is_removed() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    let login = with_echo(&endpoint).await;
    s3(&endpoint, "PUT", "/site", b"").await;
    s3(&endpoint, "PUT", "/site/a", b"a").await;
    let begun = request(&endpoint, "POST", "/v2/app/blobs/uploads/", &[("authorization", &login)], b"").await;
    let place = begun.header("location").expect("a place").to_owned();
    assert_eq!(request(&endpoint, "PATCH", &place, &[("authorization", &login)], &[1; 5000]).await.status, 202);
    cloud.shutdown().await;
    let junk = [
        root.path().join("blobs/sha256/.tmp-abc"),
        root.path().join(format!("blobs/sha256/{}", "0".repeat(64))),
        root.path().join("lambda/.tmp-abc"),
        root.path().join("s3/site/objects/.tmp-abc"),
        root.path().join("s3/site/data/unowned"),
        root.path().join("rootfs/.tmp-abc"),
        root.path().join("ecr/half/links"),
        root.path().join("s3/half/data"),
        root.path().join("tmp/fn-abc"),
    ];
    for path in &junk {
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        if path.ends_with("links") || path.ends_with("data") || path.ends_with("rootfs/.tmp-abc") {
            fs::create_dir_all(path).expect("a directory");
        } else {
            fs::write(path, b"junk").expect("a file");
        }
    }
    assert_eq!(fs::read_dir(root.path().join("uploads")).expect("a directory").count(), 1);
    let cloud = start(root.path()).await;
    for path in &junk {
        assert!(!path.exists(), "{}", path.display());
    }
    assert_eq!(fs::read_dir(root.path().join("uploads")).expect("a directory").count(), 0);
    let endpoint = cloud.endpoint_url().to_owned();
    assert_eq!(request(&endpoint, "PATCH", &place, &[("authorization", &login)], b"1").await.status, 404);
    assert_eq!(invoke(&endpoint, "echo", &json!({})).await.status, 200);
    assert_eq!(s3(&endpoint, "GET", "/site/a", b"").await.body, b"a");
    cloud.shutdown().await;
}

fn alive(pid: u64) -> bool {
    // A process that ended and was not waited for yet still has an entry, but runs nothing.
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn functions_end_with_the_cloud() {
    for drops in [false, true] {
        let root = tempfile::tempdir().expect("a directory");
        let cloud = start(root.path()).await;
        let endpoint = cloud.endpoint_url().to_owned();
        with_echo(&endpoint).await;
        let idle = invoke(&endpoint, "echo", &json!({})).await.json()["pid"].as_u64().expect("a pid");
        let busy = tokio::spawn({
            let endpoint = endpoint.clone();
            async move { invoke(&endpoint, "echo", &json!({ "sleep_ms": 15_000 })).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(alive(idle));
        let begun = std::time::Instant::now();
        if drops {
            drop(cloud);
        } else {
            cloud.shutdown().await;
        }
        for _ in 0..200 {
            if !alive(idle) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!alive(idle), "dropped: {drops}");
        let _ = busy.await;
        assert!(begun.elapsed() < Duration::from_secs(5), "dropped: {drops}, {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_an_older_port_still_run() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    let login = with_echo(&endpoint).await;
    let digest = push(&endpoint, &login, "app", "2", &[echo_layer()], &echo_config()).await;
    cloud.shutdown().await;
    let cloud = start(root.path()).await;
    let now = cloud.endpoint_url().to_owned();
    let old = json!({ "ImageUri": format!("127.0.0.1:1/app@{digest}") });
    let reply = lambda(&now, "PUT", "/2015-03-31/functions/echo/code", &old).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let function = lambda(&now, "GET", "/2015-03-31/functions/echo", &Value::Null).await.json();
    let expected = format!("{}/app@{digest}", now.trim_start_matches("http://"));
    assert_eq!(function["Code"]["ResolvedImageUri"], expected);
    cloud.shutdown().await;
}
