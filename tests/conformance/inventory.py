"""Which operations of AWS xtask calls, read from its sources.

The reading errs on the side of too many: whatever looks like a call of an operation counts as one, however the client got
there, so that a new call cannot go unnoticed.
"""

import re
import tomllib
from functools import cache
from pathlib import Path

import botocore.session
from botocore import xform_name

from shapes import service_model

ROOT = Path(__file__).resolve().parent.parent.parent
# Services that xtask/src/account.rs calls without an SDK, as they are named there.
WITHOUT_SDK = {"IAM": "iam", "CLOUDWATCH": "cloudwatch", "LOGS": "logs"}


def sdk_services() -> list[str]:
    """The services whose SDK xtask links."""
    manifest = tomllib.loads((ROOT / "xtask" / "Cargo.toml").read_text())
    names = [name.removeprefix("aws-sdk-") for name in manifest["dependencies"] if name.startswith("aws-sdk-")]
    assert {"ecr", "lambda", "s3", "sts"} <= set(names), f"xtask/Cargo.toml names {names}"
    return names


@cache
def methods(service: str) -> dict[str, str]:
    """The SDK's method for each operation, and for each waiter the one of the operation that it asks."""
    found = {xform_name(operation): operation for operation in service_model(service).operation_names}
    session = botocore.session.get_session()
    try:
        waiters = session.get_waiter_model(service)
    except botocore.exceptions.UnknownServiceError:
        return found
    for waiter in waiters.waiter_names:
        found[f"wait_until_{xform_name(waiter)}"] = waiters.get_waiter(waiter).operation
    return found


def calls_in(source: str, services: list[str]) -> set[str]:
    """The operations called in a Rust source, as `service.Operation`."""
    source = re.sub(r"^\s*//.*$", "", source, flags=re.MULTILINE)
    found = set()
    for name in re.findall(r"\.\s*([a-z][a-z0-9_]*)\s*\(\s*\)", source):
        candidates = [service for service in services if name in methods(service)]
        named = [service for service in candidates if re.search(rf"\b{service}\s*\.\s*{name}\b", source)]
        found |= {f"{service}.{methods(service)[name]}" for service in named or candidates}
    mentioned = [service for constant, service in WITHOUT_SDK.items() if re.search(rf"\b{constant}\b", source)]
    for name in re.findall(r'"([A-Z][A-Za-z]+)"', source):
        candidates = [service for service in mentioned if name in service_model(service).operation_names]
        constants = {service: constant for constant, service in WITHOUT_SDK.items()}
        named = [s for s in candidates if re.search(rf'\b{constants[s]}\s*,\s*"{name}"', source)]
        found |= {f"{service}.{name}" for service in named or candidates}
    return found


def calls() -> set[str]:
    """The operations that xtask calls."""
    services = sdk_services()
    sources = sorted((ROOT / "xtask" / "src").rglob("*.rs"))
    return set().union(*(calls_in(source.read_text(), services) for source in sources))
