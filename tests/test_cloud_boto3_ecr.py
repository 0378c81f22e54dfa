"""The embedded cloud's ECR by boto3, its credentials, and what it refuses by name."""

import json

import pytest
import requests
from botocore.exceptions import ClientError

from cloud_support import build_image, code, layer, repository


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
    assert code(ecr.describe_registry) == ("UnknownOperationException", 501)


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
    # Where nothing is scanned on push, a scan can be asked for, once.
    started = ecr.start_image_scan(repositoryName="plain", imageId=image)
    assert started["imageScanStatus"]["status"] == "IN_PROGRESS"
    assert code(ecr.start_image_scan, repositoryName="plain", imageId=image) == ("LimitExceededException", 400)
    assert code(ecr.start_image_scan, repositoryName="plain", imageId={"imageTag": "absent"})[0] == "ImageNotFoundException"
    scan = ecr.describe_image_scan_findings(repositoryName="plain", imageId=image)
    assert scan["imageScanStatus"]["status"] == "UNSUPPORTED_IMAGE"
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
        ("sts", "get_session_token", {}),
        ("iam", "list_users", {}),
        ("logs", "describe_queries", {}),
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
        named = operation.replace("_", "") if service != "sns" else service
        assert named in response["Error"]["Message"].lower(), response
