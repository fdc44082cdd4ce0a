"""Every page in a real browser: no accessibility fault, no sideways scroll, keys that work.

Screenshots go to build/browser, for a person to look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.browser.conftest import Site

Browser = Any
"""playwright's, whose types are those of a package that is not always installed."""

SHOTS = Path("build/browser")
PAGES = {
    "jobs": "/jobs",
    "job-train": "/jobs/{train}",
    "job-waits": "/jobs/{waits}",
    "job-failed": "/jobs/{failed}",
    "job-collect": "/jobs/{collect}",
    "job-evaluate": "/jobs/{evaluate}",
    "job-generate": "/jobs/{generate}",
    "job-annotate": "/jobs/{annotate}",
    "job-annotate-one": "/jobs/{annotate}?feature=28",
    "curves": "/jobs/{train}/curves",
    "models": "/models",
    "model": "/models/sae@2",
    "features": "/models/sae@2/features",
    "token": "/models/sae@2/features?token=w1",
    "feature": "/models/sae@2/features/5",
    "steer": "/models/sae@2/features/5/steer?like={generate}",
    "text": "/models/sae@2/text",
    "compare": "/compare?a=sae@1&b=sae@2",
    "compare-bare": "/compare?a=sae@2&b=bare",
    "not-collected": "/models/bare@1/features",
    "missing": "/models/absent",
    "sign-in": "/sign-in",
}
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page(
    chromium: Browser, axe: Browser, site: Site, name: str, width: str, scheme: str
) -> None:
    wide, high = WIDTHS[width]
    page = chromium.new_page(viewport={"width": wide, "height": high}, color_scheme=scheme)
    said = heard(page)
    page.goto(site.url + PAGES[name].format(**site.jobs), wait_until="networkidle")
    looked_at(page, axe, f"{name}-{width}-{scheme}")
    assert [text for text in said if "40" not in text] == []
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_refused_form(chromium: Browser, axe: Browser, site: Site, width: str) -> None:
    wide, high = WIDTHS[width]
    page = chromium.new_page(viewport={"width": wide, "height": high})
    page.goto(f"{site.url}/models/sae@2/features/5")
    page.fill("textarea[name=prompt]", "w1 w2")
    page.fill("input[name=dataset]", "absent")
    page.click("button:has-text('Write both texts')")
    assert page.locator("[role=alert]").count() == 1
    assert page.input_value("textarea[name=prompt]") == "w1 w2"
    looked_at(page, axe, f"steer-refused-{width}-light")
    page.close()


@pytest.mark.parametrize("scripts", [True, False])
def test_steering_shows_both_texts(chromium: Browser, site: Site, scripts: bool) -> None:
    context = chromium.new_context(java_script_enabled=scripts)
    page = context.new_page()
    page.goto(f"{site.url}/models/sae@2/features/5")
    page.fill("textarea[name=prompt]", "w1 w2 w3")
    page.fill("input[name=value]", "40" if scripts else "50")
    page.dblclick("button:has-text('Write both texts')")
    page.wait_for_selector("section[aria-label=Steered]", timeout=120_000)
    assert "SUCCEEDED" in page.locator("h1").inner_text()
    assert "positions steered" in page.locator("main").inner_text()
    page.click("a:has-text('Feature 5')")
    page.wait_for_url("**/models/sae@2/features/5")
    context.close()


def test_a_text_shows_what_fires(chromium: Browser, site: Site) -> None:
    page = chromium.new_page()
    page.goto(f"{site.url}/models/sae@2")
    page.click("a:has-text('What fires on a text')")
    page.fill("textarea[name=text]", "w1 w2 w3 w4")
    page.click("button:has-text('Show what fires')")
    page.wait_for_selector("mark", timeout=120_000)
    assert page.locator("p.text mark").count() == 4
    page.click("a[data-step] >> nth=0")
    assert "/models/sae@2/features/" in page.url
    page.close()


def test_keys_lead_through_a_list(chromium: Browser, site: Site) -> None:
    page = chromium.new_page()
    page.goto(f"{site.url}/models/sae@2/features")
    focused = "document.activeElement.textContent"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the content"
    page.keyboard.press("j")
    first = page.evaluate(focused)
    page.keyboard.press("j")
    assert first.startswith("feature ")
    assert page.evaluate(focused) != first
    page.keyboard.press("k")
    assert page.evaluate(focused) == first
    page.keyboard.press("Enter")
    page.wait_for_url("**/features/*")
    page.close()


def test_pages_work_without_scripts(chromium: Browser, site: Site) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/jobs")
    page.select_option("select[name=kind]", "evaluate")
    page.click("button:has-text('Show')")
    assert page.locator("ul.cards > li").count() == 1
    page.click("a.main")
    assert "evaluate" in page.locator("h1").inner_text()
    context.close()


def heard(page: Browser) -> list[str]:
    """What the page logs, from now on."""
    said: list[str] = []

    def hear(message: Browser) -> None:
        said.append(str(getattr(message, "text", message)))

    page.on("console", hear)
    page.on("pageerror", hear)
    return said


def looked_at(page: Browser, axe: Browser, name: str) -> None:
    """Take a picture; the page must neither scroll sideways nor have a fault that axe finds."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")  # plots load when they are near
    page.wait_for_load_state("networkidle")
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
    wide = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    found = axe.run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
