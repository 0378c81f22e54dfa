"""The page for everyone, with its policy of contents, and the report beside it."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from page import (
    REAL,
    expect_decision,
    expect_problem,
    fill,
    no_sideways_scroll,
    real_only,
    screenshot,
    stand_in_only,
    submit,
)
from playwright.sync_api import expect


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
