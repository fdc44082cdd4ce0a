"""The explorer as a process, over real services: jobs, models, errors, tokens."""

from __future__ import annotations

from collections.abc import Callable
from urllib.request import urlopen

import pytest
from tests.fakes.browsing import Browser
from tests.fakes.real_stack import RealStack

from saeserve.client.values import Job

TRAIN = {"dataset": "planted", "model": "sae", "topk": {"k": 4}, "d_sae": 64, "tokens": 20_000}


@pytest.fixture(scope="module")
def done(stack: RealStack) -> list[Job]:
    """A trained and evaluated model, and a job that waits for ever."""
    stack.planted()
    train = stack.client.jobs.submit({"train": TRAIN})
    stack.wait(train.id)
    evaluate = stack.client.jobs.submit({"evaluate": {"model": "sae", "dataset": "planted"}})
    stack.wait(evaluate.id)
    waits = stack.client.jobs.submit({"train": {**TRAIN, "device": "gpu"}})
    return [stack.client.jobs.get(each.id) for each in (train, evaluate, waits)]


@pytest.fixture(scope="module")
def browser(stack: RealStack) -> Browser:
    return Browser(stack.explorer().ready["address"])


def test_jobs_are_listed_by_state(browser: Browser, done: list[Job]) -> None:
    train, evaluate, waits = done
    every = browser.get("/")
    assert every.url.endswith("/jobs")
    assert all(job.id in every.text for job in done)
    succeeded = browser.get("/jobs?state=SUCCEEDED&kind=train").text
    assert train.id in succeeded
    assert evaluate.id not in succeeded
    assert waits.id not in succeeded
    found = browser.get("/jobs.json?kind=evaluate").json()
    assert [job["id"] for job in found["jobs"]] == [evaluate.id]


def test_a_job_shows_state_figures_and_curves(browser: Browser, done: list[Job]) -> None:
    train = done[0]
    page = browser.get(f"/jobs/{train.id}").text
    assert "SUCCEEDED" in page
    assert "/models/sae@1" in page
    assert f"/jobs/{train.id}/curves/fvu.svg" in page
    curves = browser.get(f"/jobs/{train.id}/curves", Accept="application/json").json()["curves"]
    fvu = next(each for each in curves if each["figure"] == "fvu")
    assert fvu["steps"] == sorted(fvu["steps"])
    drawn = browser.get(f"/jobs/{train.id}/curves/fvu.svg")
    assert drawn.headers["content-type"] == "image/svg+xml"
    assert f"n = {len(fvu['steps'])} reports" in drawn.text
    again = browser.get(f"/jobs/{train.id}/curves/fvu.svg", If_None_Match=drawn.headers["etag"])
    assert again.status == 304


def test_a_job_is_cancelled_by_its_own_form_alone(browser: Browser, done: list[Job]) -> None:
    waits = done[2]
    path = f"/jobs/{waits.id}"
    assert browser.post(f"{path}/cancel", {}).status == 403
    assert browser.post(f"{path}/cancel", {"form_token": "x"}).status == 403
    shown = browser.send_form(path, f"{path}/cancel")
    assert shown.status == 200
    assert shown.url.endswith(path)
    again = browser.get("/jobs.json?state=CANCELLED").json()["jobs"]
    assert [job["id"] for job in again] == [waits.id]


def test_a_model_shows_figures_density_and_lineage(browser: Browser, done: list[Job]) -> None:
    assert "sae@1" in browser.get("/models").text
    page = browser.get("/models/sae@1").text
    for shown in ("d_sae", "fvu", "density.svg", done[0].id, done[1].id):
        assert shown in page
    assert browser.get("/models/sae.json").json()["reference"] == "sae@1"
    drawn = browser.get("/models/sae@1/density.svg?narrow=true")
    assert "n = 64 latents" in drawn.text


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/jobs/j-00000000000000000000", 404, "j-00000000000000000000"),
        ("/models/absent", 404, "absent"),
        ("/jobs?state=ODD", 400, "no job state is called"),
        ("/jobs?page=0", 400, "page"),
        ("/nowhere", 404, "/nowhere"),
    ],
)
def test_what_is_not_there_is_a_page_and_json(
    browser: Browser, path: str, status: int, words: str
) -> None:
    page = browser.get(path, Accept="text/html")
    assert page.status == status
    assert words in page.text
    assert "<main" in page.text
    data = browser.get(path, Accept="application/json")
    assert data.status == data.json()["status"] == status


def test_pages_bear_a_strict_policy(browser: Browser, done: list[Job]) -> None:
    for path in ("/jobs", "/models", "/nowhere", f"/jobs/{done[0].id}"):
        answer = browser.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; img-src 'self' data:; style-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        for inline in ("<style", " style=", "<script>", " onclick=", "javascript:"):
            assert inline not in answer.text
    assert all(cookie.has_nonstandard_attr("HttpOnly") for cookie in browser.cookies)


def test_other_host_names_are_not_answered(browser: Browser) -> None:
    assert browser.get("/jobs", Host="evil.example").status == 421
    assert browser.get("/jobs", Host="localhost:1").status == 200


def test_an_explorer_without_services_says_so(make_stack: Callable[[], RealStack]) -> None:
    alone = Browser(make_stack().explorer().ready["address"])
    answer = alone.get("/jobs")
    assert answer.status == 503
    assert "no answer from" in answer.text


def test_the_metrics_count_by_route(stack: RealStack, browser: Browser, done: list[Job]) -> None:
    browser.get(f"/jobs/{done[0].id}")
    metrics = next(each for each in stack.services if each.name == "explorer").ready["metrics"]
    with urlopen(f"http://{metrics}/metrics") as answer:
        text = answer.read().decode()
    assert 'saeserve_http_requests_total{route="/jobs/{job}",status="200"}' in text
    assert done[0].id not in text
