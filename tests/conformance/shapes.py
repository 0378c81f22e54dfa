"""Answers judged by AWS's own service models, which come with botocore."""

import datetime
import re
from functools import cache

import botocore.session
from botocore.model import OperationModel, Shape
from botocore.response import StreamingBody

# Codes that every service may answer, whatever its operations list.
COMMON_CODES = {"AccessDenied", "AccessDeniedException", "ValidationException", "ValidationError"}
SCALARS = {
    "string": str,
    "character": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "timestamp": datetime.datetime,
    "blob": (bytes, bytearray, StreamingBody),
}


@cache
def service_model(service: str):
    return botocore.session.get_session().get_service_model(service)


def operation_model(service: str, operation: str) -> OperationModel:
    return service_model(service).operation_model(operation)


def answer_differences(service: str, operation: str, parsed: dict, raw: object = None) -> list[str]:
    """What an answer lacks, has too much or has in another form than the model of the operation's output."""
    shape = operation_model(service, operation).output_shape
    answer = {name: value for name, value in parsed.items() if name != "ResponseMetadata"}
    if shape is None:
        return [f"{operation} answers {sorted(answer)}, the model has no answer"] if answer else []
    found = list(value_differences(answer, shape, operation))
    if isinstance(raw, dict):
        found += unknown_members(raw, shape, operation)
    return found


def value_differences(value: object, shape: Shape, where: str):
    kind = shape.type_name
    if kind == "structure":
        yield from structure_differences(value, shape, where)
    elif kind == "list":
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for item in value:
            yield from value_differences(item, shape.member, f"{where}[]")
    elif kind == "map":
        if not isinstance(value, dict):
            yield f"{where} is no map"
            return
        for key, item in value.items():
            yield from value_differences(key, shape.key, f"{where} key")
            yield from value_differences(item, shape.value, f"{where}.*")
    else:
        yield from scalar_differences(value, shape, where)


def structure_differences(value: object, shape: Shape, where: str):
    if not isinstance(value, dict):
        yield f"{where} is no structure"
        return
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"{where}.{name} is missing"
    for name, item in value.items():
        if name in shape.members and item is not None:
            yield from value_differences(item, shape.members[name], f"{where}.{name}")


def scalar_differences(value: object, shape: Shape, where: str):
    if shape.name == "policyDocumentType" and isinstance(value, dict):
        # botocore has read IAM's documents already.
        return
    expected = SCALARS[shape.type_name]
    if not isinstance(value, expected) or (isinstance(value, bool) and shape.type_name != "boolean"):
        yield f"{where} is a {type(value).__name__}, the model says {shape.type_name}"
        return
    limits = shape.metadata
    if limits.get("enum") and value not in limits["enum"]:
        yield f"{where} is {value!r}, which is no value of {shape.name}"
    if shape.type_name == "string":
        if "pattern" in limits and not fits(limits["pattern"], value):
            yield f"{where} is {value!r}, which does not fit the pattern of {shape.name}"
        size = len(value)
    elif shape.type_name in ("integer", "long", "float", "double"):
        size = value
    else:
        return
    if size < limits.get("min", size) or size > limits.get("max", size):
        yield f"{where} is {value!r}, outside of {limits.get('min')} to {limits.get('max')}"


def fits(pattern: str, value: str) -> bool:
    # A group of flags may stand anywhere in the models' dialect, in Python's at the start alone.
    flags = re.DOTALL if "(?s)" in pattern else 0
    return re.fullmatch(pattern.replace("(?s)", ""), value, flags) is not None


def unknown_members(raw: object, shape: Shape, where: str):
    """Members of an answer as it was sent that the model does not know; its parser leaves them out."""
    found = []
    if shape.type_name == "structure" and isinstance(raw, dict):
        known = {member.serialization.get("name", name): member for name, member in shape.members.items()}
        for name, value in raw.items():
            if name in known:
                found += unknown_members(value, known[name], f"{where}.{name}")
            elif value is not None:
                found.append(f"{where}.{name} is unknown to the model")
    elif shape.type_name == "list" and isinstance(raw, list):
        for item in raw:
            found += unknown_members(item, shape.member, f"{where}[]")
    elif shape.type_name == "map" and isinstance(raw, dict):
        for item in raw.values():
            found += unknown_members(item, shape.value, f"{where}.*")
    return found


def error_differences(service: str, operation: str, code: str, status: int) -> list[str]:
    """Whether an error is one of the operation's, with the status that the model gives it."""
    model = operation_model(service, operation)
    errors = {shape.metadata.get("error", {}).get("code", shape.name): shape for shape in model.error_shapes}
    if code not in errors:
        # S3's model lists few of its errors; they are documented in prose.
        listed = code in COMMON_CODES or service == "s3"
        return [] if listed else [f"{operation} fails with {code}, which the model does not list"]
    expected = errors[code].metadata.get("error", {}).get("httpStatusCode", 400)
    return [] if status == expected or service == "s3" else [f"{code} has status {status}, the model says {expected}"]
