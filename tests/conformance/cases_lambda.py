"""Lambda: functions of images and of zip packages, versions, aliases, addresses, permissions."""

import json

from conversation import Conversation, case
from scenario import (
    aliased,
    function,
    function_options,
    image_uri,
    package,
    package_digest,
    package_function,
    package_options,
    repository,
    second_uri,
    second_version,
    settled,
    stored_package,
)

NOT_FOUND = ("ResourceNotFoundException", 404)
CONFLICT = ("ResourceConflictException", 409)
STALE = ("PreconditionFailedException", 412)
INVALID = ("InvalidParameterValueException", 400)


@case("lambda.CreateFunction", "the answer describes it as asked")
def created(c: Conversation) -> None:
    name, _ = function(c)
    found = settled(c, name)
    expected = {
        "FunctionName": name,
        "PackageType": "Image",
        "MemorySize": 256,
        "Timeout": 5,
        "Version": "$LATEST",
        "State": "Active",
        "LastUpdateStatus": "Successful",
    }
    for member, value in expected.items():
        c.equal(member, found.get(member), value)
    c.expect(found.get("FunctionArn", "").endswith(f":function:{name}"), "FunctionArn does not end in the name")
    c.expect(found.get("RevisionId"), "RevisionId is missing")


@case("lambda.CreateFunction", "CodeSha256 is the image's digest")
def code_digest(c: Conversation) -> None:
    name, _ = function(c)
    digest = c.image("1").digest.removeprefix("sha256:")
    c.expect(settled(c, name).get("CodeSha256") == digest, "CodeSha256 is not the digest of the image's manifest")


@case("lambda.CreateFunction", "a second one of the name is refused")
def created_twice(c: Conversation) -> None:
    name, made = function(c)
    code = {"ImageUri": second_uri(c, made)}
    c.refused("lambda.CreateFunction", *CONFLICT, FunctionName=name, Code=code, **function_options(c))


@case("lambda.CreateFunction", "an image that is not there is refused")
def no_image(c: Conversation) -> None:
    # A function that can be created comes first: an emulator may have other reasons to refuse.
    _, made = function(c)
    uri = f"{made['repositoryUri']}@sha256:{'0' * 64}"
    c.refused("lambda.CreateFunction", *INVALID, FunctionName=c.name("function"), Code={"ImageUri": uri}, **function_options(c))


@case("lambda.CreateFunction", "less memory than there is, is refused")
def too_little_memory(c: Conversation) -> None:
    _, made = function(c)
    options = {**function_options(c), "MemorySize": 64}
    c.refused(
        "lambda.CreateFunction",
        "ValidationException",
        400,
        FunctionName=c.name("function"),
        Code={"ImageUri": second_uri(c, made)},
        **options,
    )


@case("lambda.CreateFunction", "a zip package: its kind, its runtime, its size, and its digest in base64")
def created_of_package(c: Conversation) -> None:
    found = settled(c, package_function(c))
    expected = {
        "PackageType": "Zip",
        "Runtime": "provided.al2023",
        "Handler": "bootstrap",
        "CodeSize": len(package()),
        "State": "Active",
    }
    for member, value in expected.items():
        c.equal(member, found.get(member), value)
    c.expect(found.get("CodeSha256") == package_digest(), "CodeSha256 is not the zip's")


@case("lambda.CreateFunction", "a zip package of a bucket")
def created_of_object(c: Conversation) -> None:
    name = package_function(c, stored_package(c))
    c.expect(settled(c, name).get("CodeSha256") == package_digest(), "CodeSha256 is not the zip's")


@case("lambda.CreateFunction", "a zip package needs a runtime and a handler")
def no_runtime(c: Conversation) -> None:
    package_function(c)
    options = {name: value for name, value in package_options(c).items() if name not in ("Runtime", "Handler")}
    name = c.name("function")
    c.refused("lambda.CreateFunction", *INVALID, FunctionName=name, Code={"ZipFile": package()}, **options)


@case("lambda.CreateFunction", "an image has no runtime and no handler")
def runtime_of_image(c: Conversation) -> None:
    _, made = function(c)
    options = {**function_options(c), "Runtime": "provided.al2023", "Handler": "bootstrap"}
    code = {"ImageUri": second_uri(c, made)}
    c.refused("lambda.CreateFunction", *INVALID, FunctionName=c.name("function"), Code=code, **options)


@case("lambda.CreateFunction", "a zip package that is none is refused")
def no_zip(c: Conversation) -> None:
    package_function(c)
    code = {"ZipFile": b"not a zip"}
    c.refused("lambda.CreateFunction", *INVALID, FunctionName=c.name("function"), Code=code, **package_options(c))


@case("lambda.CreateFunction", "a zip package that is not in the bucket is refused")
def no_object(c: Conversation) -> None:
    stored = stored_package(c)
    package_function(c, stored)
    code = {**stored, "S3Key": "packages/absent.zip"}
    c.refused("lambda.CreateFunction", *INVALID, FunctionName=c.name("function"), Code=code, **package_options(c))


@case("lambda.GetFunction", "says where a zip package can be had")
def where_package(c: Conversation) -> None:
    found = c.ok("lambda.GetFunction", FunctionName=package_function(c)).get("Code", {})
    c.equal("RepositoryType", found.get("RepositoryType"), "S3")
    c.expect(found.get("Location"), "Location is missing")
    c.expect("ImageUri" not in found, "ImageUri is there")


@case("lambda.GetFunction", "names the image that it resolved")
def get_function(c: Conversation) -> None:
    name, made = function(c)
    found = c.ok("lambda.GetFunction", FunctionName=name)
    c.equal("FunctionName", found.get("Configuration", {}).get("FunctionName"), name)
    resolved = f"{made['repositoryUri']}@{c.image('1').digest}"
    c.expect(found.get("Code", {}).get("ResolvedImageUri") == resolved, "ResolvedImageUri is not the image by digest")


@case("lambda.GetFunction", "an absent one is an error")
def no_function(c: Conversation) -> None:
    c.refused("lambda.GetFunction", *NOT_FOUND, FunctionName="absent")


@case("lambda.GetFunctionConfiguration", "by version, as it was published")
def by_version(c: Conversation) -> None:
    name, _ = function(c)
    version = c.ok("lambda.PublishVersion", FunctionName=name, Description="one")["Version"]
    found = c.ok("lambda.GetFunctionConfiguration", FunctionName=name, Qualifier=version)
    c.equal("Version", found.get("Version"), version)
    c.equal("Description", found.get("Description"), "one")
    c.expect(found.get("FunctionArn", "").endswith(f":{version}"), "FunctionArn does not end in the version")


@case("lambda.GetFunctionConfiguration", "an absent function and an absent version are errors")
def no_version(c: Conversation) -> None:
    c.refused("lambda.GetFunctionConfiguration", *NOT_FOUND, FunctionName="absent")
    name, _ = function(c)
    c.refused("lambda.GetFunctionConfiguration", *NOT_FOUND, FunctionName=name, Qualifier="9")


@case("lambda.UpdateFunctionConfiguration", "changes what is named, and the revision")
def configure(c: Conversation) -> None:
    name, _ = function(c)
    before = settled(c, name)
    answer = c.ok("lambda.UpdateFunctionConfiguration", FunctionName=name, Timeout=9, RevisionId=before["RevisionId"])
    c.equal("Timeout", answer.get("Timeout"), 9)
    c.equal("MemorySize", answer.get("MemorySize"), 256)
    c.expect(answer.get("RevisionId") != before["RevisionId"], "RevisionId stays")


@case("lambda.UpdateFunctionConfiguration", "a stale RevisionId is refused")
def stale_configuration(c: Conversation) -> None:
    name, _ = function(c)
    c.refused("lambda.UpdateFunctionConfiguration", *STALE, FunctionName=name, Timeout=9, RevisionId="stale")
    c.equal("Timeout afterwards", settled(c, name).get("Timeout"), 5)


@case("lambda.UpdateFunctionCode", "the image by digest, and a new revision")
def update(c: Conversation) -> None:
    name, made = function(c)
    before = settled(c, name)
    uri = second_uri(c, made)
    c.ok("lambda.UpdateFunctionCode", FunctionName=name, ImageUri=uri, RevisionId=before["RevisionId"])
    after = settled(c, name)
    c.expect(after.get("CodeSha256") == uri.rpartition(":")[2], "CodeSha256 is not the digest of the new image's manifest")
    c.expect(after.get("RevisionId") != before["RevisionId"], "RevisionId stays")
    c.equal("LastUpdateStatus", after.get("LastUpdateStatus"), "Successful")


@case("lambda.UpdateFunctionCode", "a stale RevisionId is refused")
def stale_update(c: Conversation) -> None:
    name, made = function(c)
    before = settled(c, name).get("CodeSha256")
    c.refused("lambda.UpdateFunctionCode", *STALE, FunctionName=name, ImageUri=second_uri(c, made), RevisionId="stale")
    c.expect(settled(c, name).get("CodeSha256") == before, "the code changed all the same")


@case("lambda.UpdateFunctionCode", "a dry run changes nothing")
def dry_run(c: Conversation) -> None:
    name, made = function(c)
    before = settled(c, name).get("CodeSha256")
    c.ok("lambda.UpdateFunctionCode", FunctionName=name, ImageUri=second_uri(c, made), DryRun=True)
    c.expect(settled(c, name).get("CodeSha256") == before, "the code changed")


@case("lambda.UpdateFunctionCode", "a zip package by bucket and key, and a new revision")
def update_package(c: Conversation) -> None:
    name = package_function(c)
    before = settled(c, name)
    c.ok("lambda.UpdateFunctionCode", FunctionName=name, RevisionId=before["RevisionId"], **stored_package(c, "2"))
    after = settled(c, name)
    c.expect(after.get("CodeSha256") == package_digest("2"), "CodeSha256 is not the new zip's")
    c.expect(after.get("RevisionId") != before["RevisionId"], "RevisionId stays")
    c.equal("PackageType", after.get("PackageType"), "Zip")


@case("lambda.UpdateFunctionCode", "an image for a function of a zip package is refused")
def image_for_package(c: Conversation) -> None:
    name = package_function(c)
    uri = image_uri(c, repository(c), c.image())
    c.refused("lambda.UpdateFunctionCode", *INVALID, FunctionName=name, ImageUri=uri)
    c.equal("PackageType afterwards", settled(c, name).get("PackageType"), "Zip")


@case("lambda.UpdateFunctionCode", "a zip package for a function of an image is refused")
def package_for_image(c: Conversation) -> None:
    name, _ = function(c)
    c.refused("lambda.UpdateFunctionCode", *INVALID, FunctionName=name, ZipFile=package())
    c.equal("PackageType afterwards", settled(c, name).get("PackageType"), "Image")


@case("lambda.UpdateFunctionCode", "of an absent function is refused")
def update_nothing(c: Conversation) -> None:
    c.refused("lambda.UpdateFunctionCode", *NOT_FOUND, FunctionName="absent", ImageUri=image_uri(c, repository(c), c.image()))


@case("lambda.PublishVersion", "of the code that CodeSha256 names")
def publish(c: Conversation) -> None:
    name, _ = function(c)
    digest = settled(c, name)["CodeSha256"]
    published = c.ok("lambda.PublishVersion", FunctionName=name, CodeSha256=digest, Description="one")
    c.equal("Version", published.get("Version"), "1")
    c.equal("Description", published.get("Description"), "one")
    c.expect(published.get("CodeSha256") == digest, "CodeSha256 is another one")


@case("lambda.PublishVersion", "of the zip package that CodeSha256 names")
def publish_package(c: Conversation) -> None:
    name = package_function(c)
    published = c.ok("lambda.PublishVersion", FunctionName=name, CodeSha256=package_digest())
    c.equal("Version", published.get("Version"), "1")
    c.expect(published.get("CodeSha256") == package_digest(), "CodeSha256 is another one")
    c.refused("lambda.PublishVersion", *INVALID, FunctionName=name, CodeSha256=package_digest("2"))


@case("lambda.PublishVersion", "another CodeSha256 is refused")
def publish_other(c: Conversation) -> None:
    name, _ = function(c)
    c.refused("lambda.PublishVersion", *INVALID, FunctionName=name, CodeSha256="0" * 64)


@case("lambda.PublishVersion", "unchanged code makes no new version")
def publish_again(c: Conversation) -> None:
    name, _ = function(c)
    c.equal("the first version", c.ok("lambda.PublishVersion", FunctionName=name).get("Version"), "1")
    c.equal("the version of the same code", c.ok("lambda.PublishVersion", FunctionName=name).get("Version"), "1")


@case("lambda.PublishVersion", "a stale RevisionId is refused")
def stale_publish(c: Conversation) -> None:
    name, _ = function(c)
    c.refused("lambda.PublishVersion", *STALE, FunctionName=name, RevisionId="stale")


@case("lambda.PublishVersion", "of an absent function is refused")
def publish_nothing(c: Conversation) -> None:
    c.refused("lambda.PublishVersion", *NOT_FOUND, FunctionName="absent")


@case("lambda.ListVersionsByFunction", "all of them, the unpublished first")
def versions(c: Conversation) -> None:
    name, made = aliased(c)
    second_version(c, name, made)
    found = c.ok("lambda.ListVersionsByFunction", FunctionName=name).get("Versions", [])
    c.equal("the versions", [version.get("Version") for version in found], ["$LATEST", "1", "2"])
    c.refused("lambda.ListVersionsByFunction", *NOT_FOUND, FunctionName="absent")


@case("lambda.DeleteFunction", "a version that an alias names stays")
def delete_named(c: Conversation) -> None:
    name, _ = aliased(c)
    c.refused("lambda.DeleteFunction", *CONFLICT, FunctionName=name, Qualifier="1")
    c.ok("lambda.GetFunctionConfiguration", FunctionName=name, Qualifier="1")


@case("lambda.DeleteFunction", "is gone afterwards, aliases and all")
def delete(c: Conversation) -> None:
    name, _ = aliased(c)
    c.ok("lambda.DeleteFunction", FunctionName=name)
    c.refused("lambda.GetFunctionConfiguration", *NOT_FOUND, FunctionName=name)
    c.refused("lambda.GetAlias", *NOT_FOUND, FunctionName=name, Name="live")
    c.refused("lambda.DeleteFunction", *NOT_FOUND, FunctionName=name)


@case("lambda.CreateAlias", "names a version")
def alias(c: Conversation) -> None:
    name, _ = function(c)
    c.ok("lambda.PublishVersion", FunctionName=name)
    made = c.ok("lambda.CreateAlias", FunctionName=name, Name="live", FunctionVersion="1", Description="served")
    for member, value in {"Name": "live", "FunctionVersion": "1", "Description": "served"}.items():
        c.equal(member, made.get(member), value)
    c.expect(made.get("AliasArn", "").endswith(f":function:{name}:live"), "AliasArn does not end in function and alias")
    c.expect(made.get("RevisionId"), "RevisionId is missing")


@case("lambda.CreateAlias", "a second one of the name is refused")
def alias_twice(c: Conversation) -> None:
    name, _ = aliased(c)
    c.refused("lambda.CreateAlias", *CONFLICT, FunctionName=name, Name="live", FunctionVersion="1")


@case("lambda.CreateAlias", "on a version that is not there is refused")
def alias_on_nothing(c: Conversation) -> None:
    name, _ = function(c)
    c.refused("lambda.CreateAlias", *NOT_FOUND, FunctionName=name, Name="live", FunctionVersion="9")


@case("lambda.GetAlias", "what CreateAlias said")
def get_alias(c: Conversation) -> None:
    name, _ = aliased(c)
    found = c.ok("lambda.GetAlias", FunctionName=name, Name="live")
    c.equal("FunctionVersion", found.get("FunctionVersion"), "1")
    c.expect("RoutingConfig" not in found, "RoutingConfig is there without weights")


@case("lambda.GetAlias", "an absent alias and an absent function are errors")
def no_alias(c: Conversation) -> None:
    c.refused("lambda.GetAlias", *NOT_FOUND, FunctionName="absent", Name="live")
    name, _ = function(c)
    c.refused("lambda.GetAlias", *NOT_FOUND, FunctionName=name, Name="live")


@case("lambda.UpdateAlias", "moves, and has a new revision")
def move(c: Conversation) -> None:
    name, made = aliased(c)
    second_version(c, name, made)
    before = c.ok("lambda.GetAlias", FunctionName=name, Name="live")
    moved = c.ok("lambda.UpdateAlias", FunctionName=name, Name="live", FunctionVersion="2", RevisionId=before["RevisionId"])
    c.equal("FunctionVersion", moved.get("FunctionVersion"), "2")
    c.expect(moved.get("RevisionId") != before["RevisionId"], "RevisionId stays")


@case("lambda.UpdateAlias", "weights, and their end")
def weights(c: Conversation) -> None:
    name, made = aliased(c)
    second_version(c, name, made)
    canary = {"AdditionalVersionWeights": {"2": 0.1}}
    c.equal(
        "RoutingConfig",
        c.ok("lambda.UpdateAlias", FunctionName=name, Name="live", RoutingConfig=canary).get("RoutingConfig"),
        canary,
    )
    c.equal("RoutingConfig afterwards", c.ok("lambda.GetAlias", FunctionName=name, Name="live").get("RoutingConfig"), canary)
    c.ok(
        "lambda.UpdateAlias", FunctionName=name, Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {}}
    )
    left = c.ok("lambda.GetAlias", FunctionName=name, Name="live").get("RoutingConfig", {})
    c.equal("weights afterwards", left.get("AdditionalVersionWeights", {}), {})


@case("lambda.UpdateAlias", "a weight of more than all is refused")
def too_heavy(c: Conversation) -> None:
    name, made = aliased(c)
    second_version(c, name, made)
    routing = {"AdditionalVersionWeights": {"2": 1.5}}
    c.refused("lambda.UpdateAlias", "ValidationException", 400, FunctionName=name, Name="live", RoutingConfig=routing)


@case("lambda.UpdateAlias", "a weight on the unpublished version is refused")
def unpublished(c: Conversation) -> None:
    name, _ = aliased(c)
    routing = {"AdditionalVersionWeights": {"$LATEST": 0.1}}
    c.refused("lambda.UpdateAlias", *INVALID, FunctionName=name, Name="live", RoutingConfig=routing)


@case("lambda.UpdateAlias", "a stale RevisionId is refused")
def stale_move(c: Conversation) -> None:
    name, made = aliased(c)
    second_version(c, name, made)
    c.refused("lambda.UpdateAlias", *STALE, FunctionName=name, Name="live", FunctionVersion="2", RevisionId="stale")
    c.equal("FunctionVersion afterwards", c.ok("lambda.GetAlias", FunctionName=name, Name="live").get("FunctionVersion"), "1")


@case("lambda.UpdateAlias", "an absent one is an error")
def move_nothing(c: Conversation) -> None:
    name, _ = aliased(c)
    c.refused("lambda.UpdateAlias", *NOT_FOUND, FunctionName=name, Name="absent", FunctionVersion="1")


@case("lambda.ListAliases", "all of them")
def aliases(c: Conversation) -> None:
    name, _ = aliased(c)
    c.equal(
        "the aliases", [found.get("Name") for found in c.ok("lambda.ListAliases", FunctionName=name).get("Aliases", [])], ["live"]
    )


@case("lambda.DeleteAlias", "is gone afterwards")
def delete_alias(c: Conversation) -> None:
    name, _ = aliased(c)
    c.ok("lambda.DeleteAlias", FunctionName=name, Name="live")
    c.refused("lambda.GetAlias", *NOT_FOUND, FunctionName=name, Name="live")


@case("lambda.Invoke", "the program's answer, and the version that gave it")
def invoke(c: Conversation) -> None:
    name, _ = aliased(c, c.program)
    answer = c.ok("lambda.Invoke", FunctionName=name, Qualifier="live", Payload=json.dumps({"Income": 1}))
    c.equal("StatusCode", answer.get("StatusCode"), 200)
    c.equal("ExecutedVersion", answer.get("ExecutedVersion"), "1")
    c.expect("FunctionError" not in answer, "FunctionError is there")
    try:
        body = json.loads(answer["Payload"].read())
    except ValueError:
        body = None
    c.expect(isinstance(body, dict) and body.get("event") == {"Income": 1}, "the answer is not the one of the image's program")


@case("lambda.Invoke", "an error of the program is an answer")
def invoke_failing(c: Conversation) -> None:
    name, _ = aliased(c, c.program)
    answer = c.ok("lambda.Invoke", FunctionName=name, Qualifier="live", Payload=json.dumps({"fail": "no"}))
    c.equal("StatusCode", answer.get("StatusCode"), 200)
    c.equal("FunctionError", answer.get("FunctionError"), "Unhandled")


@case("lambda.Invoke", "an absent function, an absent version and a broken event are refused")
def invoke_nothing(c: Conversation) -> None:
    c.refused("lambda.Invoke", *NOT_FOUND, FunctionName="absent", Payload="{}")
    name, _ = function(c, c.program)
    c.refused("lambda.Invoke", *NOT_FOUND, FunctionName=name, Qualifier="9", Payload="{}")
    c.refused("lambda.Invoke", "InvalidRequestContentException", 400, FunctionName=name, Payload="{")


CORS = {"AllowOrigins": ["https://example.com"], "AllowMethods": ["POST"], "AllowHeaders": ["content-type"]}


@case("lambda.CreateFunctionUrlConfig", "an address of the alias, as asked")
def url(c: Conversation) -> None:
    name, _ = aliased(c)
    made = c.ok("lambda.CreateFunctionUrlConfig", FunctionName=name, Qualifier="live", AuthType="AWS_IAM", Cors=CORS)
    c.equal("AuthType", made.get("AuthType"), "AWS_IAM")
    c.equal("Cors", made.get("Cors"), CORS)
    c.expect(
        made.get("FunctionUrl", "").startswith("http") and made["FunctionUrl"].endswith("/"),
        "FunctionUrl is no address that ends in a slash",
    )
    c.expect(made.get("FunctionArn", "").endswith(f":{name}:live"), "FunctionArn does not end in function and alias")


@case("lambda.CreateFunctionUrlConfig", "a second one is refused")
def url_twice(c: Conversation) -> None:
    name, _ = aliased(c)
    c.ok("lambda.CreateFunctionUrlConfig", FunctionName=name, Qualifier="live", AuthType="NONE")
    c.refused("lambda.CreateFunctionUrlConfig", *CONFLICT, FunctionName=name, Qualifier="live", AuthType="NONE")


@case("lambda.GetFunctionUrlConfig", "what CreateFunctionUrlConfig said")
def get_url(c: Conversation) -> None:
    name, _ = aliased(c)
    made = c.ok("lambda.CreateFunctionUrlConfig", FunctionName=name, Qualifier="live", AuthType="AWS_IAM", Cors=CORS)
    found = c.ok("lambda.GetFunctionUrlConfig", FunctionName=name, Qualifier="live")
    for member in ("FunctionUrl", "FunctionArn", "AuthType", "Cors", "CreationTime"):
        c.expect(found.get(member) == made.get(member), f"{member} is another one")


@case("lambda.GetFunctionUrlConfig", "none is an error")
def no_url(c: Conversation) -> None:
    name, _ = aliased(c)
    c.refused("lambda.GetFunctionUrlConfig", *NOT_FOUND, FunctionName=name, Qualifier="live")


@case("lambda.UpdateFunctionUrlConfig", "changes what is named")
def update_url(c: Conversation) -> None:
    name, _ = aliased(c)
    made = c.ok("lambda.CreateFunctionUrlConfig", FunctionName=name, Qualifier="live", AuthType="NONE", Cors=CORS)
    answer = c.ok("lambda.UpdateFunctionUrlConfig", FunctionName=name, Qualifier="live", AuthType="AWS_IAM")
    c.equal("AuthType", answer.get("AuthType"), "AWS_IAM")
    c.equal("Cors", answer.get("Cors"), CORS)
    c.expect(answer.get("FunctionUrl") == made["FunctionUrl"], "the address is another one")


@case("lambda.DeleteFunctionUrlConfig", "is gone afterwards")
def delete_url(c: Conversation) -> None:
    name, _ = aliased(c)
    c.ok("lambda.CreateFunctionUrlConfig", FunctionName=name, Qualifier="live", AuthType="NONE")
    c.ok("lambda.DeleteFunctionUrlConfig", FunctionName=name, Qualifier="live")
    c.refused("lambda.GetFunctionUrlConfig", *NOT_FOUND, FunctionName=name, Qualifier="live")


def permission(name: str, **options) -> dict:
    statement = {
        "StatementId": "public-url",
        "Action": "lambda:InvokeFunctionUrl",
        "Principal": "*",
        "FunctionUrlAuthType": "NONE",
    }
    return {"FunctionName": name, "Qualifier": "live", **statement, **options}


@case("lambda.AddPermission", "both statements of a public address")
def permissions(c: Conversation) -> None:
    name, _ = aliased(c)
    statement = json.loads(c.ok("lambda.AddPermission", **permission(name)).get("Statement", "{}"))
    c.equal("Sid", statement.get("Sid"), "public-url")
    c.equal("Effect", statement.get("Effect"), "Allow")
    c.equal("Action", statement.get("Action"), "lambda:InvokeFunctionUrl")
    c.equal("Principal", statement.get("Principal"), "*")
    c.expect(str(statement.get("Resource", "")).endswith(f":{name}:live"), "Resource does not end in function and alias")
    c.equal("Condition", statement.get("Condition"), {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}})
    second = {
        "FunctionName": name,
        "Qualifier": "live",
        "StatementId": "public-invoke",
        "Action": "lambda:InvokeFunction",
        "Principal": "*",
        "InvokedViaFunctionUrl": True,
    }
    statement = json.loads(c.ok("lambda.AddPermission", **second).get("Statement", "{}"))
    c.equal("the second Condition", statement.get("Condition"), {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}})


@case("lambda.AddPermission", "a second statement of the id is refused")
def permission_twice(c: Conversation) -> None:
    name, _ = aliased(c)
    c.ok("lambda.AddPermission", **permission(name))
    c.refused("lambda.AddPermission", *CONFLICT, **permission(name))


@case("lambda.AddPermission", "for an absent function and an absent alias is refused")
def permission_for_nothing(c: Conversation) -> None:
    c.refused("lambda.AddPermission", *NOT_FOUND, **permission("absent"))
    name, _ = function(c)
    c.refused("lambda.AddPermission", *NOT_FOUND, **permission(name))


@case("lambda.AddPermission", "a stale RevisionId is refused")
def stale_permission(c: Conversation) -> None:
    name, _ = aliased(c)
    c.refused("lambda.AddPermission", *STALE, **permission(name, RevisionId="stale"))


@case("lambda.GetPolicy", "the alias's statements, and a revision")
def policy(c: Conversation) -> None:
    name, _ = aliased(c)
    c.ok("lambda.AddPermission", **permission(name))
    found = c.ok("lambda.GetPolicy", FunctionName=name, Qualifier="live")
    statements = json.loads(found.get("Policy", "{}")).get("Statement", [])
    c.equal("the statements", [statement.get("Sid") for statement in statements], ["public-url"])
    c.expect(found.get("RevisionId"), "RevisionId is missing")


@case("lambda.GetPolicy", "none is an error")
def no_policy(c: Conversation) -> None:
    name, _ = aliased(c)
    c.refused("lambda.GetPolicy", *NOT_FOUND, FunctionName=name, Qualifier="live")


@case("lambda.RemovePermission", "takes a statement away, once")
def remove_permission(c: Conversation) -> None:
    name, _ = aliased(c)
    c.ok("lambda.AddPermission", **permission(name))
    c.ok("lambda.RemovePermission", FunctionName=name, Qualifier="live", StatementId="public-url")
    c.refused("lambda.RemovePermission", *NOT_FOUND, FunctionName=name, Qualifier="live", StatementId="public-url")
