"""`cargo xtask provision` from outside, against the embedded cloud and against moto, whose IAM, S3, ECR and Logs are not ours.

Every test begins with an empty account and a pipeline.toml that names it and a repository on GitHub.
"""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from cloud_support import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Cloud, code
from moto.iam.access_control import IAMPolicy, PermissionResult
from pipeline_clone import Clone, Ended, xtask_program

REPOSITORY = "team/models"
ISSUER = "token.actions.githubusercontent.com"
FUNCTION = "creditcardapplicationlambda"
DEPLOY_ROLE = f"{FUNCTION}-deploy"
MONITOR_ROLE = f"{FUNCTION}-monitor"


@dataclass
class Account:
    """An AWS account that some server plays, and the clone whose pipeline.toml names it."""

    clone: Clone
    endpoint_url: str
    number: str
    key: tuple[str, str]
    judges_transport: bool = False
    region: str = "us-east-1"

    @property
    def bucket(self) -> str:
        return f"mlopswebapp-{self.number}"

    def variables(self) -> dict[str, str]:
        # What the person who runs the tests has configured is none of their business.
        nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        key = {"AWS_ACCESS_KEY_ID": self.key[0], "AWS_SECRET_ACCESS_KEY": self.key[1]}
        return {"AWS_ENDPOINT_URL": self.endpoint_url, **key, **nothing}

    def run(self, *arguments: str, environment: str = "preprod", expect: int = 0) -> Ended:
        return self.clone.xtask("provision", "--env", environment, *arguments, expect=expect, **self.variables())

    def report(self, *arguments: str, environment: str = "preprod") -> dict:
        return json.loads(self.run("--json", *arguments, environment=environment).out)

    def client(self, service: str):
        key, secret = self.key
        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def trust(self, role: str) -> dict:
        return self.client("iam").get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]

    def contents(self) -> dict:
        """All that provision makes, as others see it."""
        ecr, iam, logs, s3 = (self.client(service) for service in ("ecr", "iam", "logs", "s3"))
        roles = {}
        for role in iam.list_roles()["Roles"]:
            name = role["RoleName"]
            policies = iam.list_role_policies(RoleName=name)["PolicyNames"]
            roles[name] = [role["AssumeRolePolicyDocument"]] + [
                iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"] for policy in policies
            ]
        return {
            "repositories": ecr.describe_repositories()["repositories"],
            "roles": roles,
            "providers": iam.list_open_id_connect_providers()["OpenIDConnectProviderList"],
            "groups": logs.describe_log_groups()["logGroups"],
            "buckets": {
                bucket["Name"]: self.bucket_contents(s3, bucket["Name"]) for bucket in s3.list_buckets()["Buckets"]
            },
        }

    @staticmethod
    def bucket_contents(s3, name: str) -> list:
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket=name).get("Contents", [])]
        try:
            block = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
        except ClientError as error:
            assert error.response["Error"]["Code"] == "NoSuchPublicAccessBlockConfiguration"
            block = None
        try:
            policy = s3.get_bucket_policy(Bucket=name)["Policy"]
        except ClientError as error:
            assert error.response["Error"]["Code"] == "NoSuchBucketPolicy"
            policy = None
        return [keys, block, policy]

    def is_empty(self) -> bool:
        return not any(self.contents().values())


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            pytest.fail("moto did not start")
        # Its log would fill the pipe.
        with subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL) as drain:
            yield found[1]
            process.terminate()
            drain.wait(10)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def clone() -> Clone:
    return Clone("provision")


@pytest.fixture
def account(request, clone: Clone) -> Iterator[Account]:
    """The embedded cloud's, unless the test asks for moto's."""
    if getattr(request, "param", "embedded") == "moto":
        url = request.getfixturevalue("moto_url")
        requests.post(f"{url}/moto-api/reset", timeout=30).raise_for_status()
        made = Account(clone, url, "123456789012", ("test", "test"), judges_transport=True)
    else:
        cloud: Cloud = request.getfixturevalue("cloud")
        made = Account(clone, cloud.endpoint_url, "000000000000", (ACCESS_KEY_ID, SECRET_ACCESS_KEY))
    path = clone.path / "pipeline.toml"
    with clone.holding(path):
        text = path.read_text().replace("owner/name", REPOSITORY)
        # The embedded cloud keeps the number that it has.
        path.write_text(re.sub(r'(cloud = "aws"\naccount = ")\d+', rf"\g<1>{made.number}", text))
        yield made


with_both = pytest.mark.parametrize("account", ["embedded", "moto"], indirect=True)
with_moto = pytest.mark.parametrize("account", ["moto"], indirect=True)


def actions(report: dict) -> dict[str, str]:
    return {f"{resource['kind']} {resource['name']}": resource["action"] for resource in report["resources"]}


def details(report: dict, action: str) -> str:
    return "\n".join(
        line for resource in report["resources"] if resource["action"] == action for line in resource["details"]
    )


@with_both
def test_dry_run_says_what_a_run_does_and_changes_nothing(account):
    plan = account.report("--dry-run")
    assert account.is_empty()
    done = account.report()
    assert plan["dry_run"] and not done["dry_run"]
    assert {**plan, "dry_run": False} == done
    assert set(actions(done).values()) == {"create", "later"}
    assert actions(done)[f"function {FUNCTION}"] == "later"
    assert "comes with the first `cargo xtask pipeline --env preprod`" in details(done, "later")


@with_both
def test_first_run_creates_and_the_second_has_nothing_to_do(account):
    first = account.run()
    for kind in (
        "image repository",
        "bucket",
        "log group",
        "execution role",
        "deploy role",
        "monitor role",
        "identity provider",
    ):
        assert f"created {kind}" in first.err
    ecr, iam, s3 = account.client("ecr"), account.client("iam"), account.client("s3")
    for repository in ecr.describe_repositories()["repositories"]:
        assert repository["imageTagMutability"] == "IMMUTABLE"
        assert repository["imageScanningConfiguration"]["scanOnPush"]
    rules = json.loads(ecr.get_lifecycle_policy(repositoryName="ccapproval-deploy")["lifecyclePolicyText"])["rules"]
    assert [rule["selection"]["tagStatus"] for rule in rules] == ["untagged"], "what an alias names has a tag"
    pull = json.loads(ecr.get_repository_policy(repositoryName="ccapproval-deploy")["policyText"])["Statement"][0]
    assert pull["Principal"] == {"Service": "lambda.amazonaws.com"}

    group = account.client("logs").describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{FUNCTION}")["logGroups"][0]
    assert group["retentionInDays"] == 30
    execution = account.trust(FUNCTION)["Statement"][0]
    assert execution["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert execution["Condition"] == {"StringEquals": {"aws:SourceAccount": account.number}}
    provider = f"arn:aws:iam::{account.number}:oidc-provider/{ISSUER}"
    assert iam.get_open_id_connect_provider(OpenIDConnectProviderArn=provider)["ClientIDList"] == ["sts.amazonaws.com"]
    for role, environment in ((DEPLOY_ROLE, "preprod"), (MONITOR_ROLE, "monitor")):
        statement = account.trust(role)["Statement"][0]
        assert statement["Principal"] == {"Federated": provider}
        assert statement["Condition"] == {
            "StringEquals": {
                f"{ISSUER}:aud": "sts.amazonaws.com",
                f"{ISSUER}:sub": f"repo:{REPOSITORY}:environment:{environment}",
            }
        }

    block = s3.get_public_access_block(Bucket=account.bucket)["PublicAccessBlockConfiguration"]
    assert block["BlockPublicAcls"] and block["IgnorePublicAcls"]
    statements = {s["Sid"]: s for s in json.loads(s3.get_bucket_policy(Bucket=account.bucket)["Policy"])["Statement"]}
    tls = statements.pop("RefuseWithoutTls")
    assert (tls["Effect"], tls["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    arn = f"arn:aws:s3:::{account.bucket}"
    assert [(s["Action"], s["Resource"]) for s in statements.values()] == [
        ("s3:GetObject", [f"{arn}/web/*", f"{arn}/harness/output/*"])
    ]
    assert s3.get_bucket_encryption(Bucket=account.bucket)["ServerSideEncryptionConfiguration"]["Rules"]

    before = account.contents()
    second = account.run()
    assert "nothing to do" in second.out and second.err == ""
    assert account.contents() == before


@with_both
def test_private_environment_publishes_nothing(account):
    account.run(environment="production")
    s3, bucket = account.client("s3"), f"mlopswebapp-production-{account.number}"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    statements = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert [statement["Effect"] for statement in statements] == ["Deny"]
    # An environment that promotes another one deploys its images and brings in none.
    policy = account.client("iam").get_role_policy(RoleName=f"{FUNCTION}-production-deploy", PolicyName="deploy")
    assert "ecr:PutImage" not in json.dumps(policy["PolicyDocument"])


@with_both
def test_drift_is_named_and_repaired(account):
    account.run()
    wanted = account.contents()
    ecr, iam, logs, s3 = (account.client(service) for service in ("ecr", "iam", "logs", "s3"))
    trust = account.trust(DEPLOY_ROLE)
    trust["Statement"][0]["Condition"] = {"StringLike": {f"{ISSUER}:sub": "repo:team/*"}}
    iam.update_assume_role_policy(RoleName=DEPLOY_ROLE, PolicyDocument=json.dumps(trust))
    admin = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
    iam.put_role_policy(RoleName=FUNCTION, PolicyName="write-own-log", PolicyDocument=json.dumps(admin))
    iam.delete_role_policy(RoleName=MONITOR_ROLE, PolicyName="monitor")
    ecr.put_image_tag_mutability(repositoryName="ccapproval", imageTagMutability="MUTABLE")
    any_image = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1}
    rule = {"rulePriority": 1, "selection": any_image, "action": {"type": "expire"}}
    ecr.put_lifecycle_policy(repositoryName="ccapproval-deploy", lifecyclePolicyText=json.dumps({"rules": [rule]}))
    logs.put_retention_policy(logGroupName=f"/aws/lambda/{FUNCTION}", retentionInDays=1)
    everything = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{account.bucket}/*",
    }
    opened = {"Version": "2012-10-17", "Statement": [{"Sid": "All", **everything}]}
    s3.put_bucket_policy(Bucket=account.bucket, Policy=json.dumps(opened))
    s3.delete_public_access_block(Bucket=account.bucket)

    drifted = account.contents()
    plan = account.report("--dry-run")
    assert account.contents() == drifted, "a plan changes nothing"
    named = details(plan, "update")
    for difference in (
        f"trust: statement JobsOfOneEnvironment: Condition.StringLike.{ISSUER}:sub is repo:team/*, should be missing",
        f"Condition.StringEquals.{ISSUER}:sub is missing, should be repo:{REPOSITORY}:environment:preprod",
        "policy monitor is missing",
        "statement WriteOwnLog is missing",
        "tags can be moved",
        "selection.tagStatus is any, should be untagged",
        "keeps events for 1 days, should for 30",
        "public access: blocks nothing, should block new access lists, access lists",
        "policy: statement All should not be there",
        "policy: statement RefuseWithoutTls is missing",
    ):
        assert difference in named, named
    assert actions(account.report()) == actions(plan)
    assert account.contents() == wanted
    assert set(actions(account.report()).values()) == {"keep", "later"}


def test_what_others_gave_a_role_is_named_and_left(account):
    account.run()
    more = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"}]}
    account.client("iam").put_role_policy(RoleName=FUNCTION, PolicyName="more", PolicyDocument=json.dumps(more))
    report = account.report()
    assert actions(report)[f"execution role {FUNCTION}"] == "keep"
    assert "has also the inline policy more" in details(report, "keep")
    refused = account.run("--destroy", "--yes", "preprod", expect=1)
    assert "nothing was removed" in refused.err and "the inline policy more: remove that first" in refused.err
    assert account.trust(DEPLOY_ROLE)


@with_moto
def test_an_attached_policy_is_named(account):
    account.run()
    iam = account.client("iam")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
    admin = iam.create_policy(PolicyName="admin", PolicyDocument=policy)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=FUNCTION, PolicyArn=admin)
    assert "has also the attached policy admin" in details(account.report(), "keep")


@with_both
def test_destroy_asks_first_and_then_removes_everything(account):
    account.run()
    before = account.contents()
    asked = account.run("--destroy", expect=2)
    assert "--yes preprod" in asked.err
    assert "--yes production does not name" in account.run("--destroy", "--yes", "production", expect=2).err
    account.run("--yes", "preprod", expect=2)
    plan = account.report("--destroy", "--dry-run")
    assert set(actions(plan).values()) == {"delete", "skip"}
    assert account.contents() == before

    s3 = account.client("s3")
    if account.judges_transport:
        # moto is reached without TLS, and takes the policy at its word.
        assert code(s3.put_object, Bucket=account.bucket, Key="web/x", Body=b"x") == ("403", 403)
        s3.delete_bucket_policy(Bucket=account.bucket)
    for number in range(3):
        s3.put_object(Bucket=account.bucket, Key=f"web/{number}", Body=b"x")
    before = account.contents()
    refused = account.run("--destroy", "--yes", "preprod", expect=1)
    assert "nothing was removed" in refused.err and account.bucket in refused.err and "--force" in refused.err
    assert account.contents() == before
    assert "refuse" in actions(account.report("--destroy", "--dry-run")).values()

    removed = account.report("--destroy", "--yes", "preprod", "--force")
    assert {**plan, "dry_run": False, "resources": None} == {**removed, "resources": None}
    assert actions(removed) == actions(plan)
    assert account.is_empty()
    again = account.run("--destroy", "--yes", "preprod")
    assert "nothing to do" in again.out


def test_destroy_takes_the_name_from_a_terminal(account):
    account.run()
    before = account.contents()

    def typed(answer: str) -> tuple[int, str]:
        ours, theirs = os.openpty()
        try:
            command = [str(xtask_program()), "provision", "--env", "preprod", "--destroy"]
            process = subprocess.Popen(
                command, cwd=account.clone.path, env=account.clone.environment(**account.variables()),
                stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            os.write(ours, f"{answer}\n".encode())
            err = process.communicate(timeout=60)[1]
            return process.returncode, err
        finally:
            os.close(ours)
            os.close(theirs)

    ended, said = typed("yes")
    assert ended == 1 and "nothing was removed" in said and f"bucket {account.bucket}" in said
    assert account.contents() == before
    ended, said = typed("preprod")
    assert ended == 0, said
    assert account.is_empty()


def test_what_another_environment_uses_stays(account):
    account.run()
    account.run(environment="production")
    removed = account.report("--destroy", "--yes", "preprod")
    kept = [name for name, action in actions(removed).items() if action == "keep"]
    assert kept == [
        f"monitor role {MONITOR_ROLE}", f"identity provider {ISSUER}", "image repository ccapproval-deploy", "image repository ccapproval",
    ]  # fmt: skip
    report = account.report(environment="production")
    assert set(actions(report).values()) == {"keep", "later"}, "production lost nothing"
    account.run("--destroy", "--yes", "production", environment="production")
    assert account.is_empty()


def test_a_provider_that_other_projects_trust_stays(account):
    account.run()
    trust = account.trust(DEPLOY_ROLE)
    account.client("iam").create_role(RoleName="of-another-project", AssumeRolePolicyDocument=json.dumps(trust))
    removed = account.report("--destroy", "--yes", "preprod")
    assert actions(removed)[f"identity provider {ISSUER}"] == "keep"
    assert "role of-another-project trusts it, too" in details(removed, "keep")


def test_an_existing_provider_is_given_the_audience(account):
    iam = account.client("iam")
    iam.create_open_id_connect_provider(Url=f"https://{ISSUER}", ClientIDList=["other"], ThumbprintList=["a" * 40])
    report = account.report()
    assert actions(report)[f"identity provider {ISSUER}"] == "update"
    provider = f"arn:aws:iam::{account.number}:oidc-provider/{ISSUER}"
    found = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=provider)["ClientIDList"]
    assert sorted(found) == ["other", "sts.amazonaws.com"]


def test_without_a_repository_github_is_left_out_with_a_note(account):
    with account.clone.edited("pipeline.toml", REPOSITORY, "owner/name"):
        report = account.report()
    skipped = [name for name, action in actions(report).items() if action == "skip"]
    assert skipped == [f"identity provider {ISSUER}", f"deploy role {DEPLOY_ROLE}", f"monitor role {MONITOR_ROLE}"]
    assert "write your repository into [github] of pipeline.toml" in details(report, "skip")
    assert report["next_steps"] == []
    assert account.trust(FUNCTION), "the rest is there"
    assert actions(account.report())[f"deploy role {DEPLOY_ROLE}"] == "create"


def test_what_is_left_to_the_owner_is_printed(account):
    text = account.run("--dry-run", environment="production").out
    role = f"arn:aws:iam::{account.number}:role/{FUNCTION}-production-deploy"
    assert f"gh variable set AWS_ROLE_ARN --repo {REPOSITORY} --env production --body {role}" in text
    assert f"gh variable set AWS_REGION --repo {REPOSITORY} --body us-east-1" in text
    assert f"repos/{REPOSITORY}/environments/production/deployment-branch-policies -f name=main" in text
    assert "reviewers" in text
    assert "reviewers" not in account.run("--dry-run").out


def test_ids_in_the_subject_are_trusted_where_named(account):
    subject = f'repository = "{REPOSITORY}"\nsubject = "repo:team@12/models@34"'
    account.run()
    with account.clone.edited("pipeline.toml", f'repository = "{REPOSITORY}"', subject):
        assert actions(account.report())[f"deploy role {DEPLOY_ROLE}"] == "update"
        condition = account.trust(DEPLOY_ROLE)["Statement"][0]["Condition"]["StringEquals"]
    assert condition[f"{ISSUER}:sub"] == "repo:team@12/models@34:environment:preprod"


@with_moto
def test_another_region_and_another_account(account):
    path = account.clone.path / "pipeline.toml"
    path.write_text(path.read_text().replace('region = "us-east-1"', 'region = "eu-central-1"'))
    account.run()
    place = account.client("s3").get_bucket_location(Bucket=account.bucket)["LocationConstraint"]
    assert place == "eu-central-1"
    path.write_text(path.read_text().replace(account.number, "210987654321"))
    wrong = account.run(expect=1)
    assert "the credentials are of account 123456789012, pipeline.toml says 210987654321" in wrong.err


def findings(policy: dict) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import parliament
    analyzed = parliament.analyze_policy_string(json.dumps(policy))
    return [f"{finding.issue} {finding.detail}" for finding in analyzed.findings]


def test_roles_are_sound_policies_by_another_judge(account):
    account.run()
    account.run(environment="production")
    roles = account.contents()["roles"]
    assert len(roles) == 5
    for name, (_, policy) in roles.items():
        assert findings(policy) == [], name
    # The judge sees what it is asked for: an action that is none, and one that its resource does not have.
    policy = json.dumps(roles[DEPLOY_ROLE][1])
    assert findings(json.loads(policy.replace("ecr:PutImage", "ecr:PutImages")))
    assert findings(json.loads(policy.replace("iam:PassRole", "s3:GetObject")))


def test_what_each_role_may_do_by_another_judge(account):
    account.run()
    account.run(environment="production")
    roles = account.contents()["roles"]
    function, production = (
        f"arn:aws:lambda:us-east-1:{account.number}:function:{name}" for name in (FUNCTION, f"{FUNCTION}-production")
    )
    repository, bucket = f"arn:aws:ecr:us-east-1:{account.number}:repository", f"arn:aws:s3:::{account.bucket}"
    role, group = (
        f"arn:aws:iam::{account.number}:role",
        f"arn:aws:logs:us-east-1:{account.number}:log-group:/aws/lambda",
    )
    questions = {
        DEPLOY_ROLE: [
            (True, "ecr:PutImage", f"{repository}/ccapproval-deploy"),
            (False, "ecr:PutImage", f"{repository}/another"),
            (False, "ecr:BatchDeleteImage", f"{repository}/ccapproval-deploy"),
            (True, "s3:PutObject", f"{bucket}/web/index.html"),
            (True, "s3:PutObject", f"{bucket}/harness/output/run-1/model_metrics.html"),
            (True, "s3:PutObject", f"{bucket}/evidence/run-1/bundle.json"),
            (False, "s3:GetObject", f"{bucket}/evidence/run-1/bundle.json"),
            (False, "s3:PutObject", f"{bucket}/private"),
            (False, "s3:PutObject", f"arn:aws:s3:::mlopswebapp-production-{account.number}/web/index.html"),
            (False, "s3:PutBucketPolicy", bucket),
            (True, "lambda:UpdateAlias", function),
            (True, "lambda:InvokeFunction", f"{function}:1"),
            (False, "lambda:UpdateAlias", production),
            (False, "lambda:DeleteFunction", function),
            (True, "iam:PassRole", f"{role}/{FUNCTION}"),
            (False, "iam:PassRole", f"{role}/{DEPLOY_ROLE}"),
            (False, "iam:PutRolePolicy", f"{role}/{DEPLOY_ROLE}"),
        ],
        f"{FUNCTION}-production-deploy": [
            (True, "ecr:BatchGetImage", f"{repository}/ccapproval-deploy"),
            (False, "ecr:PutImage", f"{repository}/ccapproval-deploy"),
            (True, "lambda:UpdateAlias", production),
            (False, "lambda:UpdateAlias", function),
        ],
        MONITOR_ROLE: [
            (True, "lambda:InvokeFunction", f"{function}:1"),
            (True, "lambda:InvokeFunction", f"{production}:1"),
            (False, "lambda:UpdateAlias", function),
            (False, "s3:GetObject", f"{bucket}/web/index.html"),
        ],
        FUNCTION: [
            (True, "logs:PutLogEvents", f"{group}/{FUNCTION}:log-stream:x"),
            (False, "logs:PutLogEvents", f"{group}/{FUNCTION}-production:log-stream:x"),
            (False, "logs:CreateLogGroup", f"{group}/{FUNCTION}"),
            (False, "s3:GetObject", f"{bucket}/web/index.html"),
        ],
    }
    for name, asked in questions.items():
        policy = IAMPolicy(json.dumps(roles[name][1]))
        for permitted, action, resource in asked:
            answer = policy.is_action_permitted(action, resource) == PermissionResult.PERMITTED
            assert answer == permitted, f"{name}: {action} on {resource}"


def test_the_function_follows_pipeline_toml(account, cloud, echo_image):
    account.run()
    digest = cloud.push(echo_image(), "ccapproval-deploy", "run-1")
    functions = account.client("lambda")
    functions.create_function(
        FunctionName=FUNCTION, PackageType="Image", Role="arn:aws:iam::000000000000:role/other", MemorySize=256,
        Code={"ImageUri": f"{cloud.host}/ccapproval-deploy@{digest}"},
    )  # fmt: skip
    cloud.settled(FUNCTION)
    report = account.report("--dry-run")
    assert "memory in MB is 256, should be 128" in details(report, "update")
    assert "alias live and its URL come with the next deployment" in details(report, "update")
    functions.publish_version(FunctionName=FUNCTION)
    functions.create_alias(FunctionName=FUNCTION, Name="live", FunctionVersion="1")
    named = {"FunctionName": FUNCTION, "Qualifier": "live"}
    functions.create_function_url_config(**named, AuthType="AWS_IAM", Cors={"AllowOrigins": ["*"]})
    url = functions.get_function_url_config(**named)["FunctionUrl"]
    assert requests.post(url, json={}, timeout=10).status_code == 403

    shown = details(account.report("--dry-run"), "update")
    for difference in (
        "URL: authorization is AWS_IAM, should be NONE",
        f"URL: pages that may ask is *, should be {account.endpoint_url}",
        "the public lacks lambda:InvokeFunctionUrl",
        "the public lacks lambda:InvokeFunction",
    ):
        assert difference in shown.splitlines(), shown
    assert requests.post(url, json={}, timeout=10).status_code == 403, "a plan changes nothing"
    account.run()
    configuration = functions.get_function_configuration(FunctionName=FUNCTION)
    assert (configuration["MemorySize"], configuration["Timeout"]) == (128, 3)
    assert configuration["Role"] == f"arn:aws:iam::000000000000:role/{FUNCTION}"
    assert functions.get_function_url_config(**named)["Cors"]["AllowOrigins"] == [account.endpoint_url]
    assert requests.post(url, json={}, timeout=10).status_code == 200
    assert actions(account.report())[f"function {FUNCTION}"] == "keep"

    # No longer public: everybody without a signature is out again.
    path = account.clone.path / "pipeline.toml"
    path.write_text(path.read_text().replace("public = true", "public = false"))
    closing = details(account.report(), "update")
    assert (
        "statement public-url lets the public in" in closing and "statement public-invoke lets the public in" in closing
    )
    assert requests.post(url, json={}, timeout=10).status_code == 403
    assert code(functions.get_policy, **named) == ("ResourceNotFoundException", 404)
    assert set(actions(account.report()).values()) == {"keep"}

    refused = account.run("--destroy", "--yes", "preprod", expect=1)
    assert "image repository ccapproval-deploy has images" in refused.err
    account.run("--destroy", "--yes", "preprod", "--force")
    assert account.is_empty() and functions.list_functions()["Functions"] == []


def test_local_environment_needs_no_account(account):
    first = account.report(environment="local")
    assert set(actions(first).values()) == {"create", "later", "skip"}
    assert "the embedded cloud is deployed to from this machine" in details(first, "skip")
    assert first["next_steps"] == []
    assert set(actions(account.report(environment="local")).values()) == {"keep", "later", "skip"}
    removed = account.report("--destroy", "--yes", "local", environment="local")
    assert set(actions(removed).values()) == {"delete", "skip"}
    assert account.is_empty(), "the account that the variables name was not asked"
