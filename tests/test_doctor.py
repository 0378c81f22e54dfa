"""`cargo xtask doctor` in a fresh clone, before anything is installed."""

import json

import pytest
from cloud_support import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Cloud
from pipeline_clone import Clone


@pytest.fixture(scope="module")
def clone() -> Clone:
    return Clone("doctor")


@pytest.fixture
def doctor(clone, tmp_path):
    database = tmp_path / "advisories"
    (database / "crates").mkdir(parents=True)

    def ask(environment: str = "local", expect: int = 1, **variables: str) -> dict[str, dict]:
        asked = {"RUSTSEC_ADVISORY_DB": str(database)} | variables
        ended = clone.xtask("doctor", "--json", "--env", environment, expect=expect, **asked)
        answer = json.loads(ended.out)
        assert answer["environment"] == environment
        findings = {finding["name"]: finding for finding in answer["findings"]}
        for finding in findings.values():
            assert (finding["fix"] is None) == (finding["state"] == "found"), finding
            assert "\n" not in finding["detail"]
        missing = [name for name, finding in findings.items() if finding["state"] == "missing"]
        assert f"lacks: {', '.join(missing)}\n" in ended.err if missing else "lacks" not in ended.err
        return findings

    return ask


def test_fresh_clone_lacks_the_python_packages_alone(doctor):
    findings = doctor()
    assert {name for name, finding in findings.items() if finding["state"] == "missing"} == {"Python packages"}
    assert findings["Python packages"]["fix"] == "cargo xtask setup"
    assert "AWS account" not in findings and "mail" not in findings
    assert findings["MLflow"]["detail"].endswith("target/mlflow")


def test_text_says_the_same(clone, tmp_path):
    ended = clone.xtask("doctor", expect=1, RUSTSEC_ADVISORY_DB=str(tmp_path))
    assert "MISSING  Python packages" in ended.out and "→ cargo xtask setup" in ended.out
    assert "environment `local` lacks: Python packages" in ended.err


def test_a_reader_that_leaves_ends_nothing(clone, tmp_path):
    process = clone.start("doctor", RUSTSEC_ADVISORY_DB=str(tmp_path))
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 1 and "panicked" not in errors
    assert errors.endswith("lacks: Python packages\n"), errors


def test_what_is_not_there_is_missing(doctor, clone, tmp_path):
    findings = doctor(PYTHON="/nonexistent/python3", RUSTSEC_ADVISORY_DB=str(tmp_path),
                      CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER="no-such-linker")
    assert findings["Python"]["state"] == findings["linker"]["state"] == "missing"
    assert findings["advisory database"]["state"] == "absent", "the local environment does without"
    shallow = clone.path / ".git/shallow"
    shallow.write_text(clone.git("rev-parse", "HEAD") + "\n")
    assert "shallow" in doctor()["git history"]["detail"]
    shallow.unlink()


def credentials(cloud: Cloud, secret: str) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": cloud.endpoint_url, "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": secret}


def test_account_that_answers(doctor, cloud):
    there = credentials(cloud, SECRET_ACCESS_KEY)
    findings = doctor("preprod", SMTP_USERNAME="a", SMTP_PASSWORD="b", **there)
    assert findings["AWS account"]["state"] == findings["mail"]["state"] == findings["advisory database"]["state"] == "found"
    # Production builds nothing, so it lacks nothing to build with.
    doctor("production", expect=0, SMTP_USERNAME="a", SMTP_PASSWORD="b", **there)


def test_account_that_refuses(doctor, cloud, tmp_path):
    variables = {"RUSTSEC_ADVISORY_DB": str(tmp_path), "MLFLOW_TRACKING_URI": "http://ann:secret@example.com"}
    findings = doctor("preprod", **variables, **credentials(cloud, "another secret"))
    assert {"AWS account", "mail", "advisory database"} <= {n for n, f in findings.items() if f["state"] == "missing"}
    assert "SMTP_USERNAME is not set" in findings["mail"]["detail"]
    assert findings["MLflow"]["detail"] == "http://example.com/"
