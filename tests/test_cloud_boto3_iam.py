"""The embedded cloud's IAM and log groups by boto3."""

import json

import pytest

from cloud_support import Cloud, code

GITHUB = "https://token.actions.githubusercontent.com"
PROVIDER = "arn:aws:iam::000000000000:oidc-provider/token.actions.githubusercontent.com"


def document(**statement) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


TRUST = document(Principal={"Service": "lambda.amazonaws.com"}, Action="sts:AssumeRole")
POLICY = document(Action="logs:PutLogEvents", Resource="arn:aws:logs:*:*:log-group:/x & <y>:*")


@pytest.fixture
def iam(cloud: Cloud):
    return cloud.client("iam")


@pytest.fixture
def logs(cloud: Cloud):
    return cloud.client("logs")


def test_roles(iam):
    made = iam.create_role(RoleName="runner", AssumeRolePolicyDocument=TRUST, Description="a & b")["Role"]
    assert made["Arn"] == "arn:aws:iam::000000000000:role/runner" and made["Description"] == "a & b"
    assert made["AssumeRolePolicyDocument"] == json.loads(TRUST) and made["Path"] == "/"
    assert iam.get_role(RoleName="runner")["Role"] == made
    assert code(iam.create_role, RoleName="Runner", AssumeRolePolicyDocument=TRUST) == ("EntityAlreadyExists", 409)
    assert code(iam.get_role, RoleName="absent") == ("NoSuchEntity", 404)
    assert code(iam.get_role, RoleName="a b") == ("ValidationError", 400)
    changed = document(Principal={"AWS": "000000000000"}, Action="sts:AssumeRole")
    iam.update_assume_role_policy(RoleName="runner", PolicyDocument=changed)
    assert iam.get_role(RoleName="runner")["Role"]["AssumeRolePolicyDocument"] == json.loads(changed)
    malformed = ("MalformedPolicyDocument", 400)
    assert code(iam.update_assume_role_policy, RoleName="runner", PolicyDocument=POLICY) == malformed
    assert code(iam.create_role, RoleName="other", AssumeRolePolicyDocument="{") == malformed
    options = {"RoleName": "other", "AssumeRolePolicyDocument": TRUST, "Path": "/team/"}
    assert code(iam.create_role, **options)[1] == 501
    for number in range(4):
        iam.create_role(RoleName=f"more-{number}", AssumeRolePolicyDocument=TRUST)
    pages = list(iam.get_paginator("list_roles").paginate(PaginationConfig={"PageSize": 2}))
    assert [len(page["Roles"]) for page in pages] == [2, 2, 1]
    iam.delete_role(RoleName="more-0")
    assert code(iam.delete_role, RoleName="more-0") == ("NoSuchEntity", 404)


def test_inline_policies(iam):
    iam.create_role(RoleName="runner", AssumeRolePolicyDocument=TRUST)
    named = {"RoleName": "runner", "PolicyName": "logs"}
    assert code(iam.get_role_policy, **named) == ("NoSuchEntity", 404)
    iam.put_role_policy(**named, PolicyDocument=POLICY)
    assert iam.get_role_policy(**named)["PolicyDocument"] == json.loads(POLICY)
    assert iam.list_role_policies(RoleName="runner")["PolicyNames"] == ["logs"]
    assert iam.list_attached_role_policies(RoleName="runner")["AttachedPolicies"] == []
    assert code(iam.put_role_policy, **named, PolicyDocument=TRUST) == ("MalformedPolicyDocument", 400)
    long = document(Action="s3:*", Resource=[f"arn:aws:s3:::{'b' * 50}-{number}" for number in range(200)])
    assert code(iam.put_role_policy, **named, PolicyDocument=long) == ("LimitExceeded", 409)
    assert iam.get_role_policy(**named)["PolicyDocument"] == json.loads(POLICY), "a refused change changes nothing"
    assert code(iam.delete_role, RoleName="runner") == ("DeleteConflict", 409)
    iam.delete_role_policy(**named)
    assert code(iam.delete_role_policy, **named) == ("NoSuchEntity", 404)
    iam.delete_role(RoleName="runner")
    assert code(iam.put_role_policy, **named, PolicyDocument=POLICY) == ("NoSuchEntity", 404)


def test_identity_providers(iam):
    assert code(iam.get_open_id_connect_provider, OpenIDConnectProviderArn=PROVIDER) == ("NoSuchEntity", 404)
    made = iam.create_open_id_connect_provider(Url=GITHUB, ClientIDList=["one"], ThumbprintList=["a" * 40])
    assert made["OpenIDConnectProviderArn"] == PROVIDER
    assert code(iam.create_open_id_connect_provider, Url=GITHUB) == ("EntityAlreadyExists", 409)
    assert code(iam.create_open_id_connect_provider, Url="http://example.com") == ("ValidationError", 400)
    for client in ("sts.amazonaws.com", "sts.amazonaws.com"):
        iam.add_client_id_to_open_id_connect_provider(OpenIDConnectProviderArn=PROVIDER, ClientID=client)
    found = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=PROVIDER)
    assert found["Url"] == "token.actions.githubusercontent.com"
    assert found["ClientIDList"] == ["one", "sts.amazonaws.com"] and found["ThumbprintList"] == ["a" * 40]
    assert iam.list_open_id_connect_providers()["OpenIDConnectProviderList"] == [{"Arn": PROVIDER}]
    for _ in range(2):
        iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=PROVIDER)
    assert iam.list_open_id_connect_providers()["OpenIDConnectProviderList"] == []


def test_log_groups(logs):
    name = {"logGroupName": "/aws/lambda/one"}
    missing = ("ResourceNotFoundException", 400)
    assert code(logs.put_retention_policy, **name, retentionInDays=30) == missing
    logs.create_log_group(**name)
    assert code(logs.create_log_group, **name) == ("ResourceAlreadyExistsException", 400)
    assert code(logs.create_log_group, logGroupName="a b") == ("InvalidParameterException", 400)
    assert code(logs.create_log_group, logGroupName="c", kmsKeyId="k")[1] == 501
    group = logs.describe_log_groups(logGroupNamePrefix="/aws/lambda/one")["logGroups"][0]
    assert group["arn"] == "arn:aws:logs:us-east-1:000000000000:log-group:/aws/lambda/one:*"
    assert "retentionInDays" not in group, "kept for ever"
    logs.put_retention_policy(**name, retentionInDays=30)
    assert code(logs.put_retention_policy, **name, retentionInDays=31) == ("InvalidParameterException", 400)
    assert logs.describe_log_groups()["logGroups"][0]["retentionInDays"] == 30
    for number in range(4):
        logs.create_log_group(logGroupName=f"/aws/lambda/two-{number}")
    pages = list(logs.get_paginator("describe_log_groups").paginate(PaginationConfig={"PageSize": 2}))
    assert [len(page["logGroups"]) for page in pages] == [2, 2, 1]
    logs.delete_log_group(**name)
    assert code(logs.delete_log_group, **name) == missing


def test_state_outlives_the_server(cloud, iam, logs, programs):
    iam.create_role(RoleName="runner", AssumeRolePolicyDocument=TRUST)
    iam.put_role_policy(RoleName="runner", PolicyName="logs", PolicyDocument=POLICY)
    iam.create_open_id_connect_provider(Url=GITHUB)
    logs.create_log_group(logGroupName="/aws/lambda/one")
    cloud.stop()
    again = Cloud.start(programs["serve"], cloud.root)
    try:
        iam = again.client("iam")
        assert iam.list_role_policies(RoleName="runner")["PolicyNames"] == ["logs"]
        assert iam.get_open_id_connect_provider(OpenIDConnectProviderArn=PROVIDER)["Url"]
        assert again.client("logs").describe_log_groups()["logGroups"][0]["logGroupName"] == "/aws/lambda/one"
    finally:
        again.stop()


def test_wrong_credentials_are_refused(cloud):
    assert code(cloud.client("iam", secret_key="wrong").list_roles)[1] == 403
    assert code(cloud.client("logs", secret_key="wrong").describe_log_groups)[1] == 403


def test_bucket_encryption_and_transport(s3):
    s3.create_bucket(Bucket="site")
    rule = s3.get_bucket_encryption(Bucket="site")["ServerSideEncryptionConfiguration"]["Rules"][0]
    default = {"SSEAlgorithm": "AES256"}
    assert rule["ApplyServerSideEncryptionByDefault"] == default
    wanted = {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]}
    s3.put_bucket_encryption(Bucket="site", ServerSideEncryptionConfiguration=wanted)
    kms = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}]}
    assert code(s3.put_bucket_encryption, Bucket="site", ServerSideEncryptionConfiguration=kms)[1] == 501
    assert code(s3.get_bucket_encryption, Bucket="absent") == ("NoSuchBucket", 404)
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": ["arn:aws:s3:::site", "arn:aws:s3:::site/*"],
    }
    condition = {"Bool": {"aws:SecureTransport": "false"}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{**statement, "Condition": condition}]})
    s3.put_bucket_policy(Bucket="site", Policy=policy)
    assert s3.get_bucket_policy(Bucket="site")["Policy"] == policy
    other = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    assert code(s3.put_bucket_policy, Bucket="site", Policy=other)[1] == 501
