"""The embedded cloud's Lambda by boto3: from an image to a weighted alias, its errors, and what survives a kill."""

import base64
import concurrent.futures
import hashlib
import io
import itertools
import json
import os
import platform
import random
import threading
import time
import zipfile
from collections import Counter

import pytest
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cloud_support import ROLE, Cloud, build_image, code, layer, repository, sha256

ARCHITECTURE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"


def function(cloud: Cloud, image, name: str = "echo", tag: str = "1", **options) -> str:
    """Creates a function of an image that is pushed now, and waits for it."""
    client = cloud.client("lambda")
    try:
        uri = repository(cloud)
    except ClientError:
        uri = f"{cloud.host}/team/app"
    digest = cloud.push(image, "team/app", tag)
    options = {"Timeout": 5, "Architectures": [ARCHITECTURE], **options}
    client.create_function(
        FunctionName=name, PackageType="Image", Code={"ImageUri": f"{uri}@{digest}"}, Role=ROLE, **options
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})
    return digest


def invoke(client, name="echo", event=None, **options):
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event or {}), **options)
    return json.loads(answer["Payload"].read()), answer



def zipped(program: bytes, model: bytes) -> bytes:
    """A package as other people's tools make it."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mode, content in (("bootstrap", 0o100755, program), ("model.txt", 0o100644, model)):
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return held.getvalue()


def test_from_zip_package_to_alias(cloud, functions, programs):
    program = programs["echo_runtime"].read_bytes()
    first, second = zipped(program, b"1"), zipped(program, b"2")
    options = {"Runtime": "provided.al2023", "Handler": "bootstrap", "Role": ROLE, "Architectures": [ARCHITECTURE]}
    functions.create_function(FunctionName="zipped", Code={"ZipFile": first}, Timeout=5, **options)
    functions.get_waiter("function_active_v2").wait(FunctionName="zipped", WaiterConfig={"Delay": 1})
    got = functions.get_function(FunctionName="zipped")
    assert requests.get(got["Code"]["Location"]).content == first
    digest = base64.b64encode(hashlib.sha256(first).digest()).decode()
    assert got["Configuration"]["CodeSha256"] == digest and got["Configuration"]["CodeSize"] == len(first)
    env = invoke(functions, "zipped")[0]["env"]
    assert open(env["LAMBDA_TASK_ROOT"] + "/model.txt").read() == "1" and env["_HANDLER"] == "bootstrap"
    assert functions.publish_version(FunctionName="zipped", CodeSha256=digest)["Version"] == "1"
    functions.create_alias(FunctionName="zipped", Name="live", FunctionVersion="1")

    store = cloud.client("s3")
    store.create_bucket(Bucket="packages")
    store.put_object(Bucket="packages", Key="second.zip", Body=second, IfNoneMatch="*")
    functions.update_function_code(FunctionName="zipped", S3Bucket="packages", S3Key="second.zip")
    functions.get_waiter("function_updated_v2").wait(FunctionName="zipped", WaiterConfig={"Delay": 1})
    for qualifier, model in (("live", "1"), ("$LATEST", "2")):
        root = invoke(functions, "zipped", Qualifier=qualifier)[0]["env"]["LAMBDA_TASK_ROOT"]
        assert open(f"{root}/model.txt").read() == model
    refused = ("InvalidParameterValueException", 400)
    assert code(functions.update_function_code, FunctionName="zipped", ImageUri=f"{cloud.host}/team/app:1") == refused
    absent = {"S3Bucket": "packages", "S3Key": "absent.zip"}
    assert code(functions.update_function_code, FunctionName="zipped", **absent) == refused
    huge = {"ZipFile": b"x" * 53_000_000}
    assert code(functions.update_function_code, FunctionName="zipped", **huge) == ("RequestEntityTooLargeException", 413)


def test_from_image_to_weighted_alias(cloud, functions, echo_image):
    digest = function(cloud, echo_image("1"), Environment={"Variables": {"STAGE": "test"}}, MemorySize=256)
    configuration = functions.get_function_configuration(FunctionName="echo")
    assert configuration["CodeSha256"] == digest.removeprefix("sha256:") and configuration["State"] == "Active"
    assert configuration["PackageType"] == "Image" and configuration["MemorySize"] == 256
    got = functions.get_function(FunctionName="echo")
    assert got["Code"]["ResolvedImageUri"] == f"{cloud.host}/team/app@{digest}"
    body, answer = invoke(functions, event={"Income": 1})
    assert body["event"] == {"Income": 1} and answer["ExecutedVersion"] == "$LATEST" and "FunctionError" not in answer
    env = body["env"]
    assert env["STAGE"] == "test" and env["MODEL"] == "1" and env["AWS_LAMBDA_FUNCTION_NAME"] == "echo"
    assert env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256" and env["AWS_REGION"] == "us-east-1"
    assert open(env["LAMBDA_TASK_ROOT"] + "/model.txt").read() == "1" and body["directory"].endswith("var/task")
    assert "CARGO_TARGET_DIR" not in env and env["HOME"] != os.environ.get("HOME")
    assert abs(int(body["deadline"]) / 1000 - time.time() - 5) < 2

    first = functions.publish_version(FunctionName="echo", CodeSha256=configuration["CodeSha256"], Description="one")
    assert first["Version"] == "1" and first["Description"] == "one"
    assert first["FunctionArn"].endswith(":function:echo:1")
    assert functions.publish_version(FunctionName="echo")["Version"] == "1"
    assert code(functions.publish_version, FunctionName="echo", CodeSha256="0" * 64) == ("InvalidParameterValueException", 400)

    second_digest = cloud.push(echo_image("2"), "team/app", "2")
    uri = f"{cloud.host}/team/app:2"
    dry = functions.update_function_code(FunctionName="echo", ImageUri=uri, DryRun=True)
    assert dry["CodeSha256"] == second_digest.removeprefix("sha256:")
    assert functions.get_function_configuration(FunctionName="echo")["CodeSha256"] == configuration["CodeSha256"]
    stale = {"FunctionName": "echo", "ImageUri": uri, "RevisionId": "stale"}
    assert code(functions.update_function_code, **stale) == ("PreconditionFailedException", 412)
    current = functions.get_function_configuration(FunctionName="echo")["RevisionId"]
    updated = functions.update_function_code(FunctionName="echo", ImageUri=uri, RevisionId=current)
    assert updated["LastUpdateStatus"] == "InProgress"
    assert code(functions.publish_version, FunctionName="echo") == ("ResourceConflictException", 409)
    assert code(functions.update_function_code, FunctionName="echo", ImageUri=uri) == ("ResourceConflictException", 409)
    assert code(functions.update_function_configuration, FunctionName="echo", Timeout=9) == ("ResourceConflictException", 409)
    functions.get_waiter("function_updated_v2").wait(FunctionName="echo", WaiterConfig={"Delay": 1})
    # The tag may move now, the function does not.
    cloud.push(echo_image("3"), "team/app", "2")
    assert invoke(functions)[0]["env"]["MODEL"] == "2"
    assert functions.publish_version(FunctionName="echo")["Version"] == "2"
    assert invoke(functions, Qualifier="1")[0]["env"]["MODEL"] == "1"
    versions = functions.list_versions_by_function(FunctionName="echo")["Versions"]
    assert [version["Version"] for version in versions] == ["$LATEST", "1", "2"]

    alias = functions.create_alias(FunctionName="echo", Name="live", FunctionVersion="1")
    assert code(functions.create_alias, FunctionName="echo", Name="live", FunctionVersion="1") == ("ResourceConflictException", 409)
    assert code(functions.create_alias, FunctionName="echo", Name="no", FunctionVersion="9") == ("ResourceNotFoundException", 404)
    for routing, expected in [
        ({"$LATEST": 0.1}, "InvalidParameterValueException"),
        ({"1": 0.1}, "InvalidParameterValueException"),
        ({"9": 0.1}, "ResourceNotFoundException"),
        ({"2": 1.5}, "ValidationException"),
        ({"2": -0.5}, "ValidationException"),
    ]:
        config = {"AdditionalVersionWeights": routing}
        assert code(functions.update_alias, FunctionName="echo", Name="live", RoutingConfig=config)[0] == expected, routing
    canary = {"FunctionName": "echo", "Name": "live", "RoutingConfig": {"AdditionalVersionWeights": {"2": 0.3}}}
    assert code(functions.update_alias, **canary, RevisionId="stale") == ("PreconditionFailedException", 412)
    changed = functions.update_alias(**canary, RevisionId=alias["RevisionId"])
    assert changed["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.3}} and changed["RevisionId"] != alias["RevisionId"]
    drawn = Counter()
    for _ in range(1000):
        body, answer = invoke(functions, Qualifier="live")
        assert body["version"] == answer["ExecutedVersion"] and body["arn"].endswith(":function:echo:live")
        drawn[answer["ExecutedVersion"]] += 1
    # Four standard deviations to each side.
    assert 242 < drawn["2"] < 358 and drawn["1"] + drawn["2"] == 1000
    promoted = functions.update_alias(
        FunctionName="echo", Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {}}
    )
    assert "RoutingConfig" not in promoted and promoted["FunctionVersion"] == "2"
    assert invoke(functions, Qualifier="live")[0]["env"]["MODEL"] == "2"
    assert [alias["Name"] for alias in functions.list_aliases(FunctionName="echo")["Aliases"]] == ["live"]

    assert code(functions.delete_function, FunctionName="echo", Qualifier="2") == ("ResourceConflictException", 409)
    functions.delete_function(FunctionName="echo", Qualifier="1")
    assert code(functions.get_function, FunctionName="echo", Qualifier="1") == ("ResourceNotFoundException", 404)
    functions.delete_function(FunctionName="echo")
    assert code(functions.get_function, FunctionName="echo") == ("ResourceNotFoundException", 404)
    assert code(functions.invoke, FunctionName="echo") == ("ResourceNotFoundException", 404)


def test_images_that_are_refused(cloud, functions, echo_layer, echo_image):
    uri = repository(cloud)
    other = "arm64" if ARCHITECTURE == "x86_64" else "amd64"
    cloud.push(build_image([echo_layer], other), "team/app", "other")
    cloud.push(build_image([echo_layer], history=False), "team/app", "bare")
    image = echo_image()
    cloud.push(image, "team/app", "good")
    index = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": image.media_type, "size": len(image.manifest), "digest": image.digest}],
    })
    pushed = requests.put(
        f"{cloud.endpoint_url}/v2/team/app/manifests/index", data=index, auth=cloud.registry_login(),
        headers={"content-type": "application/vnd.oci.image.index.v1+json"},
    )
    assert pushed.status_code == 201, pushed.text
    options = {"FunctionName": "f", "PackageType": "Image", "Role": ROLE, "Architectures": [ARCHITECTURE]}
    for reference, message in [
        (":absent", "does not exist"), (f"@{sha256(b'absent')}", "does not exist"), (":index", "media type"),
        (":other", "architecture"), (":bare", "UnsupportedImageLayerDetected"),
    ]:
        with pytest.raises(ClientError, match=message) as caught:
            functions.create_function(**options, Code={"ImageUri": uri + reference})
        assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
    elsewhere = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/app:good"
    assert code(functions.create_function, **options, Code={"ImageUri": elsewhere})[0] == "InvalidParameterValueException"
    good = {"ImageUri": uri + ":good"}
    for wrong, expected in [
        ({"Timeout": 901}, "ValidationException"), ({"MemorySize": 64}, "ValidationException"), ({"Role": "x"}, "ValidationException"),
        ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "InvalidParameterValueException"),
        ({"Environment": {"Variables": {"1": "x"}}}, "ValidationException"), ({"FunctionName": "a b"}, "ValidationException"),
        ({"Handler": "x"}, "InvalidParameterValueException"), ({"PackageType": "Zip"}, "InvalidParameterValueException"),
        ({"VpcConfig": {"SubnetIds": ["x"]}}, "NotImplemented"),
    ]:
        assert code(functions.create_function, **{**options, "Code": good, **wrong})[0] == expected, wrong
    functions.create_function(**options, Code=good)
    assert code(functions.create_function, **options, Code=good) == ("ResourceConflictException", 409)


def test_function_errors(cloud, functions, echo_image):
    function(cloud, echo_image(), Timeout=1)
    pid = invoke(functions)[0]["pid"]
    body, answer = invoke(functions, event={"fail": "no"})
    assert answer["StatusCode"] == 200 and answer["FunctionError"] == "Unhandled"
    assert body == {"errorType": "Echo.Failed", "errorMessage": "no"}
    assert invoke(functions)[0]["pid"] == pid, "an error is no reason for a new process"
    body, answer = invoke(functions, event={"exit": 3})
    assert answer["FunctionError"] == "Unhandled" and body["errorType"] == "Runtime.ExitError"
    assert body["errorMessage"].endswith("Runtime exited with error: exit status 3")
    after = invoke(functions)[0]
    assert after["pid"] != pid and after["count"] == 1
    begun = time.monotonic()
    body, answer = invoke(functions, event={"sleep_ms": 5000})
    assert time.monotonic() - begun < 3 and body["errorMessage"].endswith("Task timed out after 1.00 seconds")
    assert invoke(functions)[0]["pid"] != after["pid"]
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(after["pid"], 0)
            time.sleep(0.02)
    body, answer = invoke(functions, event={"big": 7_000_000})
    assert body["errorType"] == "Function.ResponseSizeTooLarge" and answer["FunctionError"] == "Unhandled"
    assert len(invoke(functions, event={"big": 6_000_000})[0]) == 6_000_000
    too_large = code(functions.invoke, FunctionName="echo", Payload=json.dumps("x" * (6 << 20)))
    assert too_large == ("RequestTooLargeException", 413)
    assert code(functions.invoke, FunctionName="echo", Payload="{") == ("InvalidRequestContentException", 400)
    assert functions.invoke(FunctionName="echo", InvocationType="DryRun")["StatusCode"] == 204
    assert functions.invoke(FunctionName="echo", InvocationType="Event", Payload="{}")["StatusCode"] == 202
    answer = functions.invoke(FunctionName="echo", LogType="Tail", Payload="{}")
    assert "START RequestId" in base64.b64decode(answer["LogResult"]).decode()
    assert "echo 1" in (cloud.root / "logs" / "echo.log").read_text()


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"Entrypoint": None}, "Runtime.InvalidEntrypoint"),
        ({"Entrypoint": ["/absent"]}, "Runtime.InvalidEntrypoint"),
        ({"Entrypoint": ["/var/task/model.txt"]}, "Runtime.InvalidEntrypoint"),
        ({"WorkingDir": "/absent"}, "Runtime.InvalidEntrypoint"),
        ({"Env": ["ECHO_INIT=exit"]}, "Runtime.ExitError"),
        ({"Env": ["ECHO_INIT=error"]}, "Echo.NoModel"),
    ],
)
def test_programs_that_do_not_start(cloud, functions, echo_image, config, kind):
    function(cloud, echo_image(**config))
    body, answer = invoke(functions)
    assert answer["FunctionError"] == "Unhandled" and body["errorType"] == kind, body


def test_parallel_invocations(cloud, functions, echo_image):
    function(cloud, echo_image())
    client = cloud.client("lambda", config=Config(max_pool_connections=50))
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: invoke(client, event={"sleep_ms": 300, "n": n})[0], range(50)))
    assert sorted(answer["event"]["n"] for answer in answers) == list(range(50))
    assert len({answer["pid"] for answer in answers}) > 10, "invocations at the same time have processes of their own"
    # The next ones find the processes waiting.
    assert invoke(functions)[0]["count"] > 1


def test_function_url(cloud, functions, echo_image):
    function(cloud, echo_image())
    functions.publish_version(FunctionName="echo")
    functions.create_alias(FunctionName="echo", Name="live", FunctionVersion="1")
    cors = {"AllowOrigins": ["https://example.com"], "AllowMethods": ["POST"], "AllowHeaders": ["content-type"], "MaxAge": 60}
    options = {"FunctionName": "echo", "Qualifier": "live"}
    made = functions.create_function_url_config(**options, AuthType="NONE", Cors=cors)
    url = made["FunctionUrl"]
    assert url == f"{cloud.endpoint_url}/_url/echo/live/" and made["Cors"] == cors
    assert code(functions.create_function_url_config, **options, AuthType="NONE") == ("ResourceConflictException", 409)
    assert functions.get_function_url_config(**options)["AuthType"] == "NONE"

    refused = requests.post(url, json={})
    assert refused.status_code == 403 and refused.json() == {"Message": "Forbidden"}
    grant = {**options, "Principal": "*"}
    functions.add_permission(**grant, StatementId="url", Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE")
    assert requests.post(url, json={}).status_code == 403, "one permission of two"
    functions.add_permission(**grant, StatementId="call", Action="lambda:InvokeFunction", InvokedViaFunctionUrl=True)
    again = {**grant, "StatementId": "call", "Action": "lambda:InvokeFunction"}
    assert code(functions.add_permission, **again) == ("ResourceConflictException", 409)
    policy = json.loads(functions.get_policy(**options)["Policy"])
    assert [statement["Sid"] for statement in policy["Statement"]] == ["url", "call"]

    answer = requests.post(url + "score/x?a=1&a=2&b=%20", json={"Income": 1}, headers={"x-test": "1"}, cookies={"c": "d"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    event = answer.json()["event"]
    assert event["version"] == "2.0" and event["rawPath"] == "/score/x" and event["rawQueryString"] == "a=1&a=2&b=%20"
    assert event["queryStringParameters"] == {"a": "1,2", "b": " "} and event["cookies"] == ["c=d"]
    assert json.loads(event["body"]) == {"Income": 1} and event["isBase64Encoded"] is False and event["headers"]["x-test"] == "1"
    http = event["requestContext"]["http"]
    assert http["method"] == "POST" and http["path"] == "/score/x" and event["requestContext"]["accountId"] == "anonymous"
    binary = requests.post(url, data=b"\x00\xff").json()["event"]
    assert binary["isBase64Encoded"] is True and binary["body"] == "AP8="

    def replying(reply):
        return requests.post(url, json={"reply": reply})

    mapped = replying({"statusCode": 418, "headers": {"x-a": "1", "content-type": "text/plain"}, "cookies": ["e=f"], "body": "tea"})
    assert (mapped.status_code, mapped.text, mapped.headers["x-a"]) == (418, "tea", "1")
    assert mapped.headers["content-type"] == "text/plain" and mapped.cookies["e"] == "f"
    assert replying({"statusCode": 200, "body": "AP8=", "isBase64Encoded": True}).content == b"\x00\xff"
    assert replying([1, 2]).json() == [1, 2] and replying("text").text == "text"
    for broken in [{"statusCode": "x"}, {"statusCode": 20}, {"statusCode": 200, "body": {}}, {"statusCode": 200, "headers": {"a b": "c"}}]:
        assert replying(broken).status_code == 502, broken
    failed = requests.post(url, json={"fail": "no"})
    assert failed.status_code == 502 and failed.json() == {"Message": "Internal Server Error"}
    assert requests.get(url).status_code == 200

    assert requests.get(f"{cloud.endpoint_url}/_url/echo/absent/").status_code == 404
    preflight = {"origin": "https://example.com", "access-control-request-method": "POST"}
    allowed = requests.options(url, headers=preflight)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://example.com"
    assert allowed.headers["access-control-allow-methods"] == "POST" and allowed.headers["access-control-max-age"] == "60"
    other = requests.options(url, headers={**preflight, "origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in other.headers
    assert requests.post(url, json={}, headers={"origin": "https://example.com"}).headers["access-control-allow-origin"]
    assert requests.post(url, data=b"x" * (7 << 20)).status_code == 413

    functions.update_function_url_config(**options, AuthType="AWS_IAM")
    assert requests.post(url, json={}).status_code == 403
    functions.remove_permission(**options, StatementId="url")
    assert code(functions.remove_permission, **options, StatementId="url") == ("ResourceNotFoundException", 404)
    functions.delete_function_url_config(**options)
    assert code(functions.get_function_url_config, **options) == ("ResourceNotFoundException", 404)
    assert requests.post(url, json={}).status_code == 404


def test_state_survives_a_restart_and_a_kill(programs, tmp_path, echo_image):
    cloud = Cloud.start(programs["serve"], tmp_path / "cloud")
    digest = function(cloud, echo_image())
    functions = cloud.client("lambda")
    functions.publish_version(FunctionName="echo")
    functions.create_alias(FunctionName="echo", Name="live", FunctionVersion="1")
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="site")
    s3.put_object(Bucket="site", Key="a", Body=b"a", ContentType="text/plain")
    login = cloud.registry_login()
    cloud.process.kill()
    cloud.process.wait()
    cloud.process.stdout.close()
    again = Cloud.start(programs["serve"], tmp_path / "cloud")
    try:
        assert again.registry_login() == login
        functions = again.client("lambda")
        assert invoke(functions, Qualifier="live")[1]["ExecutedVersion"] == "1"
        # The address follows the port.
        assert functions.get_function(FunctionName="echo")["Code"]["ImageUri"] == f"{again.host}/team/app@{digest}"
        assert again.client("ecr").describe_images(repositoryName="team/app")["imageDetails"][0]["imageDigest"] == digest
        got = again.client("s3").get_object(Bucket="site", Key="a")
        assert got["Body"].read() == b"a" and got["ContentType"] == "text/plain"
        # An address that was recorded under the old port still resolves.
        functions.update_function_code(FunctionName="echo", ImageUri=f"{cloud.host}/team/app@{digest}")
    finally:
        again.stop()


def test_killed_at_any_point(programs, tmp_path):
    """What was acknowledged before the process was killed is there afterwards, whole; what was not may be, whole too."""
    root = tmp_path / "cloud"
    random_ = random.Random(7)
    acknowledged: dict[str, int] = {}
    pushed: dict[str, str] = {}
    for round_ in range(15):
        cloud = Cloud.start(programs["serve"], root)
        s3, ecr = cloud.client("s3"), cloud.client("ecr")
        if round_ == 0:
            s3.create_bucket(Bucket="site")
            ecr.create_repository(repositoryName="team/app")
        stop = threading.Event()

        def put_objects(writer: int, round_=round_, s3=s3, stop=stop):
            for number in itertools.count():
                key, length = f"{writer}/{number % 5}", random_.randrange(100_000)
                try:
                    s3.put_object(Bucket="site", Key=key, Body=bytes([number % 256]) * length, Metadata={"length": str(length)})
                except (BotoCoreError, ClientError):
                    return
                acknowledged[key] = number

        def push_images(writer: int, round_=round_, cloud=cloud):
            for number in itertools.count():
                tag = f"{writer}-{round_}-{number}"
                try:
                    pushed[tag] = cloud.push(build_image([layer({"n": tag.encode()})]), "team/app", tag)
                except (BotoCoreError, requests.RequestException):
                    return

        threads = [threading.Thread(target=work, args=(n,)) for n in range(2) for work in (put_objects, push_images)]
        for thread in threads:
            thread.start()
        time.sleep(random_.uniform(0.03, 0.25))
        cloud.process.kill()
        cloud.process.wait()
        cloud.process.stdout.close()
        for thread in threads:
            thread.join()
    assert len(acknowledged) == 10 and len(pushed) > 10
    cloud = Cloud.start(programs["serve"], root)
    try:
        s3 = cloud.client("s3")
        for key in acknowledged:
            got = s3.get_object(Bucket="site", Key=key)
            body = got["Body"].read()
            assert len(body) == int(got["Metadata"]["length"]) and len(set(body)) <= 1, key
            assert got["ETag"].strip('"') == hashlib.md5(body).hexdigest()
        pages = cloud.client("ecr").get_paginator("describe_images").paginate(repositoryName="team/app")
        found = {tag: detail["imageDigest"] for page in pages for detail in page["imageDetails"] for tag in detail.get("imageTags", [])}
        assert pushed.items() <= found.items()
        session = requests.Session()
        session.auth = cloud.registry_login()
        for digest in found.values():
            manifest = session.get(f"{cloud.endpoint_url}/v2/team/app/manifests/{digest}")
            assert sha256(manifest.content) == digest
            for descriptor in [manifest.json()["config"], *manifest.json()["layers"]]:
                blob = session.get(f"{cloud.endpoint_url}/v2/team/app/blobs/{descriptor['digest']}").content
                assert sha256(blob) == descriptor["digest"]
    finally:
        cloud.stop()
