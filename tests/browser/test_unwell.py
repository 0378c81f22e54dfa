"""The function is not well, or the page is not told where it is."""

import json
import re
import threading

import pytest
from page import (
    expect_decision,
    expect_problem,
    fill,
    screenshot,
    stand_in_only,
    submit,
)
from playwright.sync_api import expect


@stand_in_only
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_function_fails_and_recovers(open_page, stand_in, status):
    stand_in.respond = lambda _: (status, {"error": "internal", "field": "Income"})
    page = open_page(expected_errors=[f"status of {status}"])
    fill(page)
    submit(page)
    expect_problem(page, "The decision service has a problem")
    expect(page.locator("#problem-text")).to_contain_text(f"status {status}")
    assert page.locator(".field-error:visible").count() == 0
    stand_in.respond = stand_in.decide
    page.get_by_role("button", name="Try again").click()
    expect_decision(page, "approved")


@stand_in_only
@pytest.mark.parametrize(
    "answer",
    [
        b"", b"null", b"[]", b"1", b"<html></html>", b"{", {}, {"prediction": None}, {"prediction": "1"},
        {"prediction": True}, {"prediction": 2}, {"prediction": 0.99}, {"prediction": [1]},
        {"errorMessage": "Task timed out after 3.00 seconds"}, {"decision": "approved"},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_but_a_decision_is_taken_for_one(open_page, stand_in, answer):
    stand_in.respond = lambda _: (200, answer)
    page = open_page()
    fill(page)
    submit(page)
    expect_problem(page, "The decision service has a problem")
    expect(page.locator("#problem-text")).to_contain_text("not with a decision")


@stand_in_only
def test_function_cannot_be_reached(open_page, stand_in):
    page = open_page(expected_errors=["ERR_"])
    page.route("**/_url/**", lambda route: route.abort())
    fill(page)
    submit(page)
    expect_problem(page, "The decision service cannot be reached")
    screenshot(page, "unreachable-desktop-light")
    page.get_by_role("button", name="Try again").click()
    expect_problem(page, "The decision service cannot be reached")
    page.unroute("**/_url/**")
    page.get_by_role("button", name="Try again").click()
    expect_decision(page, "approved")


@stand_in_only
def test_function_of_another_origin_without_cors_is_not_reached(open_page, stand_in):
    page = open_page(
        expected_errors=["CORS", "ERR_"],
        before=lambda _: setattr(stand_in, "cors", False),
    )
    fill(page)
    submit(page)
    expect_problem(page, "The decision service cannot be reached")
    assert stand_in.preflights == 1 and stand_in.requests == []


@stand_in_only
def test_slow_function_shows_that_it_is_busy_and_takes_one_application(
    open_page, stand_in
):
    released = threading.Event()

    def slow(application):
        released.wait(20)
        return stand_in.decide(application)

    stand_in.respond = slow
    page = open_page()
    fill(page)
    submit(page)
    try:
        button = page.locator("#submit")
        expect(button).to_be_disabled()
        expect(button).to_have_text(re.compile("Deciding…"))
        expect(page.locator("#application")).to_have_attribute("aria-busy", "true")
        expect(page.locator("#status")).to_have_text(
            "Your application is being decided."
        )
        screenshot(page, "busy-desktop-light")
        # All the ways to send a form once more.
        page.locator("#Income").press("Enter")
        button.click(force=True)
        page.evaluate("document.getElementById('application').requestSubmit()")
        page.wait_for_timeout(200)
        assert len(stand_in.requests) == 1
    finally:
        released.set()
    expect_decision(page, "approved")
    expect(page.locator("#application")).to_have_attribute("aria-busy", "false")
    assert len(stand_in.requests) == 1


@stand_in_only
def test_function_that_never_answers_is_given_up_on(open_page, stand_in):
    released = threading.Event()
    arrived = threading.Event()

    def never(application):
        arrived.set()
        released.wait(20)
        return stand_in.decide(application)

    stand_in.respond = never
    page = open_page(before=lambda page: page.clock.install(), expected_errors=["ERR_"])
    fill(page)
    submit(page)
    try:
        assert arrived.wait(5)
        page.clock.fast_forward(10_000)
        expect(page.locator("#submit")).to_be_disabled()
        page.clock.fast_forward(10_000)
        expect_problem(page, "The decision took too long")
    finally:
        released.set()
    stand_in.respond = stand_in.decide
    page.get_by_role("button", name="Try again").click()
    expect_decision(page, "approved")


# Configuration


@stand_in_only
@pytest.mark.parametrize(
    "config",
    [
        None, "", "{", "null", "{}", '{"function_url": ""}', '{"function_url": 1}', '{"function_url": "/relative"}',
        '{"function_url": "javascript:alert(1)"}', '{"function_url": "http://example.com/"}',
        '{"function_url": "http://127.0.0.1.example.com/"}',
    ],
)  # fmt: skip
def test_without_configuration_the_page_says_so(open_page, stand_in, config):
    heading = "This page is not connected to the decision service"
    page = open_page(
        expected_errors=["status of 404"],
        before=lambda _: setattr(stand_in, "config", config),
    )
    expect_problem(page, heading)
    fill(page)
    submit(page)
    expect_problem(page, heading)
    assert stand_in.requests == []
    if config is None:
        screenshot(page, "not-connected-desktop-light")
    stand_in.reset()
    page.get_by_role("button", name="Try again").click()
    expect_decision(page, "approved")


@stand_in_only
def test_connection_can_be_tried_again_without_losing_answers(open_page, stand_in):
    page = open_page(
        expected_errors=["status of 404"],
        before=lambda _: setattr(stand_in, "config", None),
    )
    expect_problem(page, "This page is not connected to the decision service")
    fill(page)
    page.get_by_role("button", name="Try again").click()
    expect_problem(page, "This page is not connected to the decision service")
    stand_in.reset()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#Income")).to_have_value("500000")
    submit(page)
    expect_decision(page, "approved")


@stand_in_only
def test_a_moved_function_is_found_without_reloading(open_page, stand_in):
    page = open_page()
    stand_in.config = json.dumps({"function_url": stand_in.function_url + "moved/"})
    fill(page)
    with page.expect_request(re.compile("/moved/$")):
        submit(page)
    expect_decision(page, "approved")
