"""ECR: repositories, images, scans."""

import base64
import json

from conversation import Conversation, case
from scenario import put_image, repository

LIFECYCLE = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 1,
                "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 9},
                "action": {"type": "expire"},
            }
        ]
    }
)
NO_REPOSITORY = ("RepositoryNotFoundException", 400)
NO_IMAGE = ("ImageNotFoundException", 400)


@case("ecr.CreateRepository", "the answer describes it as asked")
def created(c: Conversation) -> None:
    name = c.name("repository")
    made = c.ok(
        "ecr.CreateRepository",
        repositoryName=name,
        imageTagMutability="IMMUTABLE",
        imageScanningConfiguration={"scanOnPush": True},
        tags=[{"Key": "owner", "Value": "models"}],
    )["repository"]
    c.equal("repositoryName", made.get("repositoryName"), name)
    c.expect(made.get("repositoryUri", "").endswith(f"/{name}"), "repositoryUri does not end in the name")
    c.expect(made.get("repositoryArn", "").endswith(f":repository/{name}"), "repositoryArn does not end in the name")
    c.equal("imageTagMutability", made.get("imageTagMutability"), "IMMUTABLE")
    c.equal("imageScanningConfiguration", made.get("imageScanningConfiguration"), {"scanOnPush": True})
    c.expect("createdAt" in made, "createdAt is missing")


@case("ecr.CreateRepository", "a second one of the name is refused")
def created_twice(c: Conversation) -> None:
    name = repository(c)["repositoryName"]
    c.refused("ecr.CreateRepository", "RepositoryAlreadyExistsException", 400, repositoryName=name)


@case("ecr.CreateRepository", "a name that breaks the rules is refused")
def bad_name(c: Conversation) -> None:
    c.refused("ecr.CreateRepository", "InvalidParameterException", 400, repositoryName="Not/Valid")


@case("ecr.DescribeRepositories", "by name")
def described(c: Conversation) -> None:
    made = repository(c)
    found = c.ok("ecr.DescribeRepositories", repositoryNames=[made["repositoryName"]])["repositories"]
    c.equal("the number of repositories", len(found), 1)
    for member in ("repositoryArn", "repositoryUri", "registryId"):
        c.equal(member, found[0].get(member), made.get(member))


@case("ecr.DescribeRepositories", "an absent one is an error")
def absent_repository(c: Conversation) -> None:
    c.refused("ecr.DescribeRepositories", *NO_REPOSITORY, repositoryNames=["absent"])


@case("ecr.DeleteRepository", "one with images needs force")
def deleted(c: Conversation) -> None:
    made = repository(c)
    put_image(c, made, c.image())
    name = made["repositoryName"]
    c.refused("ecr.DeleteRepository", "RepositoryNotEmptyException", 400, repositoryName=name)
    c.ok("ecr.DeleteRepository", repositoryName=name, force=True)
    c.refused("ecr.DeleteRepository", *NO_REPOSITORY, repositoryName=name)


@case("ecr.GetAuthorizationToken", "user and password, an address, an end")
def token(c: Conversation) -> None:
    data = c.ok("ecr.GetAuthorizationToken")["authorizationData"]
    c.equal("the number of tokens", len(data), 1)
    user, _, password = base64.b64decode(data[0]["authorizationToken"]).decode().partition(":")
    c.equal("the user", user, "AWS")
    c.expect(password, "the password is empty")
    c.expect(data[0].get("proxyEndpoint", "").startswith("http"), "proxyEndpoint is no address")
    c.expect("expiresAt" in data[0], "expiresAt is missing")


@case("ecr.PutImageTagMutability", "is what the repository says afterwards")
def mutability(c: Conversation) -> None:
    name = repository(c)["repositoryName"]
    answer = c.ok("ecr.PutImageTagMutability", repositoryName=name, imageTagMutability="IMMUTABLE")
    c.equal("imageTagMutability", answer.get("imageTagMutability"), "IMMUTABLE")
    found = c.ok("ecr.DescribeRepositories", repositoryNames=[name])["repositories"][0]
    c.equal("imageTagMutability afterwards", found.get("imageTagMutability"), "IMMUTABLE")
    c.refused("ecr.PutImageTagMutability", *NO_REPOSITORY, repositoryName="absent", imageTagMutability="IMMUTABLE")


@case("ecr.PutImageScanningConfiguration", "is what the repository says afterwards")
def scanning(c: Conversation) -> None:
    name, scan = repository(c)["repositoryName"], {"scanOnPush": True}
    answer = c.ok("ecr.PutImageScanningConfiguration", repositoryName=name, imageScanningConfiguration=scan)
    c.equal("imageScanningConfiguration", answer.get("imageScanningConfiguration"), scan)
    found = c.ok("ecr.DescribeRepositories", repositoryNames=[name])["repositories"][0]
    c.equal("imageScanningConfiguration afterwards", found.get("imageScanningConfiguration"), scan)
    c.refused("ecr.PutImageScanningConfiguration", *NO_REPOSITORY, repositoryName="absent", imageScanningConfiguration=scan)


@case("ecr.PutLifecyclePolicy", "is read back as given")
def lifecycle(c: Conversation) -> None:
    name = repository(c)["repositoryName"]
    c.equal(
        "the answer",
        c.ok("ecr.PutLifecyclePolicy", repositoryName=name, lifecyclePolicyText=LIFECYCLE).get("lifecyclePolicyText"),
        LIFECYCLE,
    )
    c.equal("what is read", c.ok("ecr.GetLifecyclePolicy", repositoryName=name).get("lifecyclePolicyText"), LIFECYCLE)


@case("ecr.PutLifecyclePolicy", "text that is no JSON is refused")
def bad_lifecycle(c: Conversation) -> None:
    name = repository(c)["repositoryName"]
    c.refused("ecr.PutLifecyclePolicy", "InvalidParameterException", 400, repositoryName=name, lifecyclePolicyText="keep" * 30)


@case("ecr.PutLifecyclePolicy", "of an absent repository is refused")
def lifecycle_of_nothing(c: Conversation) -> None:
    c.refused("ecr.PutLifecyclePolicy", *NO_REPOSITORY, repositoryName="absent", lifecyclePolicyText=LIFECYCLE)


@case("ecr.GetLifecyclePolicy", "none is an error")
def no_lifecycle(c: Conversation) -> None:
    name = repository(c)["repositoryName"]
    c.refused("ecr.GetLifecyclePolicy", "LifecyclePolicyNotFoundException", 400, repositoryName=name)


@case("ecr.PutImage", "is known by digest and tag")
def put(c: Conversation) -> None:
    made, image = repository(c), c.image()
    digest = put_image(c, made, image, "first")
    c.expect(digest == image.digest, "imageDigest is not the digest of the manifest")
    again = {"repositoryName": made["repositoryName"], "imageManifest": image.manifest.decode()}
    answer = c.ok("ecr.PutImage", **again, imageTag="second")["image"]
    c.expect(
        answer.get("imageId") == {"imageDigest": digest, "imageTag": "second"}, "imageId is not the digest and the second tag"
    )
    c.refused("ecr.PutImage", "ImageAlreadyExistsException", 400, **again, imageTag="second")


@case("ecr.PutImage", "an immutable tag does not move")
def immutable(c: Conversation) -> None:
    made = repository(c, imageTagMutability="IMMUTABLE")
    put_image(c, made, c.image("1"), "1")
    put_image(c, made, c.image("2"), "2")
    moved = {"repositoryName": made["repositoryName"], "imageManifest": c.image("2").manifest.decode()}
    c.refused("ecr.PutImage", "ImageTagAlreadyExistsException", 400, **moved, imageTag="1")


@case("ecr.PutImage", "into an absent repository is refused")
def put_nowhere(c: Conversation) -> None:
    manifest = c.image().manifest.decode()
    c.refused("ecr.PutImage", *NO_REPOSITORY, repositoryName="absent", imageManifest=manifest, imageTag="1")


@case("ecr.PutImage", "a manifest whose layers are absent is refused")
def put_without_layers(c: Conversation) -> None:
    made = repository(c)
    manifest = c.image("layers that nobody uploaded").manifest.decode()
    c.refused(
        "ecr.PutImage",
        "LayersNotFoundException",
        400,
        repositoryName=made["repositoryName"],
        imageManifest=manifest,
        imageTag="1",
    )


@case("ecr.BatchGetImage", "gives the manifest's very bytes, and names what is absent")
def batch_get(c: Conversation) -> None:
    made, image = repository(c), c.image()
    digest = put_image(c, made, image, "1")
    ids = [{"imageDigest": digest}, {"imageTag": "absent"}]
    answer = c.ok("ecr.BatchGetImage", repositoryName=made["repositoryName"], imageIds=ids)
    images = answer.get("images", [])
    c.equal("the number of images", len(images), 1)
    if images:
        c.expect(images[0].get("imageManifest", "").encode() == image.manifest, "imageManifest has other bytes")
        c.expect(images[0].get("imageId", {}).get("imageDigest") == digest, "imageId has another digest")
    c.equal("failures", [found.get("failureCode") for found in answer.get("failures", [])], ["ImageNotFound"])


@case("ecr.DescribeImages", "digest, tags, size, time")
def describe_images(c: Conversation) -> None:
    made, image = repository(c), c.image()
    digest = put_image(c, made, image, "1")
    details = c.ok("ecr.DescribeImages", repositoryName=made["repositoryName"], imageIds=[{"imageTag": "1"}])["imageDetails"]
    c.equal("the number of images", len(details), 1)
    c.expect(details[0].get("imageDigest") == digest, "imageDigest is another one")
    c.equal("imageTags", details[0].get("imageTags"), ["1"])
    c.equal("imageManifestMediaType", details[0].get("imageManifestMediaType"), image.media_type)
    c.expect("imagePushedAt" in details[0], "imagePushedAt is missing")
    layers = sum(layer["size"] for layer in json.loads(image.manifest)["layers"])
    c.expect(details[0].get("imageSizeInBytes", 0) >= layers, "imageSizeInBytes is less than the layers' sizes")


@case("ecr.DescribeImages", "an absent one is an error")
def absent_image(c: Conversation) -> None:
    made = repository(c)
    c.refused("ecr.DescribeImages", *NO_IMAGE, repositoryName=made["repositoryName"], imageIds=[{"imageTag": "absent"}])
    c.refused("ecr.DescribeImages", *NO_REPOSITORY, repositoryName="absent")


@case("ecr.DescribeImages", "pages")
def pages(c: Conversation) -> None:
    made = repository(c)
    expected = {put_image(c, made, c.image(model), model) for model in "123"}
    first = c.ok("ecr.DescribeImages", repositoryName=made["repositoryName"], maxResults=2)
    c.equal("images on the first page", len(first["imageDetails"]), 2)
    c.expect("nextToken" in first, "the first page has no nextToken")
    found = list(first["imageDetails"])
    if "nextToken" in first:
        rest = c.ok("ecr.DescribeImages", repositoryName=made["repositoryName"], maxResults=2, nextToken=first["nextToken"])
        found += rest["imageDetails"]
        c.expect("nextToken" not in rest, "the last page has a nextToken")
    c.expect(sorted(detail["imageDigest"] for detail in found) == sorted(expected), "the pages do not hold every image once")


@case("ecr.ListImages", "every tag with its digest")
def list_images(c: Conversation) -> None:
    made = repository(c)
    digest = put_image(c, made, c.image(), "1")
    found = c.ok("ecr.ListImages", repositoryName=made["repositoryName"])["imageIds"]
    c.expect(found == [{"imageDigest": digest, "imageTag": "1"}], "imageIds is not the one digest and tag")
    c.refused("ecr.ListImages", *NO_REPOSITORY, repositoryName="absent")


@case("ecr.BatchDeleteImage", "by digest, and names what is absent")
def batch_delete(c: Conversation) -> None:
    made = repository(c)
    digest = put_image(c, made, c.image(), "1")
    ids = [{"imageDigest": digest}, {"imageTag": "absent"}]
    answer = c.ok("ecr.BatchDeleteImage", repositoryName=made["repositoryName"], imageIds=ids)
    c.expect({found.get("imageDigest") for found in answer.get("imageIds", [])} == {digest}, "imageIds does not name the image")
    c.equal("failures", [found.get("failureCode") for found in answer.get("failures", [])], ["ImageNotFound"])
    c.refused("ecr.DescribeImages", *NO_IMAGE, repositoryName=made["repositoryName"], imageIds=[{"imageDigest": digest}])


@case("ecr.DescribeImageScanFindings", "speaks of the image that was asked about, with a status of the model")
def findings(c: Conversation) -> None:
    made = repository(c, imageScanningConfiguration={"scanOnPush": True})
    digest = put_image(c, made, c.image())
    answer = c.ok("ecr.DescribeImageScanFindings", repositoryName=made["repositoryName"], imageId={"imageDigest": digest})
    c.expect(answer.get("imageId", {}).get("imageDigest") == digest, "imageId is another image")
    c.expect(answer.get("imageScanStatus", {}).get("status"), "imageScanStatus has no status")
    # The image has no operating system, so there is nothing that a scanner of packages could have found.
    c.equal("findings", answer.get("imageScanFindings", {}).get("findings", []), [])


@case("ecr.DescribeImageScanFindings", "no scan is an error")
def no_scan(c: Conversation) -> None:
    made = repository(c)
    digest = put_image(c, made, c.image())
    c.refused(
        "ecr.DescribeImageScanFindings",
        "ScanNotFoundException",
        400,
        repositoryName=made["repositoryName"],
        imageId={"imageDigest": digest},
    )


@case("ecr.DescribeImageScanFindings", "an absent image and an absent repository are errors")
def scan_of_nothing(c: Conversation) -> None:
    name, absent = repository(c)["repositoryName"], {"imageTag": "absent"}
    c.refused("ecr.DescribeImageScanFindings", *NO_IMAGE, repositoryName=name, imageId=absent)
    c.refused("ecr.DescribeImageScanFindings", *NO_REPOSITORY, repositoryName="absent", imageId=absent)


@case("ecr.StartImageScan", "begins a scan of an image that no push began")
def start_scan(c: Conversation) -> None:
    made = repository(c)
    digest = put_image(c, made, c.image())
    answer = c.ok("ecr.StartImageScan", repositoryName=made["repositoryName"], imageId={"imageDigest": digest})
    c.equal("imageId", answer.get("imageId", {}).get("imageDigest"), digest)
    c.expect(answer.get("imageScanStatus", {}).get("status"), "imageScanStatus has no status")


@case("ecr.StartImageScan", "an absent image and an absent repository are errors")
def start_scan_of_nothing(c: Conversation) -> None:
    name, absent = repository(c)["repositoryName"], {"imageTag": "absent"}
    c.refused("ecr.StartImageScan", *NO_IMAGE, repositoryName=name, imageId=absent)
    c.refused("ecr.StartImageScan", *NO_REPOSITORY, repositoryName="absent", imageId=absent)


READERS = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Read",
                "Effect": "Allow",
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            }
        ],
    }
)


@case("ecr.SetRepositoryPolicy", "is read back as given")
def repository_policy(c: Conversation) -> None:
    name = repository(c)["repositoryName"]
    answer = c.ok("ecr.SetRepositoryPolicy", repositoryName=name, policyText=READERS)
    c.equal("the answer", json.loads(answer.get("policyText", "{}")), json.loads(READERS))
    found = c.ok("ecr.GetRepositoryPolicy", repositoryName=name)
    c.equal("what is read", json.loads(found.get("policyText", "{}")), json.loads(READERS))
    c.refused("ecr.SetRepositoryPolicy", *NO_REPOSITORY, repositoryName="absent", policyText=READERS)


@case("ecr.GetRepositoryPolicy", "none is an error")
def no_repository_policy(c: Conversation) -> None:
    name = repository(c)["repositoryName"]
    c.refused("ecr.GetRepositoryPolicy", "RepositoryPolicyNotFoundException", 400, repositoryName=name)
    c.refused("ecr.GetRepositoryPolicy", *NO_REPOSITORY, repositoryName="absent")
