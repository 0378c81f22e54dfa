"""What a case says to a server, and everything in its answers that is not as it should be."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.parsers import ResponseParserError

import shapes
from cloud_support import Image, build_image, layer, machine
from servers import Server

# How servers say that they do not have an operation.
ABSENT_CODES = {"NotImplemented", "NotImplementedException", "UnknownOperationException", "InvalidAction"}


class NotThere(Exception):
    """The server does not have an operation."""


class Differs(Exception):
    """A difference after which the case cannot go on."""


@dataclass(frozen=True)
class Case:
    """One statement about an operation."""

    operation: str
    name: str
    run: Callable

    @property
    def id(self) -> str:
        return f"{self.operation}: {self.name}"


CASES: list[Case] = []


def case(operation: str, name: str):
    """Adds a function of a conversation to the suite, as a case of `service.Operation`."""

    def add(function: Callable) -> Callable:
        CASES.append(Case(operation, name, function))
        return function

    return add


@dataclass
class Fault:
    """An error that a server answered."""

    code: str
    status: int
    message: str


@dataclass
class Conversation:
    """A case under way on a server."""

    server: Server
    slug: str
    # An image whose program speaks the Runtime API.
    program: Image
    # What the service models have against the answers, by operation; not the case's own, as cases share their beginnings.
    shapes: dict[str, set[str]]
    differences: list[str] = field(default_factory=list)
    made: int = 0

    def name(self, kind: str) -> str:
        """A name that no other case uses."""
        self.made += 1
        return f"{kind}-{self.slug}-{self.made}"

    def image(self, content: str = "1") -> Image:
        """A small image without a program, for whatever does not run it."""
        return build_image([layer({"content.txt": content.encode()})], machine(), Entrypoint=["/content.txt"])

    def differ(self, text: str) -> None:
        text = self.scrub(text)
        if text not in self.differences:
            self.differences.append(text)

    def expect(self, condition: object, text: str) -> None:
        if not condition:
            self.differ(text)

    def equal(self, what: str, found: object, expected: object) -> None:
        self.expect(found == expected, f"{what} is {found!r}, not {expected!r}")

    def scrub(self, text: str) -> str:
        """The text without what is another one at every run."""
        text = text.replace(self.server.host, "HOST").replace(self.slug, "SLUG")
        text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "UUID", text)
        return re.sub(r"[0-9a-f]{64}", "DIGEST", text)

    def ask(self, operation: str, **parameters) -> dict | Fault:
        """Calls `service.Operation`; its answer is checked against the service's model."""
        service, name = operation.split(".")
        client, seen = self.server.client(service), {}

        def keep(response_dict, **_):
            seen.update(response_dict)

        event = f"before-parse.{client.meta.service_model.service_id.hyphenize()}.{name}"
        client.meta.events.register(event, keep)
        try:
            answer = getattr(client, xform_name(name))(**parameters)
        except ClientError as error:
            return self.fault(operation, error)
        except HTTPClientError as error:
            raise Differs(f"{name} gets no answer: {type(error).__name__}") from error
        except (ResponseParserError, BotoCoreError, ValueError) as error:
            if self.server.denies(name):
                raise NotThere(operation) from error
            raise Differs(f"{name} cannot be read: {type(error).__name__}") from error
        finally:
            client.meta.events.unregister(event, keep)
        self.against_model(operation, shapes.answer_differences(service, name, answer, raw_answer(service, seen)))
        return answer

    def against_model(self, operation: str, texts: list[str]) -> None:
        self.shapes.setdefault(operation, set()).update(self.scrub(text) for text in texts)

    def fault(self, operation: str, error: ClientError) -> Fault:
        service, name = operation.split(".")
        answer = error.response
        code, status = str(answer["Error"].get("Code", "")), answer["ResponseMetadata"]["HTTPStatusCode"]
        message = answer["Error"].get("Message", "")
        if status == 501 or code in ABSENT_CODES or (status == 500 and self.server.denies(name)):
            raise NotThere(operation)
        # An answer to HEAD has no body that could say more than its status.
        head = shapes.operation_model(service, name).http.get("method") == "HEAD"
        if not head:
            self.against_model(operation, shapes.error_differences(service, name, code, status))
            if not message:
                self.against_model(operation, [f"{name} fails with {code} without a message"])
        return Fault(code, status, message)

    def ok(self, operation: str, **parameters) -> dict:
        """Calls an operation that must succeed."""
        answer = self.ask(operation, **parameters)
        if isinstance(answer, Fault):
            raise Differs(f"{operation.split('.')[1]} fails with {answer.code} {answer.status}")
        return answer

    def refused(self, operation: str, code: str, status: int, **parameters) -> None:
        """Calls an operation that must fail in one way."""
        answer, name = self.ask(operation, **parameters), operation.split(".")[1]
        if not isinstance(answer, Fault):
            self.differ(f"{name} succeeds, not {code} {status}")
        elif (answer.code, answer.status) != (code, status):
            self.differ(f"{name} fails with {answer.code} {answer.status}, not {code} {status}")


def raw_answer(service: str, seen: dict) -> object:
    """The answer as it was sent, where it is JSON."""
    if service not in ("ecr", "lambda", "logs") or not isinstance(seen.get("body"), bytes):
        return None
    try:
        return json.loads(seen["body"])
    except ValueError:
        return None
