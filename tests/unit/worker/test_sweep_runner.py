"""Train jobs that hold a sweep: real trainer, export, registry and checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.workshop import BATCH, STEPS, Workshop

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Output, Result
from saeserve.jobs.states import JobState
from saeserve.registry.models import ModelRegistry
from saeserve.worker.order import ExitCode

DIVERGES = 1e30
LRS = {"sweep": {"lr": [1e-3, DIVERGES, 3e-3]}}


@pytest.fixture(autouse=True)
def data(shop: Workshop) -> None:
    shop.planted()


def weights(shop: Workshop, reference: str) -> bytes:
    return (shop.model(reference).folder / "model.safetensors").read_bytes()


def outputs(shop: Workshop, job: str) -> tuple[Output, ...]:
    result = shop.bench.ledger.result(job)
    assert result is not None
    assert result.state is JobState.SUCCEEDED
    return result.outputs


def test_every_member_is_published_as_if_trained_alone(shop: Workshop) -> None:
    grid = {"k": [2, 4], "d_sae": [32, 48]}
    assert shop.train("j-1", topk={}, d_sae=32, sweep=grid) is ExitCode.FINISHED
    made = outputs(shop, "j-1")
    names = [f"m-k{k}-d{d}" for k in (2, 4) for d in (32, 48)]
    assert [output.model for output in made] == [f"models/{n}/versions/1" for n in names]
    for number, name in enumerate(names):
        version = shop.model(name)
        spec: dict[str, Any] = version.config.lineage.spec
        assert "sweep" not in spec
        assert shop.train(f"j-alone-{number}", **spec) is ExitCode.FINISHED
        again = shop.model(f"{name}@2")
        assert weights(shop, name) == weights(shop, f"{name}@2")
        assert again.config.lineage.spec == spec
        assert again.config.lineage.metrics == version.config.lineage.metrics
        assert made[number].metrics["fvu"] == version.config.lineage.metrics["fvu"]


def test_seeds_share_the_order_of_rows_with_a_job_of_that_data_seed(shop: Workshop) -> None:
    shop.train("j-1", sweep={"seed": [1, 2]})
    shop.train("j-2", seed=2, data_seed=1, model="alone")
    shop.train("j-3", seed=2, model="another")
    assert weights(shop, "m-seed2") == weights(shop, "alone") != weights(shop, "another")


def test_one_that_diverges_is_an_error_of_its_own_and_the_job_succeeds(shop: Workshop) -> None:
    assert shop.train("j-1", **LRS) is ExitCode.FINISHED
    first, lost, last = outputs(shop, "j-1")
    assert (first.model, last.model) == (
        "models/m-lr0.001/versions/1",
        "models/m-lr0.003/versions/1",
    )
    assert (lost.model, lost.member) == ("", "m-lr1e30")
    assert lost.failure is not None
    assert (lost.failure.code, lost.failure.retryable) == ("DIVERGED_NAN", False)
    assert lost.failure.step == 5
    assert lost.failure.remedy
    assert not shop.models.keys("m-lr1e30")
    [warning] = [e for e in shop.events("j-1") if e.data.get("code") == "MEMBER_DIVERGED"]
    assert (warning.type, warning.step, warning.data["member"]) == ("warning", 5, "m-lr1e30")
    assert lost.failure.message in warning.data["message"]


def test_a_job_whose_members_all_diverge_fails_with_what_became_of_each(shop: Workshop) -> None:
    assert shop.train("j-1", sweep={"lr": [DIVERGES, 2e30]}) is ExitCode.FAILED
    failure = shop.failure("j-1")
    assert (failure.code, failure.retryable) == ("DIVERGED_NAN", False)
    assert "m-lr1e30" in failure.message
    assert "m-lr2e30" in failure.message


def test_metrics_name_their_member_and_its_number(shop: Workshop) -> None:
    shop.train("j-1", topk={}, sweep={"k": [2, 4]})
    told = [e for e in shop.events("j-1") if e.type == "metrics"]
    assert [(e.step, e.data["member"], e.data["member_number"]) for e in told] == [
        (step, name, number)
        for step in range(5, STEPS + 1, 5)
        for number, name in enumerate(("m-k2", "m-k4"))
    ]
    assert all(e.data["total_steps"] == STEPS for e in told)
    assert all(e.data["units_per_second"] > 0 for e in told)
    assert told[-1].data["metrics"]["tokens"] == STEPS * BATCH
    assert [e.step for e in shop.events("j-1") if e.type == "checkpoint"] == [10, 20, 30, 40]


def test_a_stopped_sweep_is_resumed_to_the_same_bits(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also its member that had diverged stays out, and is still an error in the result."""
    shop.train("j-1", model="undisturbed", **LRS)
    with monkeypatch.context() as patch:
        shop.stop_at(15, patch)
        assert shop.train("j-2", model="disturbed", **LRS) is ExitCode.STOPPED
    shop.stop.clear()
    assert shop.run("j-2") is ExitCode.FINISHED
    events = shop.events("j-2", 2)
    assert events[0].data == {"resume_step": 15}
    assert all(e.data.get("member") != "disturbed-lr1e30" for e in events)
    assert [output.member for output in outputs(shop, "j-2")] == ["", "disturbed-lr1e30", ""]
    for lr in ("lr0.001", "lr0.003"):
        assert weights(shop, f"disturbed-{lr}") == weights(shop, f"undisturbed-{lr}")


def test_an_attempt_that_died_among_its_outputs_publishes_each_once(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = ModelRegistry.publish
    published: list[str] = []

    def until_the_second(self: ModelRegistry, name: str, *rest: Any) -> str:  # noqa: ANN401 - passed on
        if len(published) == 1:
            published.append("")
            raise OSError("the power went")
        published.append(name)
        return publish(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "publish", until_the_second)
        assert shop.train("j-1", topk={}, sweep={"k": [2, 4]}) is ExitCode.FAILED

    def die(self: Ledger, result: Result) -> Result:
        raise OSError("the power went again")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", die)
        assert shop.run("j-1") is ExitCode.FAILED
    assert shop.run("j-1") is ExitCode.FINISHED
    assert shop.models.keys() == [("m-k2", 1), ("m-k4", 1)]
    assert len(outputs(shop, "j-1")) == 2


def test_members_continue_from_one_model(shop: Workshop) -> None:
    shop.train("j-1", model="start")
    spec: dict[str, Any] = {"init_from": "start@1", "tokens": 20 * BATCH}
    assert shop.train("j-2", **spec, sweep={"lr": [1e-3, 3e-3]}) is ExitCode.FINISHED
    shop.train("j-3", **spec, optimizer={"lr": 3e-3}, model="alone")
    assert weights(shop, "m-lr0.003") == weights(shop, "alone")
    assert shop.train("j-4", **spec, sweep={"d_sae": [32, 48]}) is ExitCode.FAILED
    assert "48" in shop.failure("j-4").message


def test_a_target_l0_is_judged_for_every_member(shop: Workshop) -> None:
    fields: dict[str, Any] = {"topk": None, "batchtopk": {}}
    assert shop.train("j-1", **fields, sweep={"target_l0": [3, 5]}) is ExitCode.FINISHED
    assert all("l0_miss" in output.metrics for output in outputs(shop, "j-1"))


def test_warnings_name_the_member_that_they_are_about(shop: Workshop) -> None:
    """One that all members share is of the job."""
    shop.train("j-1", sweep={"lr": [1e-3, 100.0]})
    good, broken = outputs(shop, "j-1")
    closing = [w for w in broken.warnings if w.code == "FVU_WORSE_THAN_MEAN"]
    assert [w.member for w in closing] == ["m-lr100"]
    assert "FVU_WORSE_THAN_MEAN" not in {w.code for w in good.warnings}
    told = {
        (e.data["code"], e.data.get("member")) for e in shop.events("j-1") if e.type == "warning"
    }
    assert ("FVU_WORSE_THAN_MEAN", "m-lr100") in told
    assert ("TOO_FEW_STEPS", None) in told or ("TOO_FEW_STEPS", "m-lr0.001") in told
