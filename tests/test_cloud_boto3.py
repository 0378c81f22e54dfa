"""The embedded cloud by boto3: from create-repository to a weighted alias, and the errors on the way."""

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
from collections import Counter

import pytest
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, MissingDependencyException

from cloud_support import ROLE, Cloud, build_image, layer, sha256

ARCHITECTURE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"


def code(call, *arguments, **keywords) -> tuple[str, int]:
    """The code and status of the error that a call ends in."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **keywords)
    response = caught.value.response
    assert response["Error"].get("Message"), "an error without a message"
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.fixture
def ecr(cloud: Cloud):
    return cloud.client("ecr")


@pytest.fixture
def functions(cloud: Cloud):
    return cloud.client("lambda")


@pytest.fixture
def s3(cloud: Cloud):
    return cloud.client("s3")


def repository(cloud: Cloud, name: str = "team/app", **options) -> str:
    return cloud.client("ecr").create_repository(repositoryName=name, **options)["repository"]["repositoryUri"]


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


# --- ECR ---------------------------------------------------------------------------------------------------------------


def test_repositories(cloud, ecr):
    made = ecr.create_repository(
        repositoryName="team/app",
        imageTagMutability="IMMUTABLE",
        imageScanningConfiguration={"scanOnPush": True},
        tags=[{"Key": "owner", "Value": "models"}],
    )["repository"]
    assert made["repositoryUri"] == f"{cloud.host}/team/app"
    assert made["repositoryArn"] == "arn:aws:ecr:us-east-1:000000000000:repository/team/app"
    assert made["imageTagMutability"] == "IMMUTABLE" and made["imageScanningConfiguration"] == {"scanOnPush": True}
    assert ecr.describe_repositories(repositoryNames=["team/app"])["repositories"] == [made]
    assert ecr.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"] == [{"Key": "owner", "Value": "models"}]
    assert code(ecr.create_repository, repositoryName="team/app") == ("RepositoryAlreadyExistsException", 400)
    assert code(ecr.create_repository, repositoryName="Not/Valid") == ("InvalidParameterException", 400)
    assert code(ecr.describe_repositories, repositoryNames=["absent"]) == ("RepositoryNotFoundException", 400)
    for number in range(5):
        ecr.create_repository(repositoryName=f"more-{number}")
    pages = list(ecr.get_paginator("describe_repositories").paginate(PaginationConfig={"PageSize": 2}))
    assert len(pages) == 3 and sum(len(page["repositories"]) for page in pages) == 6
    assert code(ecr.get_lifecycle_policy, repositoryName="more-0") == ("LifecyclePolicyNotFoundException", 400)
    text = json.dumps({"rules": [{"rulePriority": 1, "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 9}}]})
    ecr.put_lifecycle_policy(repositoryName="more-0", lifecyclePolicyText=text)
    assert ecr.get_lifecycle_policy(repositoryName="more-0")["lifecyclePolicyText"] == text
    ecr.delete_repository(repositoryName="more-0")
    assert code(ecr.delete_repository, repositoryName="more-0") == ("RepositoryNotFoundException", 400)
    assert code(ecr.start_image_scan, repositoryName="team/app", imageId={"imageTag": "1"}) == ("UnknownOperationException", 501)


def test_images(cloud, ecr, echo_image):
    repository(cloud)
    digests = [cloud.push(echo_image(str(number)), "team/app", f"v{number}") for number in range(5)]
    details = ecr.describe_images(repositoryName="team/app", imageIds=[{"imageTag": "v0"}])["imageDetails"]
    assert [detail["imageDigest"] for detail in details] == digests[:1] and details[0]["imageTags"] == ["v0"]
    assert details[0]["imageSizeInBytes"] == sum(len(blob) for blob in echo_image("0").blobs.values())
    pages = list(ecr.get_paginator("describe_images").paginate(repositoryName="team/app", PaginationConfig={"PageSize": 2}))
    assert [len(page["imageDetails"]) for page in pages] == [2, 2, 1]
    assert [detail["imageDigest"] for page in pages for detail in page["imageDetails"]] == digests
    got = ecr.batch_get_image(repositoryName="team/app", imageIds=[{"imageTag": "v1"}, {"imageTag": "absent"}])
    assert got["images"][0]["imageManifest"].encode() == echo_image("1").manifest
    assert got["failures"][0]["failureCode"] == "ImageNotFound"
    # A second name for an image, and its end.
    put = {"repositoryName": "team/app", "imageManifest": got["images"][0]["imageManifest"], "imageTag": "stable"}
    assert ecr.put_image(**put)["image"]["imageId"] == {"imageDigest": digests[1], "imageTag": "stable"}
    assert code(ecr.put_image, **put) == ("ImageAlreadyExistsException", 400)
    assert {"imageDigest": digests[1], "imageTag": "stable"} in ecr.list_images(repositoryName="team/app")["imageIds"]
    deleted = ecr.batch_delete_image(repositoryName="team/app", imageIds=[{"imageTag": "stable"}])
    assert deleted["imageIds"] == [{"imageDigest": digests[1], "imageTag": "stable"}]
    assert len(ecr.describe_images(repositoryName="team/app")["imageDetails"]) == 5
    ecr.batch_delete_image(repositoryName="team/app", imageIds=[{"imageDigest": digests[1]}])
    missing = {"repositoryName": "team/app", "imageIds": [{"imageTag": "v1"}]}
    assert code(ecr.describe_images, **missing) == ("ImageNotFoundException", 400)
    assert code(ecr.delete_repository, repositoryName="team/app") == ("RepositoryNotEmptyException", 400)
    ecr.delete_repository(repositoryName="team/app", force=True)


def test_immutable_tags(cloud, ecr, echo_image):
    repository(cloud, imageTagMutability="IMMUTABLE")
    cloud.push(echo_image("1"), "team/app", "v1")
    cloud.push(echo_image("1"), "team/app", "v1")
    second = cloud.push(echo_image("2"), "team/app", "v2")
    moved = {"repositoryName": "team/app", "imageManifest": echo_image("2").manifest.decode(), "imageTag": "v1"}
    assert code(ecr.put_image, **moved) == ("ImageTagAlreadyExistsException", 400)
    ecr.put_image_tag_mutability(repositoryName="team/app", imageTagMutability="MUTABLE")
    assert ecr.put_image(**moved)["image"]["imageId"] == {"imageDigest": second, "imageTag": "v1"}


def test_scan_findings(cloud, ecr, echo_image):
    repository(cloud, "plain")
    repository(cloud, imageScanningConfiguration={"scanOnPush": True})
    image = {"imageTag": "1"}
    assert code(ecr.describe_image_scan_findings, repositoryName="absent", imageId=image)[0] == "RepositoryNotFoundException"
    assert code(ecr.describe_image_scan_findings, repositoryName="team/app", imageId=image)[0] == "ImageNotFoundException"
    cloud.push(echo_image(), "plain", "1")
    assert code(ecr.describe_image_scan_findings, repositoryName="plain", imageId=image)[0] == "ScanNotFoundException"
    digest = cloud.push(echo_image(), "team/app", "1")
    scan = ecr.describe_image_scan_findings(repositoryName="team/app", imageId=image)
    assert scan["imageScanStatus"]["status"] == "UNSUPPORTED_IMAGE" and scan["imageId"]["imageDigest"] == digest
    assert "imageScanFindings" not in scan
    system = build_image([layer({"./etc/os-release": b"ID=debian"})])
    cloud.push(system, "team/app", "2")
    scan = ecr.describe_image_scan_findings(repositoryName="team/app", imageId={"imageTag": "2"})
    assert scan["imageScanStatus"]["status"] == "FINDINGS_UNAVAILABLE"
    # What tests of a reader inject comes back in pages.
    findings = [{"name": f"CVE-{number}", "severity": "HIGH"} for number in range(3)]
    answer = {"imageScanFindings": {"findings": findings, "findingSeverityCounts": {"HIGH": 3}}}
    (cloud.root / "findings" / f"{digest.removeprefix('sha256:')}.json").write_text(json.dumps(answer))
    first = ecr.describe_image_scan_findings(repositoryName="team/app", imageId=image, maxResults=2)
    assert first["imageScanStatus"]["status"] == "COMPLETE" and first["imageScanFindings"]["findingSeverityCounts"] == {"HIGH": 3}
    pages = ecr.get_paginator("describe_image_scan_findings").paginate(
        repositoryName="team/app", imageId=image, PaginationConfig={"PageSize": 2}
    )
    assert [finding["name"] for page in pages for finding in page["imageScanFindings"]["findings"]] == ["CVE-0", "CVE-1", "CVE-2"]


def test_credentials_are_checked(cloud):
    wrong = cloud.client("ecr", secret_key="wrong")
    assert code(wrong.describe_repositories)[0] == "InvalidSignatureException"
    unknown = cloud.client("lambda", access_key="AKIAUNKNOWN")
    assert code(unknown.list_functions) == ("UnrecognizedClientException", 403)
    assert code(cloud.client("s3", secret_key="wrong").list_buckets) == ("SignatureDoesNotMatch", 403)
    assert code(cloud.client("s3", access_key="AKIAUNKNOWN").list_buckets) == ("InvalidAccessKeyId", 403)
    unsigned = requests.get(f"{cloud.endpoint_url}/2015-03-31/functions")
    assert unsigned.status_code == 403 and unsigned.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
    assert requests.get(f"{cloud.endpoint_url}/v2/").status_code == 401
    assert requests.get(f"{cloud.endpoint_url}/v2/", auth=("AWS", "wrong")).status_code == 401


def test_other_services_are_refused_by_name(cloud):
    for service, operation, options in [
        ("sts", "get_caller_identity", {}),
        ("dynamodb", "list_tables", {}),
        ("sns", "list_topics", {}),
        ("lambda", "list_layers", {}),
        ("lambda", "put_function_concurrency", {"FunctionName": "x", "ReservedConcurrentExecutions": 1}),
        ("s3", "put_bucket_versioning", {"Bucket": "some", "VersioningConfiguration": {"Status": "Enabled"}}),
        ("s3", "copy_object", {"Bucket": "some", "Key": "a", "CopySource": "some/b"}),
    ]:
        with pytest.raises(ClientError) as caught:
            getattr(cloud.client(service), operation)(**options)
        response = caught.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 501, (service, operation, response)
        named = operation.replace("_", "") if service in ("lambda", "s3", "dynamodb") else service
        assert named in response["Error"]["Message"].lower(), response


# --- S3 ----------------------------------------------------------------------------------------------------------------


def test_buckets(s3):
    s3.create_bucket(Bucket="site")
    s3.create_bucket(Bucket="site")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["site"]
    assert s3.head_bucket(Bucket="site")["BucketRegion"] == "us-east-1"
    assert s3.get_bucket_location(Bucket="site")["LocationConstraint"] is None
    assert code(s3.head_bucket, Bucket="absent")[1] == 404
    assert code(s3.list_objects_v2, Bucket="absent") == ("NoSuchBucket", 404)
    other = {"Bucket": "other", "CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    assert code(s3.create_bucket, **other) == ("IllegalLocationConstraintException", 400)
    assert code(s3.create_bucket, Bucket="Bad_Name")[1] == 400
    s3.put_object(Bucket="site", Key="a", Body=b"a")
    assert code(s3.delete_bucket, Bucket="site") == ("BucketNotEmpty", 409)
    s3.delete_objects(Bucket="site", Delete={"Objects": [{"Key": "a"}, {"Key": "absent"}]})
    s3.delete_bucket(Bucket="site")


def test_objects(s3):
    s3.create_bucket(Bucket="site")
    body = os.urandom(100_000)
    put = s3.put_object(
        Bucket="site", Key="web/x y+ü.html", Body=body, ContentType="text/html; charset=utf-8", CacheControl="max-age=60",
        Metadata={"model": "abc"},
    )
    # The default of today's clients: a CRC in a trailer.
    assert put["ChecksumCRC32"] and put["ETag"]
    got = s3.get_object(Bucket="site", Key="web/x y+ü.html")
    assert got["Body"].read() == body and got["ContentType"] == "text/html; charset=utf-8" and got["CacheControl"] == "max-age=60"
    assert got["Metadata"] == {"model": "abc"} and got["ETag"] == put["ETag"] and "ContentEncoding" not in got
    head = s3.head_object(Bucket="site", Key="web/x y+ü.html")
    assert head["ContentLength"] == len(body) and head["Metadata"] == {"model": "abc"}
    part = s3.get_object(Bucket="site", Key="web/x y+ü.html", Range="bytes=10-19")
    assert part["Body"].read() == body[10:20] and part["ContentRange"] == f"bytes 10-19/{len(body)}"
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert s3.get_object(Bucket="site", Key="web/x y+ü.html", Range="bytes=-5")["Body"].read() == body[-5:]
    assert code(s3.get_object, Bucket="site", Key="web/x y+ü.html", Range="bytes=200000-") == ("InvalidRange", 416)
    assert code(s3.get_object, Bucket="site", Key="absent") == ("NoSuchKey", 404)
    assert code(s3.head_object, Bucket="site", Key="absent")[1] == 404
    assert code(s3.get_object, Bucket="site", Key="web/x y+ü.html", IfNoneMatch=put["ETag"])[1] == 304
    assert code(s3.get_object, Bucket="site", Key="web/x y+ü.html", IfMatch='"other"') == ("PreconditionFailed", 412)
    again = {"Bucket": "site", "Key": "web/x y+ü.html", "Body": b"other", "IfNoneMatch": "*"}
    assert code(s3.put_object, **again) == ("PreconditionFailed", 412)
    s3.put_object(**{**again, "Key": "new"})
    assert code(s3.put_object, Bucket="site", Key="acl", Body=b"", ACL="public-read") == ("NotImplemented", 501)
    assert code(s3.put_object, Bucket="site", Key="sum", Body=b"x", ChecksumCRC32="AAAAAA==")[0] == "BadDigest"
    assert code(s3.head_object, Bucket="site", Key="sum")[1] == 404
    s3.put_object(Bucket="site", Key="empty", Body=b"")
    assert s3.get_object(Bucket="site", Key="empty")["Body"].read() == b""
    s3.delete_object(Bucket="site", Key="new")
    s3.delete_object(Bucket="site", Key="new")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums(s3, algorithm):
    s3.create_bucket(Bucket="site")
    try:
        s3.put_object(Bucket="site", Key="x", Body=b"content", ChecksumAlgorithm=algorithm)
    except MissingDependencyException:
        # This client computes these with an optional library; the sums of `content` are known without it.
        known = {"CRC32C": "Ya91Mw==", "CRC64NVME": "lhVdXyVQTGE="}[algorithm]
        s3.put_object(Bucket="site", Key="x", Body=b"content", **{f"Checksum{algorithm}": known})
    got = s3.get_object(Bucket="site", Key="x", ChecksumMode="ENABLED")
    assert got[f"Checksum{algorithm}"] and got["Body"].read() == b"content"


def test_listing(s3):
    s3.create_bucket(Bucket="site")
    keys = sorted(["a/1", "a/2", "a b/ü&<", "b", "c/1/2", "c/1/3", "zz"], key=str.encode)
    for key in keys:
        s3.put_object(Bucket="site", Key=key, Body=key.encode())
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket="site")["Contents"]] == keys
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket="site", Delimiter="/", PaginationConfig={"PageSize": 1}))
    names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    prefixes = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
    assert names == ["b", "zz"] and prefixes == ["a b/", "a/", "c/"]
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket="site", Prefix="c/1/")["Contents"]] == ["c/1/2", "c/1/3"]
    assert s3.list_objects_v2(Bucket="site", StartAfter="c/1/3")["KeyCount"] == 1


def test_upload_in_parts(s3):
    s3.create_bucket(Bucket="site")
    body = os.urandom(20 << 20)
    s3.upload_fileobj(io.BytesIO(body), "site", "large", ExtraArgs={"ContentType": "application/x-model", "Metadata": {"a": "b"}})
    target = io.BytesIO()
    s3.download_fileobj("site", "large", target)
    assert target.getvalue() == body
    head = s3.head_object(Bucket="site", Key="large")
    assert head["ETag"].endswith('-3"') and head["ContentType"] == "application/x-model" and head["Metadata"] == {"a": "b"}
    upload = s3.create_multipart_upload(Bucket="site", Key="x")["UploadId"]
    part = s3.upload_part(Bucket="site", Key="x", UploadId=upload, PartNumber=1, Body=b"1")
    s3.upload_part(Bucket="site", Key="x", UploadId=upload, PartNumber=2, Body=b"2")
    complete = {"Bucket": "site", "Key": "x", "UploadId": upload}
    wrong = {"Parts": [{"PartNumber": 1, "ETag": '"00"'}]}
    assert code(s3.complete_multipart_upload, **complete, MultipartUpload=wrong) == ("InvalidPart", 400)
    both = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}, {"PartNumber": 2}]}
    assert code(s3.complete_multipart_upload, **complete, MultipartUpload=both) == ("EntityTooSmall", 400)
    s3.abort_multipart_upload(**complete)
    assert code(s3.abort_multipart_upload, **complete) == ("NoSuchUpload", 404)


def test_anonymous_reading(cloud, s3):
    s3.create_bucket(Bucket="site")
    s3.put_object(Bucket="site", Key="web/index.html", Body=b"<h1>hi</h1>", ContentType="text/html")
    s3.put_object(Bucket="site", Key="private/x", Body=b"x")
    base = f"{cloud.endpoint_url}/site"
    page = f"{base}/web/index.html"
    assert requests.get(page).status_code == 403
    grant = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::site/web/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [grant]})
    # New buckets refuse to become public, as in AWS.
    assert code(s3.put_bucket_policy, Bucket="site", Policy=policy) == ("AccessDenied", 403)
    open_ = dict.fromkeys(["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"], False)
    s3.put_public_access_block(Bucket="site", PublicAccessBlockConfiguration=open_)
    assert s3.get_public_access_block(Bucket="site")["PublicAccessBlockConfiguration"] == open_
    s3.put_bucket_policy(Bucket="site", Policy=policy)
    assert json.loads(s3.get_bucket_policy(Bucket="site")["Policy"]) == json.loads(policy)
    read = requests.get(page)
    assert (read.status_code, read.text, read.headers["content-type"]) == (200, "<h1>hi</h1>", "text/html")
    assert requests.head(page).headers["content-length"] == "11"
    assert requests.get(page, headers={"if-none-match": read.headers["etag"]}).status_code == 304
    for method, address in [
        ("GET", f"{base}/private/x"), ("GET", f"{base}/web/absent"), ("GET", f"{base}/web/"), ("GET", base),
        ("GET", f"{base}/web/../private/x"), ("PUT", page), ("DELETE", page), ("GET", f"{base}?policy"), ("GET", f"{page}?acl"),
    ]:
        request = requests.Request(method, address).prepare()
        request.url = address
        refused = requests.Session().send(request)
        assert refused.status_code == 403 and "<Code>AccessDenied</Code>" in refused.text, (method, address, refused.text)
    s3.put_public_access_block(Bucket="site", PublicAccessBlockConfiguration={**open_, "RestrictPublicBuckets": True})
    assert requests.get(page).status_code == 403
    s3.delete_public_access_block(Bucket="site")
    assert requests.get(page).status_code == 200
    assert code(s3.get_public_access_block, Bucket="site") == ("NoSuchPublicAccessBlockConfiguration", 404)
    s3.delete_bucket_policy(Bucket="site")
    assert requests.get(page).status_code == 403
    assert code(s3.get_bucket_policy, Bucket="site") == ("NoSuchBucketPolicy", 404)
    assert code(s3.put_bucket_policy, Bucket="site", Policy="{") == ("MalformedPolicy", 400)


# --- Lambda ------------------------------------------------------------------------------------------------------------


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
        ({"Handler": "x"}, "InvalidParameterValueException"), ({"PackageType": "Zip"}, "NotImplemented"),
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
