"""The web page in Chromium.

Given PIPELINE_URLS (the line that `cargo xtask local --json` prints) it tests what is served there: the deployed page, function
and report. Without it, it tests the files in web/ against a stand-in for the function that answers what a test tells it to:
that judges the page's behaviour, never a decision. Tests that need the one or the other are skipped as `not run`.
"""

import json
import os
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"
SCREENSHOTS = ROOT / "target" / "screenshots"
MODEL = "sha256:" + "5e" * 32
CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("google-chrome")
    or "/usr/bin/chromium"
)
REAL = (
    json.loads(os.environ["PIPELINE_URLS"]) if os.environ.get("PIPELINE_URLS") else None
)

GOOD = {"Income": "500000", "Num_Children": "2", "Own_Housing": "1", "Own_Car": "1"}
TITLES = {"approved": "Approved", "denied": "Denied"}

# Behaviour that only a function under the test's control can show.
stand_in_only = pytest.mark.skipif(
    REAL is not None, reason="not run: needs the stand-in"
)
real_only = pytest.mark.skipif(
    REAL is None, reason="not run: judges what is deployed, give PIPELINE_URLS"
)


class StandIn:
    """web/, its config.json and the function on one loopback server; the function is another origin by its name."""

    TYPES = {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
    }

    def __init__(self):
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status, body=b"", headers=()):
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                name = self.path.removeprefix("/mlopswebapp/web/").split("?")[0]
                if name == "config.json" and stand_in.config is not None:
                    return self.answer(
                        200,
                        stand_in.config.encode(),
                        [("content-type", "application/json")],
                    )
                file = WEB / name
                if "/" in name or not file.is_file() or name == "config.json":
                    return self.answer(404)
                return self.answer(
                    200,
                    file.read_bytes(),
                    [("content-type", stand_in.TYPES[file.suffix])],
                )

            def cors(self):
                return stand_in.cors and [
                    ("access-control-allow-origin", "*"),
                    ("access-control-allow-methods", "POST"),
                    ("access-control-allow-headers", "content-type"),
                ]

            def do_OPTIONS(self):
                stand_in.preflights += 1
                self.answer(204, headers=self.cors() or [])

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                stand_in.requests.append(
                    (self.headers["content-type"], json.loads(body))
                )
                status, answer = stand_in.respond(json.loads(body))
                text = (
                    answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                )
                try:
                    self.answer(
                        status,
                        text,
                        [("content-type", "application/json"), *(self.cors() or [])],
                    )
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the page gave up waiting, which is what some tests are about

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        port = self.server.server_address[1]
        self.web_url = f"http://127.0.0.1:{port}/mlopswebapp/web/index.html"
        self.function_url = (
            f"http://localhost:{port}/_url/creditcardapplicationlambda/live/"
        )
        self.reset()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self):
        self.config = json.dumps({"function_url": self.function_url, "model": MODEL})
        self.requests = []
        self.preflights = 0
        self.cors = True
        self.respond = self.decide

    @staticmethod
    def decide(application):
        approved = application["Income"] >= 100_000 or application["Own_Housing"] == 1
        return 200, {
            "prediction": int(approved),
            "decision": "approved" if approved else "denied",
            "probability": 0.9912 if approved else 0.0423,
            "model": MODEL,
        }


@pytest.fixture(scope="session")
def browser():
    if not Path(CHROMIUM).exists():
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is missing")
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


# Decisions


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


# The function is not well


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


# For everyone


def test_keyboard_alone(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the application")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#Income")).to_be_focused()
    page.keyboard.type("500000")
    page.keyboard.press("Tab")
    page.keyboard.type("2")
    page.keyboard.press("Tab")
    expect(page.locator("#Own_Housing")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    expect(page.locator("#Own_Car")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator('input[name="Own_Car"][value="0"]')).to_be_checked()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#Own_Car")).to_be_checked()
    page.keyboard.press("Tab")
    expect(page.locator("#submit")).to_be_focused()
    page.keyboard.press("Enter")
    expect_decision(page, "approved")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator("#change")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#Income")).to_be_focused()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("none")
    page.keyboard.press("Enter")
    expect_problem(page, "There is a problem with your answers")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#Income")).to_be_focused()


@pytest.mark.parametrize("width", [320, 390])
def test_phone(open_page, width):
    page = open_page(
        viewport={"width": width, "height": 640},
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
    )
    assert no_sideways_scroll(page)
    submit(page)
    expect_problem(page, "There is a problem with your answers")
    assert no_sideways_scroll(page)
    fill(page)
    submit(page)
    expect_decision(page, "approved")
    page.get_by_text("How this was decided").click()
    assert no_sideways_scroll(page)
    # Big enough for a finger: 44 px, as platform guidelines ask.
    page.get_by_role("button", name="Change my answers").click()
    for target in page.locator(
        "button:visible, label.choice:visible, input[type=text]:visible"
    ).all():
        assert target.bounding_box()["height"] >= 44


def test_text_can_be_made_twice_as_large(open_page):
    page = open_page(viewport={"width": 640, "height": 800})
    page.evaluate("document.documentElement.style.setProperty('font-size', '200%')")
    assert no_sideways_scroll(page)


def states(page, stand_in):
    """Brings the page into each of its looks, one after the other."""
    yield "form"
    submit(page)
    expect_problem(page, "There is a problem with your answers")
    yield "problem"
    fill(page)
    submit(page)
    expect_decision(page, "approved")
    page.get_by_text("How this was decided").click()
    yield "approved"
    page.get_by_role("button", name="Change my answers").click()
    fill(page, Income="50000", Own_Housing="0")
    yield "filled"
    submit(page)
    expect_decision(page, "denied")
    yield "denied"
    stand_in.respond = lambda _: (500, {})
    page.get_by_role("button", name="Change my answers").click()
    submit(page)
    expect_problem(page, "The decision service has a problem")
    yield "failure"


@stand_in_only
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_accessible_in_every_state(open_page, stand_in, scheme, device):
    size = {
        "desktop": {"width": 1280, "height": 900},
        "phone": {"width": 320, "height": 640},
    }[device]
    page = open_page(
        viewport=size, color_scheme=scheme, expected_errors=["status of 500"]
    )
    rules = {
        "runOnly": [
            "wcag2a",
            "wcag2aa",
            "wcag21a",
            "wcag21aa",
            "wcag22aa",
            "best-practice",
        ]
    }
    for state in states(page, stand_in):
        screenshot(page, f"{state}-{device}-{scheme}")
        found = Axe().run(page, options=rules).response
        assert found["passes"], "the checker checked nothing"
        assert [
            (one["id"], one["impact"], [node["html"] for node in one["nodes"]])
            for one in found["violations"]
        ] == []
        assert no_sideways_scroll(page)


@stand_in_only
def test_dark_mode_is_dark(open_page):
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 3"
    assert open_page(color_scheme="dark").evaluate(lightness) < 60
    assert open_page(color_scheme="light").evaluate(lightness) > 200


@stand_in_only
def test_without_javascript_the_page_says_so(open_page):
    page = open_page(java_script_enabled=False)
    expect(page.get_by_text("This page needs JavaScript")).to_be_visible()


# Security


def test_content_security_policy_holds(open_page):
    page = open_page(expected_errors=["Content Security Policy", "TrustedScript"])
    blocked = page.evaluate(
        """async () => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
            const script = document.createElement("script");
            try { script.textContent = "window.injected = true"; document.body.append(script); } catch { }
            await fetch("http://example.invalid/").catch(() => {});
            const picture = new Image();
            picture.src = "https://example.invalid/x.png";
            const style = document.createElement("style");
            style.textContent = "body { color: red }";
            document.body.append(style);
            await new Promise((done) => setTimeout(done, 200));
            return found;
        }"""
    )
    for directive in ["connect-src", "img-src", "style-src-elem"]:
        assert directive in blocked
    assert page.evaluate("window.injected") is None


# What is deployed beside the page


@real_only
def test_report_loads(browser):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    response = page.goto(REAL["report_url"])
    assert response.status == 200
    assert "text/html" in response.headers["content-type"]
    assert page.locator(".verdict h2").inner_text().startswith("Verdict: may ship")
    judge_report(page)
    assert errors == []
    page.close()


def judge_report(page):
    """Moves the report's slider there and back, and has the page judged in both colours, narrow and wide."""
    recall = page.locator("[data-series='0'][data-rate='recall']")
    before = recall.inner_text()
    slider = page.get_by_role("slider")
    slider.fill("100")
    assert page.locator("output").inner_text() == "1.00"
    assert recall.inner_text() != before
    page.get_by_role("button", name="Back to").click()
    assert recall.inner_text() == before
    for scheme, width in [("light", 1180), ("dark", 1180), ("light", 390)]:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        found = Axe().run(page).response["violations"]
        assert [(each["id"], each["impact"], [node["target"] for node in each["nodes"]][:3]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
