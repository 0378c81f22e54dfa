"""The scan of both images and of all packages, against every answer that a registry can give."""

import gzip
import json
import signal

import pytest
import requests
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from cloud_support import ACCESS_KEY_ID, ROLE, SECRET_ACCESS_KEY, Cloud, build_image, layer
from pipeline_clone import Clone, advisory_database, wait_for
from scan_stand_ins import DESCRIBE, Account, Advisories, as_json, fault

REPOSITORY = "ccapproval-deploy"
SHORTER = ("limit_seconds = 300", "limit_seconds = 3")
SEVERITIES = ["CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED"]


class Scan:
    """`scan` of one built run in an account whose answers a test decides."""

    def __init__(self, clone: Clone, cloud: Cloud, account: Account, advisories: Advisories):
        self.clone, self.cloud, self.account, self.advisories = clone, cloud, account, advisories
        self.variables = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_ENDPOINT_URL": account.url, "RUSTSEC_ADVISORY_DB": advisory_database("none-such"),
        }
        self.xtask("build")
        self.image = clone.record("build")["image"]["digest"]

    def xtask(self, *arguments: str, **options):
        return self.clone.xtask(*arguments, "--env", "preprod", **self.variables | options)

    def scan(self, expect: int = 0, **options):
        (self.clone.run_folder() / "scan.json").unlink(missing_ok=True)
        self.account.calls.clear()
        return self.xtask("scan", expect=expect, **options)

    def record(self, **options) -> dict:
        self.scan(**options)
        return self.clone.record("scan")

    def answer(self, status: str, findings: list | None = None, counts: dict | None = None, next_token: str | None = None,
               kind: str = "findings", image: str | None = None):
        """One answer of the registry."""
        document = {"imageId": {"imageDigest": image or self.image}, "repositoryName": REPOSITORY,
                    "imageScanStatus": {"status": status, "description": "as the test asked"}}
        if findings is not None or counts is not None:
            document["imageScanFindings"] = {kind: findings or []}
            if counts is not None:
                document["imageScanFindings"]["findingSeverityCounts"] = counts
        if next_token:
            document["nextToken"] = next_token
        return as_json(200, document)

    def inject(self, digest: str, findings: list) -> None:
        """What the embedded cloud finds in an image."""
        counts = {severity: sum(finding["severity"] == severity for finding in findings) for severity in SEVERITIES}
        path = self.cloud.root / "findings" / f"{digest.removeprefix('sha256:')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"imageScanFindings": {"findings": findings, "findingSeverityCounts": counts}}))

    def security_denials(self) -> list[str]:
        """What the security policies say; without a test's record the gate denies in any case."""
        self.xtask("gate", expect=3)
        outcomes = {outcome["policy_set"]: outcome for outcome in self.clone.record("gate")["outcomes"]}
        self.warnings = outcomes["Security Policy Set"]["warnings"]
        return outcomes["Security Policy Set"]["denials"]


def finding(name: str, severity: str, package: str = "openssl") -> dict:
    attributes = [{"key": "package_name", "value": package}, {"key": "package_version", "value": "1.0"}]
    return {"name": name, "severity": severity, "description": "made up", "attributes": attributes}


@pytest.fixture(scope="module")
def scan(programs, tmp_path_factory):
    cloud = Cloud.start(programs["serve"], tmp_path_factory.mktemp("account"))
    try:
        with Account(cloud.endpoint_url) as account, Advisories() as advisories:
            # The place of the pipeline's own tests, whose compiled predictor serves here.
            clone = Clone("clone")
            pipeline = clone.path / "pipeline.toml"
            pipeline.write_text(pipeline.read_text().replace("[scan]\n", f'[scan]\npython_advisories = "{advisories.url}/"\n'))
            clone.commit("A service that is at hand")
            yield Scan(clone, cloud, account, advisories)
    finally:
        cloud.stop()


@pytest.fixture(autouse=True)
def fresh(scan):
    """Every test begins with an account that answers as it is."""
    scan.account.answers, scan.advisories.known, scan.advisories.broken = [], {}, False
    for path in (scan.cloud.root / "findings").glob("*.json"):
        path.unlink()


# The registry's states


@pytest.mark.parametrize("status", ["COMPLETE", "ACTIVE"])
def test_finished_scan_is_taken_and_counted(scan, status):
    counts = {"HIGH": 1, "MEDIUM": 5, "LOW": 4}
    findings = [finding(f"CVE-{severity}-{number}", severity) for severity, count in counts.items() for number in range(count)]
    scan.account.answers = [scan.answer(status, findings, counts)]
    record = scan.record()
    assert record["registry"]["status"] == status and record["registry"]["counts"] == counts
    assert record["registry"]["findings"][0] == {
        "id": "CVE-HIGH-0", "package": "openssl", "version": "1.0", "severity": "High", "title": "made up"}
    summary = record["summary"]
    assert (summary["status"], summary["issuesCount"], summary["newIssuesCount"]) == ("Succeeded", 10, 10)
    assert (summary["jobId"], summary["target"], summary["variant"]) == (record["run"], "ccapproval-ecr-scan", record["run"])
    assert summary["issuesBySeverityCount"] == {
        "ExternalPolicyFailures": 0, "Ignored": 0, "Critical": 0, "High": 1, "Medium": 5, "Low": 4, "Info": 0, "Unassigned": 0,
        "NewCritical": 0, "NewHigh": 1, "NewMedium": 5, "NewLow": 4, "NewInfo": 0, "NewUnassigned": 0}
    assert scan.security_denials() == ["The image has findings of severity HIGH: 1"]


@pytest.mark.parametrize("status", ["PENDING", "IN_PROGRESS"])
def test_unfinished_scan_is_waited_for(scan, status):
    scan.account.answers = [scan.answer(status), scan.answer(status), scan.answer("COMPLETE", [], {})]
    assert scan.record()["registry"]["counts"] == {}
    assert scan.account.calls.count(DESCRIBE) == 3
    assert scan.security_denials() == []


def test_scan_that_never_finishes_ends_at_the_limit(scan):
    scan.account.answers = [scan.answer("IN_PROGRESS")]
    with scan.clone.edited("pipeline.toml", *SHORTER):
        ended = scan.scan(expect=1)
    assert "after 3 s (IN_PROGRESS: the scan is running)" in ended.err and "limit_seconds" in ended.err
    assert not (scan.clone.run_folder() / "scan.json").exists()


@pytest.mark.parametrize("status", [
    "FAILED", "SCAN_ELIGIBILITY_EXPIRED", "FINDINGS_UNAVAILABLE", "LIMIT_EXCEEDED", "IMAGE_ARCHIVED", "IMAGE_SIZE_EXCEEDED",
    "SOME_FUTURE_STATE"])
def test_unusable_state_is_recorded_by_name_and_denied(scan, status):
    scan.account.answers = [scan.answer(status)]
    ended = scan.scan()
    assert scan.account.calls.count(DESCRIBE) == 1, "there is nothing to wait for"
    assert f"{REPOSITORY}: {status}, " in ended.err
    assert scan.clone.record("scan")["summary"]["status"] == "NotDone"
    assert scan.security_denials() == [f"The image scan has no usable result: status {status}"]


def test_image_without_a_system_is_vouched_for_by_its_crates(scan):
    """The embedded cloud's own answer, and the one of the other kind of scanner."""
    assert scan.record()["registry"]["status"] == "UNSUPPORTED_IMAGE"
    assert scan.security_denials() == []
    failed = json.loads(scan.answer("FAILED")[2])
    failed["imageScanStatus"]["description"] = "UnsupportedImageError: the operating system is not supported"
    scan.account.answers = [as_json(200, failed)]
    assert scan.record()["summary"]["status"] == "Succeeded"
    assert scan.security_denials() == []


def test_absent_counts_are_not_zero(scan):
    scan.account.answers = [scan.answer("COMPLETE", [finding("CVE-1", "LOW")])]
    assert scan.record()["registry"]["counts"] is None
    assert scan.security_denials() == ["The image scan has no usable result: status COMPLETE"]


def test_findings_of_another_image_do_not_count(scan):
    other = "sha256:" + "1" * 64
    scan.account.answers = [scan.answer("COMPLETE", [], {}, image=other)]
    assert f'answered about image "{other}"' in scan.scan(expect=1).err


# Enhanced scanning


def test_enhanced_findings_with_their_packages(scan):
    packages = [{"name": "zlib", "version": "1.2"}, {"name": "libz", "version": "1.2"}]
    enhanced = [
        {"severity": "MEDIUM", "title": "CVE-2026-1 - zlib", "packageVulnerabilityDetails": {
            "vulnerabilityId": "CVE-2026-1", "vulnerablePackages": packages}},
        {"severity": "UNTRIAGED", "title": "A finding without details"},
    ]
    counts = {"MEDIUM": 1, "UNDEFINED": 1}
    scan.account.answers = [scan.answer("ACTIVE", enhanced, counts, kind="enhancedFindings")]
    first, second = scan.record()["registry"]["findings"]
    assert (first["id"], first["package"], first["version"], first["severity"]) == ("CVE-2026-1", "libz, zlib", "1.2", "Medium")
    assert (second["id"], second["severity"]) == ("A finding without details", "Unassigned")
    assert scan.security_denials() == []


# Pages


def test_pages_are_read_to_the_end(scan):
    findings = [finding(f"CVE-{number}", "LOW") for number in range(250)]
    scan.inject(scan.image, findings)
    record = scan.record()
    assert [found["id"] for found in record["registry"]["findings"]] == [found["name"] for found in findings]
    assert scan.account.calls.count(DESCRIBE) >= 3


def pages(scan, *tokens: str | None):
    """Answers with one finding each, two of which the registry counts."""
    return [scan.answer("COMPLETE", [finding(f"CVE-{number}", "LOW")], {"LOW": 2}, token) for number, token in enumerate(tokens)]


@pytest.mark.parametrize("tokens, said", [
    ([None], "counts 2 findings of severity Low and gave 1"),
    (["a", "b", None], "counts 2 findings of severity Low and gave 3"),
    (["a", "a"], "leads back to a page"),
    (["a", "b", "a"], "leads back to a page"),
])
def test_missing_repeated_and_looping_pages_are_errors(scan, tokens, said):
    # The same again for every new attempt.
    scan.account.answers = pages(scan, *tokens) * 3
    ended = scan.scan(expect=1)
    assert said in ended.err and "read the findings about" in ended.err
    assert scan.account.calls.count(DESCRIBE) == 3 * len(tokens), "asked again, but not for ever"


def test_answer_that_contradicted_itself_once_is_asked_for_again(scan):
    scan.account.answers = [*pages(scan, None), *pages(scan, "a", None)]
    assert len(scan.record()["registry"]["findings"]) == 2


# Not yet, not now


def test_scan_that_is_not_there_yet_is_waited_for(scan):
    scan.account.answers = [fault("ScanNotFoundException")] * 2 + [scan.answer("COMPLETE", [], {})]
    scan.record()
    assert "StartImageScan" not in scan.account.calls, "the repository scans on push"


@pytest.mark.parametrize("answer", [
    fault("ThrottlingException"), fault("ServerException", 500), (503, "text/html", b"<html>busy</html>"), (200, "text/plain", b"{")])
def test_busy_registry_is_asked_again(scan, answer):
    scan.account.answers = [answer, scan.answer("COMPLETE", [], {})]
    assert scan.record()["registry"]["status"] == "COMPLETE"


def test_registry_that_stays_busy_is_named_at_the_limit(scan):
    scan.account.answers = [fault("ThrottlingException")]
    with scan.clone.edited("pipeline.toml", *SHORTER):
        assert "ThrottlingException: as the test asked" in scan.scan(expect=1).err


def test_refusal_is_an_error_at_once(scan):
    scan.account.answers = [fault("AccessDeniedException")]
    assert "ask the registry for its findings: AccessDeniedException" in scan.scan(expect=1).err
    assert scan.account.calls.count(DESCRIBE) == 1


def test_repository_that_does_not_scan_is_asked_to_once(scan):
    ecr = scan.cloud.client("ecr")
    ecr.put_image_scanning_configuration(repositoryName=REPOSITORY, imageScanningConfiguration={"scanOnPush": False})
    try:
        assert scan.record()["registry"]["status"] == "UNSUPPORTED_IMAGE"
        assert scan.account.calls.count("StartImageScan") == 1
        # The registry allows no second one within a day: that is no fault of this image.
        scan.account.answers = [fault("ScanNotFoundException"), fault("ScanNotFoundException"), scan.answer("COMPLETE", [], {})]
        ended = scan.scan()
        assert "did not begin a scan" in ended.err and "LimitExceededException" in ended.err
    finally:
        ecr.put_image_scanning_configuration(repositoryName=REPOSITORY, imageScanningConfiguration={"scanOnPush": True})


# The training image


@pytest.fixture
def training(scan):
    """A training image in the registry, as `build` would record it."""
    path = scan.clone.run_folder() / "build.json"
    with scan.clone.holding(path):
        record = json.loads(path.read_text())
        ecr = scan.cloud.client("ecr")
        if not any(found["repositoryName"] == "ccapproval" for found in ecr.describe_repositories()["repositories"]):
            ecr.create_repository(repositoryName="ccapproval", imageScanningConfiguration={"scanOnPush": True})
        digest = scan.cloud.push(build_image([layer({"etc/os-release": b"ID=debian"})]), "ccapproval", record["run"])
        image = {"repository": "ccapproval", "tag": record["run"], "digest": digest}
        record["training_image"] = {"built": True, "reason": "built by buildah", "engine": "buildah", "image": image}
        path.write_text(json.dumps(record))
        yield digest


def test_both_images_are_read(scan, training):
    scan.inject(training, [finding("CVE-9", "CRITICAL"), finding("CVE-8", "LOW")])
    record = scan.record()
    assert record["training_image"]["image"] == training
    assert [found["id"] for found in record["training_image"]["registry"]["findings"]] == ["CVE-9", "CVE-8"]
    assert record["summary"]["issuesBySeverityCount"]["Critical"] == 1 and record["summary"]["issuesCount"] == 2
    # It does not ship: its findings are said, and do not stop the model.
    assert scan.security_denials() == []
    assert "The training image has findings of severity CRITICAL: 1" in scan.warnings


def test_training_image_without_a_finished_scan_is_denied(scan, training):
    record = scan.record()
    assert record["training_image"]["registry"]["status"] == "FINDINGS_UNAVAILABLE"
    assert record["summary"]["status"] == "NotDone"
    assert scan.security_denials() == ["The scan of the training image has no usable result: status FINDINGS_UNAVAILABLE"]


def test_training_image_that_is_required_and_missing_is_denied(scan):
    scan.record()
    assert scan.security_denials() == []
    path = scan.clone.path / "pipeline.toml"
    with scan.clone.holding(path):
        head, name, tail = path.read_text().partition("[environments.preprod]")
        path.write_text(head + name + tail.replace('training_image = "off"', 'training_image = "required"', 1))
        [denial] = scan.security_denials()
    assert denial.startswith("The training image is required and was not built: ")


# Python packages


def test_python_packages_are_looked_up_as_they_are_locked(scan):
    record = scan.record()
    assert record["python"]["status"] == "done" and record["python"]["packages"] > 50
    assert scan.security_denials() == []
    scan.advisories.known = {"pillow": "GHSA-0000-0000-0001"}
    record = scan.record()
    [found] = record["python"]["vulnerabilities"]
    assert (found["id"], found["package"]) == ("GHSA-0000-0000-0001", "pillow")
    assert record["summary"]["issuesBySeverityCount"]["NewUnassigned"] == 1
    assert scan.security_denials() == ["The Python packages are not free of known vulnerabilities: 1"]


def test_python_packages_that_nobody_looked_up_are_not_clean(scan):
    scan.advisories.broken = True
    record = scan.record()
    assert record["python"]["status"] == "not_done" and "500" in record["python"]["reason"]
    assert record["summary"]["status"] == "NotDone"
    assert scan.security_denials() == ["The scan of the Python packages is not finished: status not_done"]


# Bill of materials


def test_bill_of_materials_is_valid_and_names_the_programs_crates(scan):
    first = scan.record()
    text = (scan.clone.run_folder() / "sbom.cdx.json").read_text()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"library"', '"crate"')), "the judge is awake"
    bill = json.loads(text)
    assert len(bill["components"]) == first["crates"]["packages"] - 1
    assert {"name": "serde_json", "scope": "required"}.items() <= next(
        component for component in bill["components"] if component["name"] == "serde_json").items()
    subject = bill["metadata"]["component"]
    assert "sha256:" + subject["hashes"][0]["content"] == scan.clone.record("build")["program"]["digest"]
    assert {entry["ref"] for entry in bill["dependencies"]} == {component["bom-ref"] for component in [*bill["components"], subject]}
    second = scan.record()
    assert second["files"]["sbom.cdx.json"] == first["files"]["sbom.cdx.json"]


# New since the last deployed image


def test_new_are_the_findings_that_the_deployed_image_does_not_have(scan):
    """Version 1 has the same program and another model; the scanned image is not deployed, then it is."""
    cloud = scan.cloud
    manifest = requests.get(f"{cloud.endpoint_url}/v2/{REPOSITORY}/manifests/{scan.image}", auth=cloud.registry_login(),
                            headers={"accept": "*/*"}, timeout=10).json()
    blob = requests.get(f"{cloud.endpoint_url}/v2/{REPOSITORY}/blobs/{manifest['layers'][0]['digest']}",
                        auth=cloud.registry_login(), timeout=10).content
    older = build_image([gzip.decompress(blob), layer({"var/task/model.bin": b"older"})], Entrypoint=["/var/task/bootstrap"])
    deployed = cloud.push(older, REPOSITORY, "older")

    uri = f"{cloud.host}/{REPOSITORY}@"
    client = cloud.client("lambda")
    name = "creditcardapplicationlambda"
    client.create_function(FunctionName=name, PackageType="Image", Code={"ImageUri": uri + deployed}, Role=ROLE)
    cloud.settled(name)
    version = client.publish_version(FunctionName=name, Description="run older model sha256:0")["Version"]
    client.create_alias(FunctionName=name, Name="live", FunctionVersion=version)

    known, new = finding("CVE-KNOWN", "LOW"), finding("CVE-NEW", "LOW")
    scan.inject(deployed, [known])
    scan.inject(scan.image, [known, new])
    vulnerable = advisory_database("serde_json")

    def counted(**variables) -> tuple[int, int, int]:
        summary = scan.record(**variables)["summary"]
        return summary["issuesCount"], summary["newIssuesCount"], summary["issuesBySeverityCount"]["NewLow"]

    assert counted() == (2, 1, 1)
    # A crate that both programs have is not new, although the advisory is.
    assert counted(RUSTSEC_ADVISORY_DB=vulnerable) == (3, 1, 1)
    # Deployed itself, the image is compared with the one before it, and not with itself.
    client.update_function_code(FunctionName=name, ImageUri=uri + scan.image)
    cloud.settled(name)
    version = client.publish_version(FunctionName=name, Description="run newer model sha256:1")["Version"]
    client.update_alias(FunctionName=name, Name="live", FunctionVersion=version)
    assert counted() == (2, 1, 1)
    # An image that cannot be read any more says nothing, and then everything is new.
    cloud.client("ecr").batch_delete_image(repositoryName=REPOSITORY, imageIds=[{"imageDigest": deployed}])
    ended = scan.scan()
    assert scan.clone.record("scan")["summary"]["newIssuesCount"] == 2 and "could not be had for comparison" in ended.err


def test_scan_ends_with_ctrl_c_and_leaves_no_record(scan):
    """A wait is no reason to be deaf."""
    scan.account.answers = [scan.answer("IN_PROGRESS")]
    (scan.clone.run_folder() / "scan.json").unlink(missing_ok=True)
    scan.account.calls.clear()
    process = scan.clone.start("scan", "--env", "preprod", **scan.variables)
    wait_for(lambda: DESCRIBE in scan.account.calls)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and not (scan.clone.run_folder() / "scan.json").exists()
