"""The explorer over a real control service: jobs, models, errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from tests.fakes.browsing import Browser
from tests.fakes.control_server import Control
from tests.fakes.explorer_server import explorer, furnish
from tests.fakes.features import HOSTILE, JOB, OLDER, planted
from tests.fakes.real_stack import free_port
from tests.fakes.valkey import Valkey

from saeserve.client import Client
from saeserve.client.values import Job
from saeserve.explorer.server import Running

SITE = tuple[Job, Job, Job]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[Control]:
    service = Control(tmp_path_factory.mktemp("c"), valkey)
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def shown(control: Control) -> Iterator[Running]:
    assert control.server is not None
    with planted() as inference, explorer(control.server.bound, inference) as parts:
        yield parts


@pytest.fixture(scope="module")
def done(control: Control) -> SITE:
    """A trained and an evaluated model, and a job that waits."""
    assert control.server is not None
    with Client(control.server.bound) as client:
        return furnish(control, client, control.folder)


@pytest.fixture(scope="module")
def browser(shown: Running) -> Browser:
    return Browser(shown.url)


def test_jobs_are_listed_by_state(browser: Browser, done: SITE) -> None:
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


def test_a_job_shows_state_figures_and_curves(browser: Browser, done: SITE) -> None:
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


def test_a_job_is_cancelled_by_its_own_form_alone(browser: Browser, done: SITE) -> None:
    waits = done[2]
    path = f"/jobs/{waits.id}"
    assert browser.post(f"{path}/cancel", {}).status == 403
    assert browser.post(f"{path}/cancel", {"form_token": "x"}).status == 403
    shown = browser.send_form(path, f"{path}/cancel")
    assert shown.status == 200
    assert shown.url.endswith(path)
    again = browser.get("/jobs.json?state=CANCELLED").json()["jobs"]
    assert [job["id"] for job in again] == [waits.id]


def test_a_model_shows_figures_density_and_lineage(browser: Browser, done: SITE) -> None:
    assert "sae@1" in browser.get("/models").text
    page = browser.get("/models/sae@1").text
    for shown in ("d_sae", "fvu", "density.svg", "j-made", done[1].id):
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


def test_pages_bear_a_strict_policy(browser: Browser, done: SITE) -> None:
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


def test_an_explorer_without_services_says_so() -> None:
    with explorer(f"127.0.0.1:{free_port()}") as parts:
        answer = Browser(parts.url).get("/jobs")
    assert answer.status == 503
    assert "no answer from" in answer.text


def test_the_metrics_count_by_route(shown: Running, browser: Browser, done: SITE) -> None:
    browser.get(f"/jobs/{done[0].id}")
    with urlopen(f"http://{shown.metrics.address}/metrics") as answer:
        text = answer.read().decode()
    assert 'saeserve_http_requests_total{route="/jobs/{job}",status="200"}' in text
    assert done[0].id not in text


def test_features_are_sorted_filtered_and_paged(browser: Browser, done: SITE) -> None:
    path = "/models/sae@1/features"
    page = browser.get(path).text
    assert "200 of 200 features" in page
    found = browser.get(f"{path}.json?sort=max&ascending=true&dead=false&min_density=0.01").json()
    lines = found["found"]["features"]
    assert lines
    assert [each["max"] for each in lines] == sorted(each["max"] for each in lines)
    assert all(each["density"] >= 0.01 for each in lines)
    first, second = (browser.get(f"{path}.json?page={n}").json() for n in (1, 2))
    assert {each["feature"] for each in first["found"]["features"]}.isdisjoint(
        each["feature"] for each in second["found"]["features"]
    )
    assert "page=2" in browser.get(f"{path}?label=kings&dead=").text
    searched = browser.get(f"{path}?token=king").text
    assert "/models/sae@1/features/9" in searched


def test_a_feature_shows_contexts_histogram_logits_and_neighbours(
    browser: Browser, done: SITE
) -> None:
    page = browser.get("/models/sae@1/features/5").text
    assert "precision 93.00% (90.00% to 95.00%) of 412 predicted" in page
    assert 'class="a5 peak" title="activation 4"' in page
    assert "4 more contexts" in page
    assert "↵" in page
    assert "⟨U+202E⟩" in page
    assert "\u202e" not in page
    assert "/models/sae@1/features/6" in page
    drawn = browser.get("/models/sae@1/features/5/histogram.svg").text
    assert "firings of 100,000 rows" in drawn
    assert "prefers-color-scheme:dark" in drawn


def test_a_dead_feature_says_that_it_never_fired(browser: Browser, done: SITE) -> None:
    page = browser.get("/models/sae@1/features/3").text
    assert "fired on none of 100,000 rows" in page
    assert "histogram.svg" not in page


@pytest.mark.parametrize("feature", ["200", "-1", "x"])
def test_a_feature_out_of_range_is_a_clear_page(browser: Browser, done: SITE, feature: str) -> None:
    answer = browser.get(f"/models/sae@1/features/{feature}")
    assert answer.status == 400
    assert "<main" in answer.text


def test_hostile_tokens_and_labels_are_text(browser: Browser, done: SITE) -> None:
    for path in (
        "features?sort=feature&ascending=true",
        "features/4",
        f"features?token={quote(HOSTILE)}",
    ):
        page = browser.get(f"/models/sae@1/{path}").text
        assert HOSTILE not in page
        assert "&lt;img src=x" in page


def test_a_bundle_is_named_by_its_job(browser: Browser, done: SITE) -> None:
    for path in ("features", "features/5"):
        page = browser.get(f"/models/sae/{path}").text
        assert f'job={JOB}">Link to this view' in page
        assert f'class="permalink" href="/models/sae@1/{path}?' in page
        older = browser.get(f"/models/sae@1/{path}?job={OLDER}")
        assert re.search(rf"/features/\d+\?job={OLDER}", older.text)
        assert browser.get(f"/models/sae@1/{path}?job=j-odd").status == 404


def test_a_model_without_a_bundle_names_the_job(browser: Browser, done: SITE) -> None:
    for path in ("features", "features/5", "features/5/histogram.svg"):
        answer = browser.get(f"/models/bare@1/{path}", Accept="text/html")
        assert answer.status == 409
        assert "saeserve submit collect --model bare@1 --dataset DATASET --watch" in answer.text


def test_two_models_are_compared(browser: Browser, done: SITE) -> None:
    page = browser.get("/compare?a=sae&b=sae@1").text
    assert "fvu" in page
    assert browser.get("/compare.json?a=sae&b=sae@1").json()["models"][0]["reference"] == "sae@1"
    assert browser.get("/compare/density.svg?a=sae&b=sae@1").status == 200
    assert browser.get("/compare?a=sae&b=absent").status == 404


def test_features_of_two_models_are_matched(browser: Browser, done: SITE) -> None:
    page = browser.get("/compare?a=sae@1&b=sae@1").text
    assert "30.50% of the features of sae@1 have one in sae@1" in page
    assert "at least 0.7 (n = 200 live features)" in page
    assert "100 pairs" in page
    first = browser.get("/compare.json?a=sae&b=sae@1").json()["pairs"]
    assert [(pair["first"], pair["second"]) for pair in first["pairs"][:2]] == [(0, 199), (2, 197)]
    assert first["pairs"][1]["second_known"]["label"] == "kings of Israel"
    second = browser.get("/compare.json?a=sae&b=sae@1&page=2").json()["pairs"]
    assert (first["more"], second["more"], second["pairs"][0]["first"]) == (True, False, 100)
    assert "They have no width in common" in browser.get("/compare?a=sae&b=bare").text
