"""The operations that xtask calls, on the embedded cloud and on emulators that others wrote, by one suite.

Each case says what AWS answers by its service models and its documentation. A server that lacks an operation is counted as
such. A server that answers differently is listed in differences.toml with who is right; an unlisted difference fails, and so does
a listed one that is no more, so that the list stays true.
"""

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cases_account, cases_ecr, cases_lambda, cases_s3  # noqa: E401, F401 - they fill CASES
import inventory
import servers
from conversation import CASES, Case, Conversation, Differs, NotThere

DIFFERENCES = tomllib.loads((Path(__file__).parent / "differences.toml").read_text())
LISTED = {(entry["server"], entry["case"]): entry for entry in DIFFERENCES["difference"]}
EMBEDDED = "local-aws"
OPERATIONS = sorted({case.operation for case in CASES})
CALLS = inventory.calls()


def shape_of(operation: str) -> str:
    return f"{operation}: the answers fit the model"


def without_case(calls: set[str]) -> list[str]:
    return sorted(calls - {case.operation for case in CASES})


def test_every_call_of_xtask_has_a_case():
    missing = without_case(CALLS)
    assert not missing, "\n".join(f"operation {operation} has no case: add one to tests/conformance" for operation in missing)


def test_calls_are_found_however_they_are_written():
    services = inventory.sdk_services()
    source = """
        let lambda = &cloud.lambda;
        lambda
            .put_function_concurrency()
            .send();
        // cloud.ecr.start_image_scan() is only spoken of.
        cloud.lambda.wait_until_function_active_v2().function_name(function);
        cloud.json(&LOGS, "PutRetentionPolicy", &input).await?;
        let action = if exists { "UpdateRole" } else { "CreateRole" };
        cloud.query(&IAM, action, &[]).await?;
        bucket.list_tags_for_resource();
    """
    found = inventory.calls_in(source, services)
    # What cannot be told apart counts for every service that has it.
    tagged = {call for call in found if call.endswith(".ListTagsForResource")}
    assert found - tagged == {
        "lambda.PutFunctionConcurrency",
        "lambda.GetFunction",
        "logs.PutRetentionPolicy",
        "iam.UpdateRole",
        "iam.CreateRole",
    }
    assert "ecr.ListTagsForResource" in tagged
    assert "lambda.PutFunctionConcurrency" in without_case(found)
    assert {"ecr.CreateRepository", "lambda.UpdateAlias", "s3.PutObject", "sts.GetCallerIdentity"} <= CALLS


def test_the_list_of_differences_is_well_formed():
    known = {case.id for case in CASES} | {shape_of(operation) for operation in OPERATIONS}
    assert len(LISTED) == len(DIFFERENCES["difference"]), "two entries speak of the same case of the same server"
    assert len(known) == len(CASES) + len(OPERATIONS), "two cases have the same name"
    for entry in DIFFERENCES["difference"]:
        assert entry["server"] in servers.NAMES and entry["case"] in known, f"there is no such case: {entry}"
        assert entry["does"] and entry["says"].strip() and entry["right"] in ("model", "documentation"), entry
        assert entry["server"] != EMBEDDED, f"the embedded cloud is to answer as AWS does: {entry}"


@pytest.fixture(scope="module")
def shapes() -> dict[str, dict[str, set[str]]]:
    """What the service models have against the answers: by server, by operation."""
    return {name: {} for name in servers.NAMES}


@pytest.fixture(scope="module")
def conversations(request: pytest.FixtureRequest, running: dict, echo_image, shapes: dict):
    """The chosen cases under way on all servers side by side, most of which is waiting: by server and case."""
    program, pools, asked = echo_image(), [], {}
    for name, server in running.items():
        pools.append(ThreadPoolExecutor(1))
        for number, case in enumerate(chosen(request.session, name)):
            conversation = Conversation(server, f"{case.run.__name__.replace('_', '-')}-{number}", program, shapes[name])
            asked[name, case.id] = (conversation, pools[-1].submit(case.run, conversation))
    yield asked
    for pool in pools:
        pool.shutdown(cancel_futures=True)


def chosen(session: pytest.Session, server: str) -> list[Case]:
    """The cases that this run of the tests is to try on a server."""
    parameters = [item.callspec.params for item in session.items if getattr(item, "originalname", "") == test_case.__name__]
    return [chosen["case"] for chosen in parameters if chosen["server"] == server]


@pytest.mark.parametrize("server", servers.NAMES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(case: Case, server: str, conversations: dict, results: dict):
    conversation, ended = conversations[server, case.id]
    try:
        ended.result()
    except NotThere as absent:
        operation = str(absent)
        needed = server == EMBEDDED and operation in CALLS
        results[server, case.id] = ("fails" if needed else "absent", operation)
        assert not needed, f"the embedded cloud lacks {operation}, which xtask calls"
        assert (server, case.id) not in LISTED, f"{server} lacks {operation}: take the case off differences.toml"
        # The other emulators lack some operations, which is no fault of ours; the summary counts them.
        pytest.skip(f"not there: {operation}")
    except Differs as difference:
        conversation.differ(str(difference))
    except KeyError as key:
        conversation.differ(f"an answer lacks {key}")
    judge(results, server, case.id, conversation.differences)


@pytest.mark.parametrize("server", servers.NAMES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_shape(operation: str, server: str, shapes: dict, results: dict):
    """Every answer of the cases above, errors included, against the service's model."""
    if any((server, case.id) not in results for case in CASES):
        # Only where somebody chose some of the tests: without all answers nothing is known of the shapes.
        pytest.skip("needs the answers of all cases")
    if operation not in shapes[server]:
        results[server, shape_of(operation)] = ("absent", operation)
        # As above: only another emulator may lack an operation, its cases have failed otherwise.
        pytest.skip(f"not there: {operation}")
    judge(results, server, shape_of(operation), sorted(shapes[server][operation]))


def judge(results: dict, server: str, case: str, found: list[str]) -> None:
    """Compares what differs with what is listed to differ."""
    listed = LISTED.get((server, case))
    expected = listed["does"] if listed else []
    word = ("differs" if found else "agrees") if found == expected else "fails"
    results[server, case] = (word, case)
    assert found == expected, f"{server}, {case}: {found}; differences.toml says {expected}"
