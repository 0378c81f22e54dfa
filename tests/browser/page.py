"""The page as the tests use it: what is tested, how it is filled in, and what it has to show."""

import json
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

SCREENSHOTS = Path(__file__).resolve().parents[2] / "target" / "screenshots"
REAL = (
    json.loads(os.environ["PIPELINE_URLS"]) if os.environ.get("PIPELINE_URLS") else None
)

GOOD = {"Income": "500000", "Num_Children": "2", "Own_Housing": "1", "Own_Car": "1"}
TITLES = {"approved": "Approved", "denied": "Denied"}

# Behaviour that only a function under the test's control can show: a deployed one cannot be made to fail.
stand_in_only = pytest.mark.skipif(
    REAL is not None, reason="not run: needs the stand-in"
)
# What is deployed is judged with its addresses given, which `check` does after a pipeline's run.
real_only = pytest.mark.skipif(
    REAL is None, reason="not run: judges what is deployed, give PIPELINE_URLS"
)


def fill(page, **answers):
    for name, value in {**GOOD, **answers}.items():
        if value is None:
            continue
        if name.startswith("Own"):
            page.locator(f'input[name="{name}"][value="{value}"]').check()
        else:
            page.locator(f"#{name}").fill(value)


def submit(page):
    page.get_by_role("button", name="See the decision").click()


def expect_decision(page, decision):
    expect(page.locator("#result-title")).to_be_visible()
    expect(page.locator("#result-title")).to_have_text(TITLES[decision])
    expect(page.locator("#result-title")).to_be_focused()
    expect(page.locator("#result")).to_have_attribute("data-decision", decision)
    expect(page.locator("#status")).to_have_text(f"Decision: {TITLES[decision]}.")
    expect(page.locator("#application")).to_be_hidden()
    assert page.title().startswith(TITLES[decision])


def expect_problem(page, heading):
    expect(page.locator("#problem-title")).to_have_text(heading)
    expect(page.locator("#problem-title")).to_be_focused()
    expect(page.locator("#result")).to_be_hidden()
    expect(page.get_by_role("button", name="See the decision")).to_be_enabled()


def expect_field_error(page, name, text):
    error = page.locator(f"#{name}-error")
    expect(error).to_be_visible()
    expect(error).to_contain_text(text)
    control = page.locator(f"#field-{name}" if name.startswith("Own") else f"#{name}")
    expect(control).to_have_attribute("aria-invalid", "true")
    expect(control).to_have_attribute("aria-describedby", re.compile(f"{name}-error"))
    expect(page.locator(f'#problem-list a[href="#{name}"]')).to_contain_text(text)


def no_sideways_scroll(page):
    return page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )


def screenshot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    # Mid-animation every picture would be another one.
    page.evaluate(
        "Promise.all(document.getAnimations().filter(a => a.effect.getTiming().iterations === 1).map(a => a.finished))"
    )
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
