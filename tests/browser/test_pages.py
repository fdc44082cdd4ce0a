"""Every page in a real browser: no accessibility fault, no sideways scroll, keys that work.

Screenshots go to build/browser, for a person to look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

Browser = Any
"""playwright's, whose types are those of a package that is not always installed."""

SHOTS = Path("build/browser")
PAGES = {
    "jobs": "/jobs",
    "job": "/jobs/{job}",
    "curves": "/jobs/{job}/curves",
    "models": "/models",
    "model": "/models/sae@1",
    "features": "/models/sae@1/features",
    "token": "/models/sae@1/features?token=king",
    "feature": "/models/sae@1/features/5",
    "dead-feature": "/models/sae@1/features/3",
    "compare": "/compare?a=sae@1&b=sae@1",
    "missing": "/models/absent",
    "sign-in": "/sign-in",
}
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page(
    chromium: Browser, axe: Browser, site: tuple[str, str], name: str, width: str, scheme: str
) -> None:
    url, job = site
    wide, high = WIDTHS[width]
    page = chromium.new_page(viewport={"width": wide, "height": high}, color_scheme=scheme)
    said: list[str] = []

    def hear(message: Browser) -> None:
        said.append(str(getattr(message, "text", message)))

    page.on("console", hear)
    page.on("pageerror", hear)
    page.goto(url + PAGES[name].format(job=job), wait_until="networkidle")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    found = axe.run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
    assert [text for text in said if "404" not in text] == []
    page.close()


def test_keys_lead_through_a_list(chromium: Browser, site: tuple[str, str]) -> None:
    page = chromium.new_page()
    page.goto(f"{site[0]}/models/sae@1/features")
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


def test_pages_work_without_scripts(chromium: Browser, site: tuple[str, str]) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site[0]}/jobs")
    page.select_option("select[name=kind]", "evaluate")
    page.click("button:has-text('Show')")
    assert page.locator("ul.cards > li").count() == 1
    page.click("a.main")
    assert "evaluate" in page.locator("h1").inner_text()
    context.close()
