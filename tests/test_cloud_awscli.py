"""The embedded cloud by the aws command line: the same way as boto3's tests, in one go, and its errors as a shell sees them."""

import json
import platform
from pathlib import Path

import pytest
import requests

from cloud_support import ROLE, Cloud

ARCHITECTURE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"


def refused(cloud: Cloud, code: str, *arguments: str) -> None:
    result = cloud.aws(*arguments, check=False)
    assert result.returncode != 0 and f"({code})" in result.stderr, result.stderr


def invoke(cloud: Cloud, tmp_path: Path, *arguments: str):
    target = tmp_path / "answer.json"
    meta = cloud.aws("lambda", "invoke", "--function-name", "echo", *arguments, str(target))
    return meta, json.loads(target.read_text())


def test_ecr_and_lambda(cloud: Cloud, echo_image, tmp_path: Path):
    made = cloud.aws(
        "ecr", "create-repository", "--repository-name", "team/app", "--image-tag-mutability", "IMMUTABLE",
        "--image-scanning-configuration", "scanOnPush=true",
    )
    uri = made["repository"]["repositoryUri"]
    assert uri == f"{cloud.host}/team/app"
    refused(cloud, "RepositoryAlreadyExistsException", "ecr", "create-repository", "--repository-name", "team/app")
    assert cloud.aws("ecr", "get-login-password").strip() == cloud.registry_login()[1]
    digests = [cloud.push(echo_image(str(number)), "team/app", str(number)) for number in (1, 2)]
    listed = cloud.aws("ecr", "list-images", "--repository-name", "team/app", "--query", "imageIds[].imageTag")
    assert listed == ["1", "2"]
    described = cloud.aws("ecr", "describe-images", "--repository-name", "team/app", "--image-ids", "imageTag=2")
    assert described["imageDetails"][0]["imageDigest"] == digests[1]
    scan = ["ecr", "describe-image-scan-findings", "--repository-name", "team/app", "--image-id", f"imageDigest={digests[0]}"]
    assert cloud.aws(*scan)["imageScanStatus"]["status"] == "UNSUPPORTED_IMAGE"
    # Its push began the only scan of the day.
    refused(cloud, "LimitExceededException", "ecr", "start-image-scan", "--repository-name", "team/app", "--image-id", "imageTag=1")
    refused(cloud, "UnknownOperationException", "ecr", "describe-registry")

    create = [
        "lambda", "create-function", "--function-name", "echo", "--package-type", "Image", "--role", ROLE,
        "--architectures", ARCHITECTURE, "--environment", "Variables={STAGE=test}", "--code",
    ]
    refused(cloud, "InvalidParameterValueException", *create, f"ImageUri={uri}:absent")
    function = cloud.aws(*create, f"ImageUri={uri}@{digests[0]}")
    assert function["State"] == "Pending" and function["CodeSha256"] == digests[0].removeprefix("sha256:")
    cloud.aws("lambda", "wait", "function-active-v2", "--function-name", "echo")
    meta, answer = invoke(cloud, tmp_path, "--payload", '{"Income": 1}')
    assert meta["StatusCode"] == 200 and meta["ExecutedVersion"] == "$LATEST"
    assert answer["event"] == {"Income": 1} and answer["env"]["STAGE"] == "test"
    meta, answer = invoke(cloud, tmp_path, "--payload", '{"fail": "no"}')
    assert meta["FunctionError"] == "Unhandled" and answer["errorMessage"] == "no"

    assert cloud.aws("lambda", "publish-version", "--function-name", "echo")["Version"] == "1"
    update = ["lambda", "update-function-code", "--function-name", "echo", "--image-uri", f"{uri}@{digests[1]}"]
    refused(cloud, "PreconditionFailedException", *update, "--revision-id", "stale")
    assert cloud.aws(*update)["LastUpdateStatus"] == "InProgress"
    cloud.aws("lambda", "wait", "function-updated-v2", "--function-name", "echo")
    assert cloud.aws("lambda", "publish-version", "--function-name", "echo")["Version"] == "2"
    named = ["--function-name", "echo", "--name", "live"]
    cloud.aws("lambda", "create-alias", *named, "--function-version", "1")
    canary = cloud.aws("lambda", "update-alias", *named, "--routing-config", "AdditionalVersionWeights={2=0.5}")
    assert canary["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.5}}
    refused(
        cloud, "ResourceNotFoundException", "lambda", "update-alias", *named, "--routing-config", "AdditionalVersionWeights={7=0.5}"
    )
    promoted = cloud.aws(
        "lambda", "update-alias", *named, "--function-version", "2", "--routing-config", "AdditionalVersionWeights={}"
    )
    assert "RoutingConfig" not in promoted
    assert invoke(cloud, tmp_path, "--qualifier", "live")[0]["ExecutedVersion"] == "2"

    alias = ["--function-name", "echo", "--qualifier", "live"]
    url = cloud.aws("lambda", "create-function-url-config", *alias, "--auth-type", "NONE")["FunctionUrl"]
    for statement, action, extra in [
        ("url", "lambda:InvokeFunctionUrl", ["--function-url-auth-type", "NONE"]),
        ("call", "lambda:InvokeFunction", ["--invoked-via-function-url"]),
    ]:
        assert requests.post(url, json={}).status_code == 403
        cloud.aws(
            "lambda", "add-permission", *alias, "--statement-id", statement, "--action", action, "--principal", "*", *extra
        )
    answer = requests.post(url, json={"Income": 2}).json()
    assert answer["version"] == "2" and json.loads(answer["event"]["body"]) == {"Income": 2}
    cloud.aws("lambda", "delete-function", "--function-name", "echo")
    refused(cloud, "ResourceNotFoundException", "lambda", "get-function", "--function-name", "echo")
    refused(cloud, "RepositoryNotEmptyException", "ecr", "delete-repository", "--repository-name", "team/app")
    cloud.aws("ecr", "delete-repository", "--repository-name", "team/app", "--force")


def test_s3(cloud: Cloud, tmp_path: Path):
    site = tmp_path / "web"
    (site / "assets").mkdir(parents=True)
    (site / "index.html").write_text("<h1>hi</h1>")
    (site / "assets" / "app.js").write_text("1")
    (tmp_path / "large").write_bytes(b"0123456789abcdef" * (1 << 20))
    cloud.aws("s3", "mb", "s3://site")
    cloud.aws("s3", "sync", str(site), "s3://site/web/")
    cloud.aws("s3", "cp", str(tmp_path / "large"), "s3://site/large")
    cloud.aws("s3", "cp", "s3://site/large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    listed = cloud.aws("s3", "ls", "--recursive", "s3://site/web/")
    assert [line.split()[-1] for line in listed.splitlines()] == ["web/assets/app.js", "web/index.html"]
    assert "PRE web/" in cloud.aws("s3", "ls", "s3://site/")
    head = cloud.aws("s3api", "head-object", "--bucket", "site", "--key", "web/index.html")
    assert head["ContentType"] == "text/html"
    assert cloud.aws("s3", "sync", str(site), "s3://site/web/") == "", "nothing changed, nothing is sent"
    cloud.aws("s3api", "delete-public-access-block", "--bucket", "site")
    grant = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::site/web/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [grant]})
    cloud.aws("s3api", "put-bucket-policy", "--bucket", "site", "--policy", policy)
    assert requests.get(f"{cloud.endpoint_url}/site/web/index.html").text == "<h1>hi</h1>"
    assert requests.get(f"{cloud.endpoint_url}/site/large").status_code == 403
    refused(cloud, "NoSuchBucket", "s3api", "list-objects-v2", "--bucket", "absent")
    refused(cloud, "404", "s3api", "head-object", "--bucket", "site", "--key", "absent")
    refused(cloud, "BucketNotEmpty", "s3api", "delete-bucket", "--bucket", "site")
    versioning = ["s3api", "put-bucket-versioning", "--bucket", "site", "--versioning-configuration", "Status=Enabled"]
    refused(cloud, "NotImplemented", *versioning)
    cloud.aws("s3", "rb", "--force", "s3://site")


@pytest.mark.parametrize("region", ["eu-central-1"])
def test_another_region(programs, tmp_path: Path, region: str):
    cloud = Cloud.start(programs["serve"], tmp_path / "cloud", region=region)
    try:
        cloud.aws("s3", "mb", "s3://site")
        assert cloud.aws("s3api", "get-bucket-location", "--bucket", "site") == {"LocationConstraint": region}
        refused(cloud, "BucketAlreadyOwnedByYou", "s3api", "create-bucket", "--bucket", "site",
                "--create-bucket-configuration", f"LocationConstraint={region}")
        repository = cloud.aws("ecr", "create-repository", "--repository-name", "app")["repository"]
        assert repository["repositoryArn"].startswith(f"arn:aws:ecr:{region}:")
    finally:
        cloud.stop()
