"""Decisions, and answers that are refused: by the page or by the function."""

import re

import pytest
from page import (
    GOOD,
    expect_decision,
    expect_field_error,
    expect_problem,
    fill,
    no_sideways_scroll,
    real_only,
    stand_in_only,
    submit,
)
from playwright.sync_api import expect


def test_approved(open_page, server):
    page = open_page()
    fill(page)
    submit(page)
    expect_decision(page, "approved")
    expect(page.locator("#answer-Income")).to_have_text("500,000")
    page.get_by_text("How this was decided").click()
    expect(page.locator("#model")).to_have_text(re.compile(r"^sha256:[0-9a-f]{64}$"))
    expect(page.locator("#probability")).to_have_text(re.compile(r"^\d+(\.\d)?%$"))
    if server:
        assert server.requests == [
            (
                "application/json",
                {"Num_Children": 2, "Income": 500000, "Own_Car": 1, "Own_Housing": 1},
            )
        ]
        assert server.preflights == 1, (
            "the function is another origin and content-type json is preflighted"
        )


def test_denied(open_page):
    page = open_page()
    fill(page, Income="50000", Own_Housing="0")
    submit(page)
    expect_decision(page, "denied")


def test_answers_can_be_changed_after_a_decision(open_page):
    page = open_page()
    fill(page, Income="50000", Own_Housing="0")
    submit(page)
    expect_decision(page, "denied")
    page.get_by_role("button", name="Change my answers").click()
    expect(page.locator("#Income")).to_be_focused()
    expect(page.locator("#Income")).to_have_value("50000")
    expect(page.locator("#Num_Children")).to_have_value("2")
    fill(page)
    submit(page)
    expect_decision(page, "approved")


@stand_in_only
@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("500,000", 500_000),
        ("1,500,000.25", 1_500_000.25),
        ("500 000", 500_000),
        (" 42 ", 42),
        ("0", 0),
        ("0.5", 0.5),
        ("007", 7),
    ],
)
def test_income_as_people_write_it(open_page, stand_in, written, sent):
    page = open_page()
    fill(page, Income=written)
    submit(page)
    expect(page.locator("#result")).to_be_visible()
    assert stand_in.requests[0][1]["Income"] == sent


@stand_in_only
def test_reasons_are_shown_as_text_with_the_change_that_would_approve(
    open_page, stand_in
):
    reasons = [
        {
            "feature": "Income",
            "text": "<b>Your income</b>",
            "counterfactual": 80_210.25,
        },
        {"feature": "Own_Housing", "text": "Your home", "counterfactual": 1},
        {"feature": "Num_Children", "text": "Your children", "counterfactual": None},
        {"feature": "Income", "text": {"not": "a sentence"}},
        "not a reason",
    ]
    stand_in.respond = lambda _: (200, {"prediction": 0, "reasons": reasons})
    page = open_page()
    fill(page)
    submit(page)
    expect_decision(page, "denied")
    texts = page.locator("#reasons-list strong").all_text_contents()
    assert texts == ["<b>Your income</b>", "Your home", "Your children"]
    income, home, children = page.locator("#reasons-list span").all_text_contents()
    assert "80,2" in income and "we would approve" in income
    assert home == "With “Yes” and all else the same, we would approve."
    assert (
        children == "No other answer to this question alone would change the decision."
    )
    expect(page.locator("#probability")).to_have_text("not given")


# Bad input

BAD = [
    ("Income", "", "Enter your yearly income"),
    ("Income", "a lot", "must be a number"),
    ("Income", "NaN", "must be a number"),
    ("Income", "1e5", "must be a number"),
    ("Income", "500,50", "must be a number"),
    ("Income", "5,000,00", "must be a number"),
    ("Income", "500.000.000", "must be a number"),
    ("Income", "0x10", "must be a number"),
    ("Income", "-1", "0 or more"),
    ("Income", "9" * 400, "too large"),
    ("Num_Children", "", "Enter how many children"),
    ("Num_Children", "-1", "whole number"),
    ("Num_Children", "1.5", "whole number"),
    ("Num_Children", "two", "whole number"),
    ("Own_Housing", None, "Choose whether you own your home"),
    ("Own_Car", None, "Choose whether you own a car"),
]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    BAD,
    ids=[f"{name}-{str(value)[:12]}" for name, value, _ in BAD],
)
def test_bad_input_is_said_next_to_the_field_and_not_sent(
    open_page, server, name, value, text
):
    page = open_page()
    fill(page, **{name: value})
    submit(page)
    expect_problem(page, "There is a problem with your answers")
    expect_field_error(page, name, text)
    assert page.locator(".field-error:visible").count() == 1
    assert no_sideways_scroll(page)
    page.locator("#problem-list a").click()
    expect(page.locator(f"#{name}")).to_be_focused()
    if server:
        assert server.requests == []
    fill(page)
    submit(page)
    expect_decision(page, "approved")


def test_an_empty_form_names_every_field(open_page):
    page = open_page()
    submit(page)
    expect_problem(page, "There is a problem with your answers")
    assert page.locator(".field-error:visible").count() == 4
    assert page.locator("#problem-list a").count() == 4


@real_only
def test_what_the_function_refuses_is_shown(open_page):
    """A number that the page has no opinion of, and that no model was made for."""
    page = open_page(expected_errors=["status of 4"])
    fill(page, Income="9" * 60)
    submit(page)
    expect_problem(page, "There is a problem with your answers")
    expect(page.locator("#Income-error")).to_be_visible()


@stand_in_only
@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("status", [400, 422])
def test_refusal_by_the_function_is_shown_next_to_the_field(
    open_page, stand_in, name, status
):
    stand_in.respond = lambda _: (
        status,
        {"error": f"{name} is <i>outside</i> the range", "field": name},
    )
    page = open_page(expected_errors=[f"status of {status}"])
    fill(page)
    submit(page)
    expect_problem(page, "There is a problem with your answers")
    expect_field_error(page, name, f"{name} is <i>outside</i> the range")
    assert page.locator(".field-error:visible").count() == 1


@stand_in_only
@pytest.mark.parametrize(
    ("status", "answer", "text"),
    [
        (400, {"error": "unknown field Age", "field": "Age"}, "unknown field Age"),
        (400, {"error": "not JSON"}, "not JSON"),
        (400, {"error": "no", "field": "__proto__"}, "no"),
        (403, {"Message": "Forbidden"}, "status 403"),
        (413, b"<html>too large</html>", "status 413"),
        (429, b"", "status 429"),
    ],
)
def test_refusal_that_names_no_field_of_the_form(
    open_page, stand_in, status, answer, text
):
    stand_in.respond = lambda _: (status, answer)
    page = open_page(expected_errors=[f"status of {status}"])
    fill(page)
    submit(page)
    expect_problem(page, "The application was not accepted")
    expect(page.locator("#problem-text")).to_contain_text(text)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert page.locator(".field-error:visible").count() == 0
