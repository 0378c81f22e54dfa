//! Nothing that arrives on the port may crash it: every request gets an answer that is not a failure of our own.

mod support;

use serde_json::{Value, json};
use support::{ecr, lambda, raw, registry_login, request, s3, signed, start, with_echo};

const ECR_OPERATIONS: &[&str] = &[
    "GetAuthorizationToken",
    "CreateRepository",
    "DescribeRepositories",
    "DeleteRepository",
    "PutImageTagMutability",
    "PutImageScanningConfiguration",
    "PutLifecyclePolicy",
    "GetLifecyclePolicy",
    "DeleteLifecyclePolicy",
    "SetRepositoryPolicy",
    "GetRepositoryPolicy",
    "DeleteRepositoryPolicy",
    "ListTagsForResource",
    "DescribeImages",
    "ListImages",
    "BatchGetImage",
    "BatchDeleteImage",
    "PutImage",
    "DescribeImageScanFindings",
    "NoSuchOperation",
    "",
];

/// Values that no member expects.
fn odd_values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(-1),
        json!(1e300),
        json!(""),
        json!("../../etc/passwd"),
        json!("a\0b"),
        json!("ü".repeat(300)),
        json!([]),
        json!([null, 1, {}]),
        json!({}),
        json!({ "": [] }),
        json!(true),
    ]
}

fn answered(what: &str, status: u16) {
    assert!((200..500).contains(&status) || status == 501, "{what}: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ecr_takes_anything() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    with_echo(&endpoint).await;
    let members = [
        "repositoryName",
        "imageIds",
        "imageId",
        "imageTag",
        "imageManifest",
        "maxResults",
        "nextToken",
        "tags",
        "repositoryNames",
        "imageScanningConfiguration",
        "lifecyclePolicyText",
        "resourceArn",
        "registryId",
        "filter",
        "imageTagMutability",
    ];
    for operation in ECR_OPERATIONS {
        for body in ["", "[]", "null", "{", "\"x\"", "\u{feff}{}"] {
            let target = format!("AmazonEC2ContainerRegistry_V20150921.{operation}");
            let reply = signed(&endpoint, "ecr", "POST", "/", &[("x-amz-target", &target)], body.as_bytes()).await;
            answered(&format!("{operation} {body}"), reply.status);
        }
        for value in odd_values() {
            let every: serde_json::Map<String, Value> =
                members.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
            answered(operation, ecr(&endpoint, operation, &Value::Object(every.clone())).await.status);
            // The same with what leads past the first check.
            let mut named = Value::Object(every);
            named["repositoryName"] = json!("app");
            named["registryId"] = Value::Null;
            if *operation != "DeleteRepository" {
                answered(operation, ecr(&endpoint, operation, &named).await.status);
            }
        }
    }
    let deep = "[".repeat(100_000);
    let reply = signed(
        &endpoint,
        "ecr",
        "POST",
        "/",
        &[("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.PutImage")],
        deep.as_bytes(),
    )
    .await;
    assert_eq!(reply.status, 400);
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda_takes_anything() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    with_echo(&endpoint).await;
    let f = "/2015-03-31/functions";
    let u = "/2021-10-31/functions";
    let operations: Vec<(&str, String)> = vec![
        ("POST", f.to_owned()),
        ("GET", format!("{f}?Marker=x&MaxItems=-1")),
        ("PUT", format!("{f}/echo/code")),
        ("PUT", format!("{f}/echo/configuration")),
        ("POST", format!("{f}/echo/versions")),
        ("GET", format!("{f}/echo/versions")),
        ("POST", format!("{f}/echo/aliases")),
        ("PUT", format!("{f}/echo/aliases/live")),
        ("GET", format!("{f}/echo/aliases/%00")),
        ("POST", format!("{f}/echo/policy")),
        ("GET", format!("{f}/echo/policy")),
        ("DELETE", format!("{f}/echo/policy/x")),
        ("POST", format!("{u}/echo/url")),
        ("PUT", format!("{u}/echo/url")),
        ("POST", format!("{f}/echo/invocations")),
        ("GET", format!("{f}/%2E%2E%2Fx")),
        ("GET", format!("{f}/a%3Ab%3Ac%3Ad%3Ae%3Af%3Ag%3Ah%3Ai")),
        ("GET", format!("{f}/%ff%fe")),
        ("GET", format!("{f}/echo?Qualifier=%24LATEST")),
        ("GET", format!("{f}/echo?Qualifier=99999999999999999999999")),
        ("PATCH", f.to_owned()),
        ("GET", "/2015-03-31/".to_owned()),
        ("GET", format!("{f}/a/b/c/d/e")),
    ];
    let members = [
        "FunctionName",
        "Role",
        "Code",
        "PackageType",
        "Architectures",
        "Timeout",
        "MemorySize",
        "Environment",
        "ImageConfig",
        "EphemeralStorage",
        "TracingConfig",
        "Tags",
        "ImageUri",
        "RevisionId",
        "Name",
        "FunctionVersion",
        "RoutingConfig",
        "StatementId",
        "Action",
        "Principal",
        "AuthType",
        "Cors",
        "InvokeMode",
        "Description",
        "Publish",
        "DryRun",
        "FunctionUrlAuthType",
        "InvokedViaFunctionUrl",
    ];
    for (method, path) in &operations {
        for body in ["", "[]", "null", "{", "\"x\""] {
            let reply = signed(&endpoint, "lambda", method, path, &[], body.as_bytes()).await;
            answered(&format!("{method} {path} {body}"), reply.status);
        }
        for value in odd_values() {
            let every = members.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
            answered(
                &format!("{method} {path} {value}"),
                lambda(&endpoint, method, path, &Value::Object(every)).await.status,
            );
            for name in members {
                let mut input = json!({
                    "FunctionName": "other", "Role": support::ROLE, "PackageType": "Image", "Code": { "ImageUri": "127.0.0.1:1/app:1" },
                    "Name": "a", "FunctionVersion": "1", "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*",
                });
                input[name] = value.clone();
                if *method == "POST" && (path == f || path.ends_with("aliases") || path.ends_with("policy")) {
                    answered(&format!("{method} {path} {input}"), lambda(&endpoint, method, path, &input).await.status);
                }
            }
        }
    }
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_takes_anything() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    let login = with_echo(&endpoint).await;
    assert_eq!(login, registry_login(&endpoint).await);
    let zero = "0".repeat(64);
    let paths = [
        "/v2".to_owned(),
        "/v2/_catalog".to_owned(),
        "/v2//".to_owned(),
        "/v2/app".to_owned(),
        "/v2/app/".to_owned(),
        "/v2/absent/manifests/1".to_owned(),
        "/v2/app/manifests/".to_owned(),
        "/v2/app/manifests/1".to_owned(),
        "/v2/app/manifests/-".to_owned(),
        format!("/v2/app/manifests/{}", "x".repeat(200)),
        format!("/v2/app/manifests/sha256:{zero}"),
        "/v2/app/manifests/sha256:..%2f..%2fidentity.json".to_owned(),
        "/v2/app/blobs/sha256:../../identity.json".to_owned(),
        "/v2/app/blobs/x".to_owned(),
        "/v2/../identity.json/blobs/x".to_owned(),
        "/v2/app/blobs/uploads/".to_owned(),
        "/v2/app/blobs/uploads/absent".to_owned(),
        "/v2/app/blobs/uploads/?digest=sha256:x".to_owned(),
        format!("/v2/app/blobs/uploads/?mount=sha256:{zero}&from=../x"),
        "/v2/app/tags/list?n=-1&last=%00".to_owned(),
        "/v2/app/tags/list?n=0".to_owned(),
        "/v2/app/referrers/x".to_owned(),
    ];
    let bodies: [&[u8]; 6] = [
        b"",
        b"{}",
        b"\xff\x00",
        b"{\"schemaVersion\": 2, \"mediaType\": \"application/vnd.oci.image.index.v1+json\", \"manifests\": [1]}",
        b"{\"schemaVersion\": 2, \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\", \"config\": [], \"layers\": [{}]}",
        b"{\"schemaVersion\": 2, \"mediaType\": \"x\"}",
    ];
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS"] {
        for path in &paths {
            for body in bodies {
                for extra in
                    [("range", "bytes=9-1"), ("content-range", "x-y"), ("content-type", "a/b; c"), ("x-a", "b")]
                {
                    let reply = request(&endpoint, method, path, &[("authorization", &login), extra], body).await;
                    answered(&format!("{method} {path} {extra:?}"), reply.status);
                }
            }
        }
    }
    // What only looks like an authorization.
    for value in [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Bearer x",
        "Basic QVdTOg==",
        "AWS4-HMAC-SHA256 Credential=,SignedHeaders=,Signature=",
    ] {
        assert_eq!(request(&endpoint, "GET", "/v2/", &[("authorization", value)], b"").await.status, 401, "{value}");
    }
    let wrong = format!("/v2/app/blobs/uploads/?digest=sha256:{zero}");
    let reply = request(&endpoint, "POST", &wrong, &[("authorization", &login)], b"x").await;
    assert_eq!((reply.status, &reply.json()["errors"][0]["code"]), (400, &json!("DIGEST_INVALID")));
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_takes_anything() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    s3(&endpoint, "PUT", "/site", b"").await;
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"] {
        for target in [
            "/",
            "/..",
            "/Bad_Name",
            "/site?policy=",
            "/site?publicAccessBlock=",
            "/site?location=",
            "/site?list-type=2&max-keys=x",
            "/site?continuation-token=%25&list-type=2",
            "/site?delete=",
            "/site?versioning=",
            "/site?uploads=",
            "/site/x?uploads=",
            "/site/x?partNumber=1&uploadId=x",
            "/site/x?partNumber=-1&uploadId=x",
            "/site/x?uploadId=..%2F..",
            "/site/x?acl=",
            "/site/x?versionId=7",
            "/site/..%2F..%2Fidentity.json",
            "/site/%00",
            "/site/x?torrent=",
            "/absent/x",
        ] {
            for body in [&b""[..], b"{", b"<", b"<Delete><Object></Object></Delete>", b"\xff\xfe"] {
                let reply = s3(&endpoint, method, target, body).await;
                answered(&format!("{method} {target} {}", String::from_utf8_lossy(body)), reply.status);
                if reply.status == 501 && method != "HEAD" {
                    assert!(reply.text().contains("<Message>S3 "), "{method} {target}: {}", reply.text());
                }
                let anonymous = request(&endpoint, method, target, &[("range", "bytes=x")], body).await;
                answered(&format!("anonymous {method} {target}"), anonymous.status);
                assert!(anonymous.status >= 400, "anonymous {method} {target}: {}", anonymous.text());
            }
        }
    }
    // A body that is not what it says leaves nothing behind, whole or broken off.
    let data = || std::fs::read_dir(root.path().join("s3/site/data")).expect("a directory").count();
    assert_eq!(data(), 0, "the last method was DELETE");
    let reply = signed(&endpoint, "s3", "PUT", "/site/wrong", &[("content-md5", "AAAA")], b"x").await;
    assert_eq!((reply.status, data()), (400, 0), "{}", reply.text());
    let length = [("content-length", "100")];
    let broken = signed(&endpoint, "s3", "PUT", "/site/broken", &length, b"short");
    let _ = tokio::time::timeout(std::time::Duration::from_millis(300), broken).await;
    for _ in 0..100 {
        if data() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(data(), 0);
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_takes_anything() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        b"GET http://127.0.0.1/ HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ] {
        // What is no whole request yet is waited for.
        let waited = std::time::Duration::from_millis(300);
        let Ok(reply) = tokio::time::timeout(waited, raw(&endpoint, bytes)).await else { continue };
        assert!(reply.status == 0 || reply.status >= 400, "{bytes:?}: {}", reply.status);
    }
    for path in ["/_url/", "/_url/echo", "/_url/%00/%00/", "/_local/", "/_local/x", "/%ff", "/2015-03-31/functions"] {
        let status = request(&endpoint, "GET", path, &[], b"").await.status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
    // A name that resolves to loopback is somebody else's origin.
    let foreign = b"GET /_local/health HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&endpoint, foreign).await.status, 421);
    // A body on the wire other than the one that was signed.
    let other = signed(&endpoint, "lambda", "GET", "/2015-03-31/functions", &[], b"").await;
    assert_eq!(other.status, 200, "{}", other.text());
    let service = signed(&endpoint, "inspector2", "POST", "/findings/list", &[], b"{}").await;
    assert_eq!(service.status, 501);
    assert!(service.text().contains("inspector2: POST /findings/list"), "{}", service.text());
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn iam_takes_anything() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    let operations = [
        "CreateRole",
        "GetRole",
        "ListRoles",
        "UpdateAssumeRolePolicy",
        "PutRolePolicy",
        "GetRolePolicy",
        "ListRolePolicies",
        "DeleteRolePolicy",
        "ListAttachedRolePolicies",
        "DeleteRole",
        "CreateOpenIDConnectProvider",
        "GetOpenIDConnectProvider",
        "ListOpenIDConnectProviders",
        "AddClientIDToOpenIDConnectProvider",
        "DeleteOpenIDConnectProvider",
        "NoSuchOperation",
        "",
    ];
    let members = ["RoleName", "AssumeRolePolicyDocument", "PolicyName", "PolicyDocument", "Url", "Marker", "MaxItems"];
    for operation in operations {
        for value in
            ["", "%00", "..%2F..%2Fx", "%FF%FE", "-1", "%7B%7D", "%5B%5B", "%7B%22Statement%22%3A%5B1%5D%7D", "x"]
        {
            let parameters: String = members.iter().map(|member| format!("&{member}={value}")).collect();
            let body = format!("Action={operation}{parameters}&ClientIDList.member.1={value}&Odd.member.x=1");
            let reply = signed(&endpoint, "iam", "POST", "/", &[], body.as_bytes()).await;
            answered(&format!("{operation} {value}"), reply.status);
        }
        for body in ["", "&&=&", "Action", &format!("Action={operation}")] {
            answered(body, signed(&endpoint, "iam", "POST", "/", &[], body.as_bytes()).await.status);
        }
    }
    cloud.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_take_anything() {
    let root = tempfile::tempdir().expect("a directory");
    let cloud = start(root.path()).await;
    let endpoint = cloud.endpoint_url().to_owned();
    for operation in
        ["CreateLogGroup", "DescribeLogGroups", "PutRetentionPolicy", "DeleteLogGroup", "NoSuchOperation", ""]
    {
        let target = format!("Logs_20140328.{operation}");
        let members = ["logGroupName", "logGroupNamePrefix", "limit", "nextToken", "retentionInDays"];
        let mut bodies: Vec<String> = ["", "[]", "null", "{", "{}"].map(str::to_owned).to_vec();
        for value in odd_values() {
            let every: serde_json::Map<String, Value> =
                members.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
            bodies.push(Value::Object(every).to_string());
        }
        for body in bodies {
            let reply = signed(&endpoint, "logs", "POST", "/", &[("x-amz-target", &target)], body.as_bytes()).await;
            answered(&format!("{operation} {body}"), reply.status);
        }
    }
    cloud.shutdown().await;
}
