"""run.json records how a run ended in every case."""

import signal
import subprocess
import sys

import pytest

from seglab.contract import ContractError
from seglab.engine.run import JOURNAL, OF_FINISHED, Run, commit, stop_signals, versions
from seglab.engine.trained_run import open_run
from seglab.files import is_held, run_status, write_json
from tests.conftest import facts_of


def test_a_run_that_ends_well_is_finished_and_knows_its_facts(tmp_path):
    with Run(tmp_path / "a") as run:
        run.start(seed=3)
        assert facts_of(run.folder)["status"] == "running"
        run.note(metrics={"test/iou": 0.5})
    facts = facts_of(tmp_path / "a")
    assert (facts["status"], facts["seed"], facts["metrics"]) == ("finished", 3, {"test/iou": 0.5})
    assert facts["versions"]["torch"]
    assert facts["error"] is None


@pytest.mark.parametrize(
    ("error", "ended", "traced"),
    [
        (RuntimeError("boom"), "failed", True),
        (ContractError("a: b"), "failed", False),
        (ContractError("Caught in worker\nTraceback\nseglab.contract.ContractError: a: b"), "failed", False),
        (KeyboardInterrupt(), "interrupted", True),
    ],
)
def test_a_run_that_breaks_keeps_the_reason(tmp_path, error, ended, traced):
    def broken():
        with Run(tmp_path) as run:
            run.start()
            raise error

    with pytest.raises(type(error)):
        broken()
    facts = facts_of(tmp_path)
    assert facts["status"] == ended
    assert facts["error"]["message"] == (str(error).splitlines() or ["stopped by Ctrl-C"])[-1].removeprefix(
        "seglab.contract.ContractError: "
    )
    assert bool(facts["error"]["traceback"]) == traced


def test_the_origin_of_a_checkpoint_is_known_until_it_is_gone(tmp_path):
    made_from = {"data": {"fingerprint": "a"}, "initial": {"run": "b"}}
    (tmp_path / ".lock").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    with Run(tmp_path) as run:
        run.start(**dict.fromkeys(OF_FINISHED))
        run.note(**made_from)
    for _ in range(2):  # failed starts do not lose it
        with Run(tmp_path) as run:
            run.start(**dict.fromkeys(OF_FINISHED - {"data"}))
            assert facts_of(tmp_path).items() >= made_from.items()
    run.forget()
    with Run(tmp_path) as run:
        run.start()
        assert not run.facts.keys() & made_from.keys()


@pytest.mark.parametrize(
    "damage", [[1], None, 3, {"identity": 3}, {"status": "finished", "monitor": {}}, {"status": "failed", "data": 3}]
)
def test_a_run_json_that_is_not_whole_is_damaged_and_says_what_it_lacks(tmp_path, damage, caplog):
    write_json(tmp_path / "run.json", damage)
    assert Run(tmp_path).known() == {}
    assert "run.json is damaged (no " in caplog.text
    with pytest.raises(ContractError, match=r"a run\.json written by"):
        open_run(tmp_path)


def test_a_sweep_replaces_what_others_have_made_and_not_what_it_has_made_itself(tmp_path, monkeypatch):
    monkeypatch.setenv(JOURNAL, "first")
    assert not Run(tmp_path).replace()
    with Run(tmp_path) as run:
        run.start(**dict.fromkeys(OF_FINISHED))
    assert not Run(tmp_path).replace()
    monkeypatch.setenv(JOURNAL, "second")
    assert Run(tmp_path).replace()
    monkeypatch.delenv(JOURNAL)
    assert Run(tmp_path).replace()


def test_forgetting_removes_what_a_run_left_and_nothing_else(tmp_path):
    with Run(tmp_path) as run:
        run.start()
        (tmp_path / "mine.txt").write_text("keep")
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "last.ckpt").write_text("x")
        assert run.last == tmp_path / "checkpoints" / "last.ckpt"
    run.forget()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "mine.txt"]
    assert run.known() == {}


@pytest.mark.parametrize(
    "mine", ["checkpoints/mine.pt", "snapshots/a", "metrics.csv", "run.json", "checkpoints/last.ckpt"]
)
def test_a_folder_with_files_of_other_programs_is_refused(tmp_path, mine):
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("{}")
    with pytest.raises(
        ContractError, match=r"a new folder or that of a run, got one with .* of another program; choose"
    ):
        Run(tmp_path).__enter__()
    assert (tmp_path / mine).exists()


def test_temporary_files_of_other_programs_are_kept(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.mine.partial").touch()
    Run(tmp_path).clean_up()
    assert (tmp_path / "home/.mine.partial").exists()


def test_a_folder_is_held_by_one_process_and_free_when_that_process_is_gone(tmp_path):
    code = "import sys, time; from seglab.engine.run import Run\nwith Run(sys.argv[1]): print(1); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-u", "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    assert is_held(tmp_path)
    with pytest.raises(ContractError, match=r"one in which another process is training; wait for it"), Run(tmp_path):
        pass
    other.kill()
    other.communicate()
    assert not is_held(tmp_path)
    with Run(tmp_path) as run:
        assert run.folder == tmp_path


def test_a_commit_is_that_of_a_folder_and_of_its_own_files(tmp_path):
    (tmp_path / "tracked.py").touch()
    (tmp_path / "other.py").touch()
    for words in (["init", "-q"], ["add", "tracked.py"], ["commit", "-qm", "one"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    (tmp_path / "tracked.py").write_text("changed")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    assert commit(tmp_path, "tracked.py") == commit(tmp_path) == {"commit": head, "dirty": True}
    assert commit(tmp_path, "other.py") is None


def test_the_versions_of_a_run_have_seglab_among_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # outside of a repository
    assert versions()["seglab"].split(" ")[0] in ("2.0.0", "not")


def test_a_run_whose_lock_may_not_be_tried_is_believed_to_be_running(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    (tmp_path / ".lock").touch()
    assert run_status(tmp_path, {"status": "running"}) == "interrupted"
    monkeypatch.setattr("seglab.files.FileLock.acquire", refused)
    assert run_status(tmp_path, {"status": "running"}) == "running"


def test_a_closed_terminal_ends_a_command_unless_nohup_started_it():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert signal.SIGHUP in stop_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)
