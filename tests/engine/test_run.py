"""run.json says how a run ended, whatever happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seglab.contract import ContractError
from seglab.engine.run import Run, write_whole


def status(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_run_that_ends_well_is_finished_and_knows_its_facts(tmp_path: Path) -> None:
    with Run(tmp_path / "a", seed=3) as run:
        assert status(run.folder)["status"] == "running"
        run.note(metrics={"test/iou": 0.5})
    facts = status(tmp_path / "a")
    assert (facts["status"], facts["seed"], facts["metrics"]) == ("finished", 3, {"test/iou": 0.5})
    assert facts["versions"]["torch"]
    assert facts["error"] is None


@pytest.mark.parametrize(
    ("error", "ended", "traced"),
    [
        (RuntimeError("boom"), "failed", True),
        (ContractError("a: b"), "failed", False),
        (KeyboardInterrupt(), "interrupted", True),
    ],
)
def test_a_run_that_breaks_keeps_the_reason(tmp_path: Path, error: BaseException, ended: str, traced: bool) -> None:
    with pytest.raises(type(error)), Run(tmp_path):
        raise error
    facts = status(tmp_path)
    assert facts["status"] == ended
    assert facts["error"]["message"] == str(error)
    assert bool(facts["error"]["traceback"]) == traced


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "facts.json"
    write_whole(file, "old")

    def full_disk(self: Path, *_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="space"):
        write_whole(file, "new")
    assert file.read_text() == "old"


def test_forgetting_removes_what_a_run_left_and_nothing_else(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        (tmp_path / "mine.txt").write_text("keep")
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "last.ckpt").write_text("x")
        assert run.last == tmp_path / "checkpoints" / "last.ckpt"
    run.forget()
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    assert Run.before(tmp_path) == {}
