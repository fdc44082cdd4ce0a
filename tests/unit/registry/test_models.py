from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from saeserve.errors import FailedPrecondition, FormatError, InvalidInput, NotFound
from saeserve.platform.store import ArtifactStore
from saeserve.registry.models import ModelRegistry

Export = Callable[[str], Path]


def nobody(resource: str) -> list[str]:
    return []


def test_publishes_and_resolves_every_form(models: ModelRegistry, export: Export) -> None:
    assert models.publish("sae", "j-1", 0, export("a")) == "models/sae/versions/1"
    assert models.publish("sae", "j-2", 0, export("b")) == "models/sae/versions/2"
    models.set_alias("sae", "prod", 1)
    assert models.resolve("sae").version == 2
    assert models.resolve("sae@1").aliases == ("prod",)
    assert models.resolve("sae@prod").resource == "models/sae/versions/1"
    assert models.resolve("models/sae/versions/2").job == "j-2"


def test_a_version_holds_what_was_exported(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    found = models.resolve("sae")
    assert (found.folder / "model.safetensors").read_text() == "a"
    assert found.config.d_sae == 8
    assert found.created == 1000.0
    assert found.size_bytes == sum(
        (export("a") / name).stat().st_size for name in ("config.json", "model.safetensors")
    )


def test_equal_content_has_equal_hashes(models: ModelRegistry, export: Export) -> None:
    models.publish("one", "j-1", 0, export("a"))
    models.publish("two", "j-2", 0, export("a"))
    models.publish("two", "j-3", 0, export("b"))
    assert models.resolve("one").content_sha256 == models.resolve("two@1").content_sha256
    assert models.resolve("two@1").content_sha256 != models.resolve("two@2").content_sha256


def test_publishing_again_changes_nothing(models: ModelRegistry, export: Export) -> None:
    first = models.publish("sae", "j-1", 0, export("a"))
    assert models.publish("sae", "j-1", 0, export("b")) == first
    assert models.publish("sae", "j-1", 1, export("b")) == "models/sae/versions/2"
    assert (models.resolve("sae@1").folder / "model.safetensors").read_text() == "a"


def test_publishers_that_race_take_one_version_each(models: ModelRegistry, export: Export) -> None:
    folder, made = export("a"), list[str]()
    gate = threading.Barrier(8)

    def publish(job: str) -> None:
        gate.wait()
        made.append(models.publish("sae", job, 0, folder))

    threads = [threading.Thread(target=publish, args=(f"j-{i % 4}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert sorted(set(made)) == [f"models/sae/versions/{n}" for n in (1, 2, 3, 4)]
    assert {models.resolve(resource).job for resource in made} == {"j-0", "j-1", "j-2", "j-3"}


def test_what_is_no_export_leaves_nothing(
    models: ModelRegistry, export: Export, store: ArtifactStore
) -> None:
    folder = export("a")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        models.publish("sae", "j-1", 0, folder)
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").write_text("a")
    with pytest.raises(FormatError, match="damaged"):
        models.publish("sae", "j-1", 0, folder)
    assert models.keys() == []
    assert store.names("models") == []


def test_a_crash_before_the_rename_leaves_no_version(
    models: ModelRegistry, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(staged: Path, target: Path) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("saeserve.registry.publishing.commit_folder", crash)
        with pytest.raises(KeyboardInterrupt):
            models.publish("sae", "j-1", 0, export("a"))
    with pytest.raises(NotFound):
        models.resolve("sae")
    assert models.publish("sae", "j-1", 0, export("a")) == "models/sae/versions/1"


def test_another_format_version_is_refused(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    config = models.resolve("sae").folder / "config.json"
    config.write_text(config.read_text().replace('"format_version": 2', '"format_version": 9'))
    with pytest.raises(FormatError, match="format_version 9"):
        models.resolve("sae")


def test_says_which_versions_there_are(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    with pytest.raises(NotFound, match="no version 7") as caught:
        models.resolve("sae@7", "spec.evaluate.model")
    assert caught.value.field == "spec.evaluate.model"
    assert "1" in caught.value.remedy
    with pytest.raises(NotFound, match="there is no model other"):
        models.resolve("other")


def test_lists_by_name_newest_first(models: ModelRegistry, export: Export) -> None:
    for name, job in (("b", "j-1"), ("a", "j-2"), ("b", "j-3")):
        models.publish(name, job, 0, export("a"))
    assert models.keys() == [("a", 1), ("b", 2), ("b", 1)]
    assert [found.version for found in models.list("b")] == [2, 1]


def test_an_alias_moves_and_goes(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    models.publish("sae", "j-2", 0, export("b"))
    assert models.set_alias("sae", "prod", 1).aliases == ("prod",)
    assert models.set_alias("sae", "prod", 2).version == 2
    assert models.resolve("sae@1").aliases == ()
    models.delete_alias("sae", "prod")
    for call in (lambda: models.resolve("sae@prod"), lambda: models.delete_alias("sae", "prod")):
        with pytest.raises(NotFound):
            call()


def test_an_alias_needs_its_version(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    with pytest.raises(NotFound):
        models.set_alias("sae", "prod", 2)
    with pytest.raises(InvalidInput):
        models.set_alias("sae", "../x", 1)


def test_delete_refuses_what_is_used_and_names_it(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    models.set_alias("sae", "prod", 1)
    with pytest.raises(FailedPrecondition, match="alias prod, job j-9"):
        models.delete_version("sae@1", lambda resource: ["j-9"])
    assert models.resolve("sae@prod").version == 1
    models.delete_version("sae@1", lambda resource: ["j-9"], force=True)
    for reference in ("sae", "sae@1", "sae@prod"):
        with pytest.raises(NotFound):
            models.resolve(reference)


def test_a_number_is_never_used_twice(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    models.delete_version("sae@1", nobody)
    assert models.publish("sae", "j-2", 0, export("a")) == "models/sae/versions/2"
    assert models.publish("sae", "j-1", 0, export("a")) == "models/sae/versions/1"
    assert models.keys() == [("sae", 2)]


def test_delete_needs_a_version(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    for reference in ("sae", "sae@prod"):
        with pytest.raises(InvalidInput):
            models.delete_version(reference, nobody)
    with pytest.raises(NotFound):
        models.delete_version("sae@2", nobody)


def test_a_damaged_version_can_be_deleted(models: ModelRegistry, export: Export) -> None:
    models.publish("sae", "j-1", 0, export("a"))
    (models.resolve("sae").folder / "config.json").write_text("{")
    models.delete_version("sae@1", nobody)
    assert models.list() == []


def test_a_model_that_a_job_is_making_says_so(
    store: ArtifactStore, models: ModelRegistry, export: Export
) -> None:
    store.put_if_absent("jobs/j-1/job.json", b"{}")
    models.announce("sae", "j-1")
    with pytest.raises(FailedPrecondition, match="still being made by job j-1") as caught:
        models.resolve("sae")
    assert caught.value.code == "MODEL_IN_TRAINING"
    assert models.list() == []
    store.put_if_absent("jobs/j-1/result.json", b"{}")
    with pytest.raises(NotFound, match="there is no model sae"):
        models.locate("sae")
    models.announce("sae", "j-2")
    models.publish("sae", "j-2", 0, export("a"))
    assert models.locate("sae") == "models/sae/versions/1"
