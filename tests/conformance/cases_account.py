"""STS, IAM, CloudWatch and its logs: who asks, roles, metrics, log groups."""

import datetime
import json

from conversation import Conversation, case
from scenario import TRUST, create_role

INLINE = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "logs:PutLogEvents", "Resource": "*"}]})
NO_ENTITY = ("NoSuchEntity", 404)
NO_RESOURCE = ("ResourceNotFoundException", 400)
THUMBPRINT = "6938fd4d98bab03faadb97b34396831e3780aea1"


@case("sts.GetCallerIdentity", "an account, an ARN in it, an id")
def identity(c: Conversation) -> None:
    answer = c.ok("sts.GetCallerIdentity")
    c.expect(answer.get("Account", "").isdigit() and len(answer["Account"]) == 12, "Account is no number of 12 digits")
    c.expect(f":{answer.get('Account')}:" in answer.get("Arn", ""), "Arn is not in the account")
    c.expect(answer.get("UserId"), "UserId is missing")


@case("iam.CreateRole", "the answer describes it as asked")
def role(c: Conversation) -> None:
    name = c.name("role")
    made = create_role(c, name)
    c.equal("RoleName", made.get("RoleName"), name)
    c.expect(made.get("Arn", "").endswith(f":role/{name}"), "Arn does not end in the name")
    c.equal("the trust policy", made.get("AssumeRolePolicyDocument"), json.loads(TRUST))


@case("iam.CreateRole", "a second one of the name is refused")
def role_twice(c: Conversation) -> None:
    name = c.name("role")
    create_role(c, name)
    c.refused("iam.CreateRole", "EntityAlreadyExists", 409, RoleName=name, AssumeRolePolicyDocument=TRUST)


@case("iam.CreateRole", "a trust policy that is no JSON is refused")
def bad_trust(c: Conversation) -> None:
    c.refused("iam.CreateRole", "MalformedPolicyDocument", 400, RoleName=c.name("role"), AssumeRolePolicyDocument="trust me")


@case("iam.GetRole", "what CreateRole said")
def get_role(c: Conversation) -> None:
    made = create_role(c, c.name("role"))
    found = c.ok("iam.GetRole", RoleName=made["RoleName"])["Role"]
    for member in ("Arn", "RoleId", "AssumeRolePolicyDocument"):
        c.equal(member, found.get(member), made.get(member))


@case("iam.GetRole", "an absent one is an error")
def absent_role(c: Conversation) -> None:
    c.refused("iam.GetRole", *NO_ENTITY, RoleName="absent")


@case("iam.UpdateAssumeRolePolicy", "is what the role says afterwards")
def trust(c: Conversation) -> None:
    name, other = create_role(c, c.name("role"))["RoleName"], TRUST.replace("lambda.", "events.")
    c.ok("iam.UpdateAssumeRolePolicy", RoleName=name, PolicyDocument=other)
    c.equal("the trust policy", c.ok("iam.GetRole", RoleName=name)["Role"].get("AssumeRolePolicyDocument"), json.loads(other))
    c.refused("iam.UpdateAssumeRolePolicy", *NO_ENTITY, RoleName="absent", PolicyDocument=other)


@case("iam.PutRolePolicy", "is read back as given")
def inline(c: Conversation) -> None:
    name = create_role(c, c.name("role"))["RoleName"]
    c.ok("iam.PutRolePolicy", RoleName=name, PolicyName="write-logs", PolicyDocument=INLINE)
    found = c.ok("iam.GetRolePolicy", RoleName=name, PolicyName="write-logs")
    c.equal("PolicyDocument", found.get("PolicyDocument"), json.loads(INLINE))
    c.equal("ListRolePolicies", c.ok("iam.ListRolePolicies", RoleName=name).get("PolicyNames"), ["write-logs"])


@case("iam.PutRolePolicy", "of an absent role is refused")
def inline_of_nothing(c: Conversation) -> None:
    c.refused("iam.PutRolePolicy", *NO_ENTITY, RoleName="absent", PolicyName="p", PolicyDocument=INLINE)


@case("iam.GetRolePolicy", "an absent one is an error")
def absent_inline(c: Conversation) -> None:
    name = create_role(c, c.name("role"))["RoleName"]
    c.refused("iam.GetRolePolicy", *NO_ENTITY, RoleName=name, PolicyName="absent")


@case("iam.ListRolePolicies", "of an absent role is refused")
def list_of_nothing(c: Conversation) -> None:
    c.refused("iam.ListRolePolicies", *NO_ENTITY, RoleName="absent")


@case("iam.ListAttachedRolePolicies", "a new role has none; an absent one is an error")
def attached(c: Conversation) -> None:
    name = create_role(c, c.name("role"))["RoleName"]
    c.equal("AttachedPolicies", c.ok("iam.ListAttachedRolePolicies", RoleName=name).get("AttachedPolicies"), [])
    c.refused("iam.ListAttachedRolePolicies", *NO_ENTITY, RoleName="absent")


@case("iam.ListRoles", "names each")
def list_roles(c: Conversation) -> None:
    made = create_role(c, c.name("role"))
    found = {role["RoleName"]: role["Arn"] for role in c.ok("iam.ListRoles", MaxItems=1000).get("Roles", [])}
    c.equal("the new role's ARN", found.get(made["RoleName"]), made["Arn"])


@case("iam.DeleteRolePolicy", "takes it away, once")
def delete_inline(c: Conversation) -> None:
    name = create_role(c, c.name("role"))["RoleName"]
    c.ok("iam.PutRolePolicy", RoleName=name, PolicyName="p", PolicyDocument=INLINE)
    c.ok("iam.DeleteRolePolicy", RoleName=name, PolicyName="p")
    c.refused("iam.DeleteRolePolicy", *NO_ENTITY, RoleName=name, PolicyName="p")


@case("iam.DeleteRole", "one with policies stays")
def delete_role(c: Conversation) -> None:
    name = create_role(c, c.name("role"))["RoleName"]
    c.ok("iam.PutRolePolicy", RoleName=name, PolicyName="p", PolicyDocument=INLINE)
    c.refused("iam.DeleteRole", "DeleteConflict", 409, RoleName=name)
    c.ok("iam.DeleteRolePolicy", RoleName=name, PolicyName="p")
    c.ok("iam.DeleteRole", RoleName=name)
    c.refused("iam.DeleteRole", *NO_ENTITY, RoleName=name)


def provider(c: Conversation) -> tuple[str, str]:
    """A new identity provider: its host and its ARN."""
    host = f"{c.name('tokens')}.example.com"
    made = c.ok(
        "iam.CreateOpenIDConnectProvider", Url=f"https://{host}", ClientIDList=["sts.amazonaws.com"], ThumbprintList=[THUMBPRINT]
    )
    return host, made["OpenIDConnectProviderArn"]


@case("iam.CreateOpenIDConnectProvider", "its ARN ends in the host; a second one is refused")
def create_provider(c: Conversation) -> None:
    host, arn = provider(c)
    c.expect(arn.endswith(f":oidc-provider/{host}"), "the ARN does not end in the host")
    c.refused(
        "iam.CreateOpenIDConnectProvider",
        "EntityAlreadyExists",
        409,
        Url=f"https://{host}",
        ClientIDList=["sts.amazonaws.com"],
        ThumbprintList=[THUMBPRINT],
    )


@case("iam.GetOpenIDConnectProvider", "audiences and host as given; an absent one is an error")
def get_provider(c: Conversation) -> None:
    host, arn = provider(c)
    found = c.ok("iam.GetOpenIDConnectProvider", OpenIDConnectProviderArn=arn)
    c.equal("Url", found.get("Url"), host)
    c.equal("ClientIDList", found.get("ClientIDList"), ["sts.amazonaws.com"])
    c.refused("iam.GetOpenIDConnectProvider", *NO_ENTITY, OpenIDConnectProviderArn=arn + ".absent")


@case("iam.ListOpenIDConnectProviders", "names each")
def list_providers(c: Conversation) -> None:
    _, arn = provider(c)
    found = [entry["Arn"] for entry in c.ok("iam.ListOpenIDConnectProviders").get("OpenIDConnectProviderList", [])]
    c.expect(arn in found, "the new provider is not in the list")


@case("iam.AddClientIDToOpenIDConnectProvider", "adds an audience")
def add_client(c: Conversation) -> None:
    _, arn = provider(c)
    c.ok("iam.AddClientIDToOpenIDConnectProvider", OpenIDConnectProviderArn=arn, ClientID="other")
    found = c.ok("iam.GetOpenIDConnectProvider", OpenIDConnectProviderArn=arn).get("ClientIDList")
    c.equal("ClientIDList", sorted(found or []), ["other", "sts.amazonaws.com"])


@case("iam.DeleteOpenIDConnectProvider", "is gone afterwards")
def delete_provider(c: Conversation) -> None:
    _, arn = provider(c)
    c.ok("iam.DeleteOpenIDConnectProvider", OpenIDConnectProviderArn=arn)
    c.refused("iam.GetOpenIDConnectProvider", *NO_ENTITY, OpenIDConnectProviderArn=arn)


@case("logs.CreateLogGroup", "is there afterwards; a second one is refused")
def log_group(c: Conversation) -> None:
    name = f"/aws/lambda/{c.name('function')}"
    c.ok("logs.CreateLogGroup", logGroupName=name)
    c.refused("logs.CreateLogGroup", "ResourceAlreadyExistsException", 400, logGroupName=name)


@case("logs.DescribeLogGroups", "by prefix")
def describe_groups(c: Conversation) -> None:
    name = f"/aws/lambda/{c.name('function')}"
    c.ok("logs.CreateLogGroup", logGroupName=name)
    found = c.ok("logs.DescribeLogGroups", logGroupNamePrefix=name).get("logGroups", [])
    c.equal("the groups", [group.get("logGroupName") for group in found], [name])
    c.expect(found and "retentionInDays" not in found[0], "a new group has a retention")
    c.equal("groups of an absent prefix", c.ok("logs.DescribeLogGroups", logGroupNamePrefix="/absent").get("logGroups"), [])


@case("logs.PutRetentionPolicy", "is what the group says afterwards")
def retention(c: Conversation) -> None:
    name = f"/aws/lambda/{c.name('function')}"
    c.ok("logs.CreateLogGroup", logGroupName=name)
    c.ok("logs.PutRetentionPolicy", logGroupName=name, retentionInDays=30)
    found = c.ok("logs.DescribeLogGroups", logGroupNamePrefix=name).get("logGroups", [])
    c.equal("retentionInDays", [group.get("retentionInDays") for group in found], [30])


@case("logs.PutRetentionPolicy", "days that are not offered and an absent group are refused")
def bad_retention(c: Conversation) -> None:
    name = f"/aws/lambda/{c.name('function')}"
    c.refused("logs.PutRetentionPolicy", *NO_RESOURCE, logGroupName=name, retentionInDays=30)
    c.ok("logs.CreateLogGroup", logGroupName=name)
    c.refused("logs.PutRetentionPolicy", "InvalidParameterException", 400, logGroupName=name, retentionInDays=31)


@case("logs.DeleteLogGroup", "is gone afterwards")
def delete_group(c: Conversation) -> None:
    name = f"/aws/lambda/{c.name('function')}"
    c.ok("logs.CreateLogGroup", logGroupName=name)
    c.ok("logs.DeleteLogGroup", logGroupName=name)
    c.refused("logs.DeleteLogGroup", *NO_RESOURCE, logGroupName=name)


def metric(name: str, minutes: int = 60, **options) -> dict:
    now = datetime.datetime.now(datetime.UTC).replace(second=0, microsecond=0)
    request = {
        "Namespace": "AWS/Lambda",
        "MetricName": "Errors",
        "Dimensions": [{"Name": "FunctionName", "Value": name}],
        "StartTime": now - datetime.timedelta(minutes=minutes),
        "EndTime": now,
        "Period": 60,
        "Statistics": ["Sum"],
    }
    return {**request, **options}


@case("cloudwatch.GetMetricStatistics", "nothing was measured of an absent function")
def statistics(c: Conversation) -> None:
    answer = c.ok("cloudwatch.GetMetricStatistics", **metric(c.name("function")))
    c.equal("Label", answer.get("Label"), "Errors")
    c.equal("Datapoints", answer.get("Datapoints"), [])


@case("cloudwatch.GetMetricStatistics", "a time that ends before it begins is refused")
def backwards(c: Conversation) -> None:
    c.refused("cloudwatch.GetMetricStatistics", "InvalidParameterValue", 400, **metric(c.name("function"), minutes=-5))
