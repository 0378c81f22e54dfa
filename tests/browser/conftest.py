"""The web page in Chromium.

Given PIPELINE_URLS (the line that `cargo xtask local --json` prints) it tests what is served there: the deployed page, function
and report. Without it, it tests the files in web/ against a stand-in for the function that answers what a test tells it to:
that judges the page's behaviour, never a decision. Tests that need the one or the other are skipped as `not run`.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
from page import REAL
from playwright.sync_api import sync_playwright
from stand_in import StandIn

CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("google-chrome")
    or "/usr/bin/chromium"
)


@pytest.fixture(scope="session")
def browser():
    if not Path(CHROMIUM).exists():
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is missing")
        # A laptop need not have it; in CI its absence fails.
        pytest.skip("not run: Chromium is missing")
    arguments = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server():
    if REAL is not None:
        yield None
        return
    stand_in = StandIn()
    yield stand_in
    stand_in.server.shutdown()


def origin(url):
    return re.match(r"\w+://[^/]+", url)[0]


@pytest.fixture
def stand_in(server):
    server.reset()
    return server


@pytest.fixture
def open_page(browser, server):
    """Opens the page; every console error, uncaught exception or request to elsewhere fails the test."""
    contexts = []
    if server is not None:
        server.reset()

    def opened(expected_errors=(), before=None, **options):
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        page = context.new_page()
        page.set_default_timeout(10_000)
        errors = []
        page.on("pageerror", lambda error: errors.append(f"exception: {error}"))
        page.on(
            "console",
            lambda message: message.type == "error" and errors.append(message.text),
        )
        hosts = set()
        page.on("response", lambda response: hosts.add(origin(response.url)))
        # What the policy stops never leaves the browser.
        page.on(
            "requestfailed",
            lambda request: request.failure != "csp" and hosts.add(origin(request.url)),
        )
        contexts.append((context, errors, expected_errors, hosts))
        if before:
            before(page)
        page.goto(REAL["web_url"] if REAL else server.web_url)
        return page

    yield opened
    urls = (
        [REAL["web_url"], REAL["function_url"]]
        if REAL
        else [server.web_url, server.function_url]
    )
    allowed = {origin(url) for url in urls}
    for context, errors, expected, hosts in contexts:
        context.close()
        unexpected = [
            error for error in errors if not any(text in error for text in expected)
        ]
        assert unexpected == []
        assert hosts <= allowed, f"the page asked {hosts - allowed}"
