"""Forms of the explorer that submit jobs, and the pages of what those made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.browsing import Browser
from tests.fakes.control_server import Control
from tests.fakes.explorer_server import ended, explorer, publish
from tests.fakes.features import HOSTILE, planted
from tests.fakes.valkey import Valkey

from saeserve.client import Client
from saeserve.explorer.server import Running
from saeserve.jobs.payloads import AttemptStarted
from saeserve.jobs.record import Output

FEATURE = "/models/sae@1/features/5"
STEER, TEXT = f"{FEATURE}/steer", "/models/sae@1/text"
ENTRIES = {
    "prompt": "Once upon",
    "action": "add",
    "value": "8.5",
    "max_new_tokens": "12",
    "temperature": "0.5",
    "seed": "3",
    "dataset": "acts",
    "once": "w",
}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[Control]:
    service = Control(tmp_path_factory.mktemp("c"), valkey)
    service.start()
    publish(service, service.folder)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def shown(control: Control) -> Iterator[Running]:
    assert control.server is not None
    with planted() as inference, explorer(control.server.bound, inference) as parts:
        yield parts


@pytest.fixture
def browser(shown: Running, control: Control) -> Iterator[Browser]:
    """A browser; no job waits when the test begins, nor when it ends."""
    yield Browser(shown.url)
    assert control.server is not None
    with Client(control.server.bound) as client:
        for job in client.jobs.list(states=["QUEUED"]):
            client.jobs.cancel(job.id)


def job_at(url: str) -> str:
    assert "/jobs/" in url
    return url.rpartition("/")[2]


def test_a_feature_is_steered_from_its_page(browser: Browser, control: Control) -> None:
    assert 'name="value" inputmode="decimal" required value="4"' in browser.get(FEATURE).text
    page = browser.send_form(FEATURE, STEER, **ENTRIES)
    assert page.status == 200
    assert 'http-equiv="refresh"' in page.text
    job = job_at(page.url)
    spec = browser.get(f"/jobs/{job}.json").json()["job"]["resolved_spec"]["generate"]
    assert (spec["model"], spec["dataset"]) == ("models/sae/versions/1", "acts")
    assert spec["edits"] == [{"feature": 5, "add": 8.5}]
    assert (spec["prompts"], spec["seed"]) == (["Once upon"], 3)
    written = {
        "prompt": "Once upon",
        "prompt_tokens": [1, 2],
        "unsteered": {"text": " a time", "tokens": [3], "ended_by": "length"},
        "steered": {"text": f" a {HOSTILE}\u202e", "tokens": [4], "steered_positions": 7},
        "first_steered_position": 1,
        "kl_nats": 0.25,
    }
    ended(control, job, Output(generation={"continuations": [written]}), AttemptStarted())
    page = browser.get(f"/jobs/{job}").text
    assert '</span> a <mark class="part">time</mark>' in page
    assert "&lt;img src=x onerror=alert(1)&gt;⟨U+202E⟩</mark>" in page
    assert "7 positions steered, the first of them 1; after it KL" in page
    assert "0.25 nats" in page
    assert f'<a href="{FEATURE}">Feature 5</a> plus 8.5' in page
    assert 'http-equiv="refresh"' not in page
    again = browser.get(f"{STEER}.json?like={job}").json()
    kept = ("prompt", "action", "value", "max_new_tokens", "temperature", "seed", "dataset")
    assert {name: again[name] for name in kept} == {name: ENTRIES[name] for name in kept}


def test_a_form_that_is_sent_twice_submits_once(browser: Browser) -> None:
    first, second = (browser.send_form(FEATURE, STEER, **ENTRIES | {"once": "x"}) for _ in "ab")
    changed = browser.send_form(FEATURE, STEER, **ENTRIES | {"once": "x", "seed": "4"})
    opened_again = browser.send_form(FEATURE, STEER, **ENTRIES | {"once": "y"})
    assert first.url == second.url
    assert len({first.url, changed.url, opened_again.url}) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "absent"}, "absent"),
        ({"value": "much"}, "value is &#39;much&#39;, which is not a number"),
        ({"value": "nan"}, "which is not a number"),
        ({"max_new_tokens": "2000"}, "max_new_tokens"),
        ({"seed": "1.5"}, "seed is &#39;1.5&#39;, which is not a whole number"),
        ({"action": "clamp"}, "cannot be steered by"),
    ],
)
def test_a_form_that_is_refused_keeps_its_entries(
    browser: Browser, changes: dict[str, str], words: str
) -> None:
    page = browser.send_form(FEATURE, STEER, **ENTRIES | changes)
    assert page.status in (400, 404)
    assert page.url.endswith(STEER)
    assert 'role="alert"' in page.text
    assert words in page.text
    assert "\nOnce upon</textarea>" in page.text
    assert 'value="w"' in page.text
    for name in changes.keys() - {"action"}:
        assert f'value="{changes[name]}"' in page.text
    assert browser.get("/jobs.json?state=QUEUED").json()["jobs"] == []


@pytest.mark.parametrize("path", [STEER, TEXT])
def test_a_form_of_another_site_submits_nothing(browser: Browser, path: str) -> None:
    browser.get(FEATURE)
    assert browser.post(path, ENTRIES | {"form_token": "x"}).status == 403
    assert browser.get("/jobs.json?state=QUEUED").json()["jobs"] == []


def test_a_text_shows_what_fires(browser: Browser, control: Control) -> None:
    entries = {"text": "the king", "features": "3", "split": "yes", "dataset": "acts"}
    page = browser.send_form(TEXT, TEXT, **entries)
    job = job_at(page.url)
    spec = browser.get(f"/jobs/{job}.json").json()["job"]["resolved_spec"]["annotate"]
    assert (spec["texts"], spec["features"], spec["long_texts"]) == (["the king"], 3, "split")
    tokens = [
        {"text": "the", "token": 1, "features": [5, 9], "values": [4.0, 1.0]},
        {"text": HOSTILE, "token": 2, "features": [9], "values": [-8.0]},
        {"text": "\n", "token": 3, "beyond_norm_bound": True},
    ]
    ended(control, job, Output(annotation={"texts": [{"tokens": tokens}]}), AttemptStarted())
    page = browser.get(f"/jobs/{job}").text
    assert '<mark class="a3" title="activation 4">the</mark>' in page
    assert HOSTILE not in page
    assert "they mean little" in page
    assert page.index(">feature 9</a>") < page.index(">feature 5</a>")
    one = browser.get(f"/jobs/{job}?feature=5").text
    assert '<mark class="a5" title="activation 4">the</mark>' in one
    assert 'class="a5" title="activation -8"' not in one
    again = browser.get(f"{TEXT}.json?like={job}").json()
    assert (again["text"], again["features"], again["split"]) == ("the king", "3", True)


def test_a_text_that_failed_says_why_and_can_be_changed(browser: Browser) -> None:
    page = browser.send_form(TEXT, TEXT, text="  ", features="99", dataset="acts")
    assert page.status == 400
    assert "features" in page.text
    assert 'value="99"' in page.text


def test_a_model_without_a_bundle_can_be_steered(browser: Browser) -> None:
    form = browser.get("/models/bare@1/features/5/steer.json").json()
    assert (form["value"], form["dataset"]) == ("", "")
    page = browser.send_form("/models/bare@1/text", "/models/bare@1/text", text="a", dataset="acts")
    assert "/jobs/" in page.url
