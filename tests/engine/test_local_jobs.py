"""Several concurrent processes, each with one job, and the reports when they end."""

import contextlib
import errno
import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from seglab.contract import ContractError
from seglab.engine import sweep
from seglab.engine.cli import _exit_code_of_signals
from seglab.engine.local_jobs import Progress, run_in_processes
from seglab.engine.run import JOURNAL, OF_FINISHED, Run, stop_signals
from seglab.engine.sweep import (
    SweepStopped,
    _mark_crashed,
    announce,
    died_together,
    duration,
    record_death,
    refuse,
    register,
    registered_runs,
    summary,
)
from seglab.files import write_json
from seglab.train import show_plan

FINISHED = dict.fromkeys(OF_FINISHED) | {"status": "finished", "seconds": 60.0}
FINISHED |= {"monitor": {"name": "val/iou", "value": 0.5}}


@pytest.fixture(autouse=True)
def _all_lines(caplog):
    caplog.set_level("INFO")


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """The journal of a sweep that this process works for."""
    monkeypatch.setenv(JOURNAL, str(tmp_path / "journal"))
    return tmp_path / "journal"


def left(folder, **facts):
    """Write the run.json of a run; return its folder."""
    write_json(folder / "run.json", facts)
    return folder


def test_values_come_in_order_and_a_process_that_dies_leaves_the_others_at_work():
    def work(k):
        if k == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return 10.0 * k

    codes = {}
    values = run_in_processes(work, 4, 2, codes.__setitem__)
    assert math.isnan(values[1])
    assert values[:1] + values[2:] == [0.0, 20.0, 30.0]
    assert codes == {0: 0, 1: -9, 2: 0, 3: 0}


def test_an_error_in_the_parent_ends_every_process(tmp_path):
    def work(k):
        if k == 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an earlier test may have changed it
            signal.pause()
        (tmp_path / f"{k}-{os.getpid()}").touch()
        return 0.0

    def ended(k, code):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_processes(work, 3, 2, ended)
    assert {path.name[0] for path in tmp_path.iterdir()} <= {"0"}


@pytest.fixture
def in_command():
    """Install the signal handlers of a command, which raise."""
    before = {number: signal.getsignal(number) for number in stop_signals()}
    with _exit_code_of_signals():
        yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_twice_in_a_second_is_one_and_a_later_one_is_heard(in_command, number, monkeypatch):
    for now in (0.0, 2.0):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)


def test_runs_stop_as_by_sigterm_where_the_process_of_their_sweep_is_killed(in_command, tmp_path):
    def work(k):
        (tmp_path / f"at work {k}").touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt as stopped:
            (tmp_path / str(stopped.args[0])).touch()
            raise
        return 0.0

    parent = multiprocessing.get_context("fork").Process(target=run_in_processes, args=(work, 1, 2, lambda *_: None))
    parent.start()
    while not (tmp_path / "at work 0").exists() and parent.is_alive():
        time.sleep(0.01)
    parent.kill()
    parent.join()
    for _ in range(500):
        if found := list(tmp_path.glob(str(signal.SIGTERM))):
            break
        time.sleep(0.01)
    assert found


def test_a_signal_during_a_fork_is_not_lost(in_command):
    kicks = [lambda: os.kill(os.getpid(), signal.SIGTERM)]
    os.register_at_fork(after_in_parent=lambda: kicks and kicks.pop()())  # where Python ignores errors of handlers
    with pytest.raises(KeyboardInterrupt):
        run_in_processes(lambda k: time.sleep(0.2) or 0.0, 2, 2, lambda k, code: None)


def test_a_process_that_is_stopped_outside_of_its_run_ends_without_a_traceback(in_command, capfd):
    codes = {}
    run_in_processes(lambda k: os.kill(os.getpid(), signal.SIGTERM) or 0.0, 1, 2, codes.__setitem__)
    assert codes == {0: 143}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (-9, " with signal 9 (SIGKILL)"),
        (137, " with signal 9 (SIGKILL)"),
        (139, " with signal 11 (SIGSEGV)"),
        (0, ", or could not write how the run ended"),
    ],
)
def test_the_cause_of_a_death_is_the_signal_in_the_exit_code(code, cause, tmp_path):
    run = Run(left(tmp_path / "a"))
    assert record_death(run, code)
    assert run.known()["error"]["message"] == f"the process died{cause}"


@pytest.mark.parametrize(
    ("names", "stopped", "status"), [("a", False, "failed"), ("a", True, "interrupted"), ("ab", False, "interrupted")]
)
def test_any_of_the_runs_that_died_together_may_be_at_fault(names, stopped, status, tmp_path):
    journal = tmp_path / "journal"
    for name in names:
        left(tmp_path / name, status="running", sweep=str(journal))
    journal.write_text("".join(f"{tmp_path / name}\n" for name in names))
    assert _mark_crashed(journal, 137, stopped) == list(names)
    assert {Run(tmp_path / name).known()["status"] for name in names} == {status}
    assert [path.name for path in died_together(journal)] == (list(names) if len(names) > 1 else [])


def test_two_sweeps_of_one_process_number_that_begin_together_have_journals_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda words: "20261128-120000")
    with sweep._journal(temporary=False) as first, sweep._journal(temporary=False) as second:
        assert first != second


def test_a_refusal_that_cannot_be_written_as_on_a_full_disk_raises_nothing_more(journal):
    journal.with_suffix(".refused").mkdir()
    refuse(journal.parent / "a", OSError(errno.ENOSPC, "No space left on device", "a/run.json"), "a/run.json: full")


def test_progress_tells_what_ended_and_records_a_death(tmp_path, caplog):
    progress = Progress([tmp_path / name for name in "abc"], at_once=2)
    left(tmp_path / "a", **FINISHED)
    left(tmp_path / "b", status="running")
    progress.ended(0)
    progress.ended(1, -9)
    first, second = caplog.messages
    assert first.startswith("run 1 of 3: ")
    assert first.endswith("a finished; val/iou 0.5000 in 60 s; about 60 s left")
    assert "b failed; the process died with signal 9 (SIGKILL)" in second
    assert Run(tmp_path / "b").known()["status"] == "failed"


def test_a_sweep_that_is_killed_before_its_first_run_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "_run_child", lambda *_: 128 + signal.SIGKILL)
    assert sweep.supervise("seglab.train") == 137
    assert capsys.readouterr().err == "sweep: the process died with signal 9 (SIGKILL) before its first run\n"


def test_a_run_that_could_not_record_its_end_on_a_full_disk_is_interrupted(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folders = [left(tmp_path / name, status="running") for name in "ab"]
    monkeypatch.setattr(sweep, "write_json", full)
    Progress(folders, at_once=1).ended(0)
    [said] = caplog.messages
    assert said.endswith("a interrupted")


def test_the_time_left_counts_what_runs_at_once():
    progress = Progress([Path(name) for name in "abcd"], at_once=2)
    progress.seconds = [60.0]
    progress.started = {1: time.time() - 60, 2: time.time()}  # a has ended, b is about to end
    assert progress.time_left(3) == pytest.approx(60, abs=1)
    progress.started = {3: time.time() - 45}
    assert progress.time_left(1) == pytest.approx(15, abs=1)
    runs = [{"folder": name, "name": name, "status": "waiting"} for name in "abc"]
    runs.append({"folder": "d", "name": "d", "status": "finished", "seconds": 60.0})
    assert "left: 3, about 2 min, 2 at once" in summary(runs, 1.0, plan=False, at_once=2)


def test_the_message_of_a_failed_run_is_not_repeated(tmp_path, caplog):
    def fails(error):
        with Run(tmp_path) as run:
            run.start()
            raise error

    for error in (ContractError("logger: expected a response from wandb"), MemoryError("no room")):
        with contextlib.suppress(type(error)):
            fails(error)
        Progress([tmp_path], at_once=1).ended(0)
    first, second = caplog.messages
    assert first.endswith("failed")
    assert second.endswith("failed; no room")


def test_a_sweep_that_stops_at_its_first_failure_stops_at_a_refused_run_too(tmp_path, journal):
    register(tmp_path / "a", on_fail="stop")
    refuse(tmp_path / "a", ContractError(), "optimizer.lr: expected a number above 0, got -1")
    with pytest.raises(
        SweepStopped, match="expected no failed run before this one, got a; set on_fail=continue"
    ) as stop:
        register(tmp_path / "b", on_fail="stop")
    refuse(tmp_path / "b", stop.value, str(stop.value))  # b waits for the next start
    register(tmp_path / "c")
    with Run(tmp_path / "a"):  # as if a was refused because another sweep is training it
        register(tmp_path / "d", on_fail="stop")
    assert [run.get("status") for run in registered_runs(journal)] == ["refused", None, None]


def test_a_run_that_was_finished_before_is_not_announced_as_trained(tmp_path, journal, caplog):
    folder = left(tmp_path / "bce_s1", **FINISHED, sweep="another")
    announce([folder])
    Progress([folder], at_once=1).ended(0)
    assert caplog.messages[0].endswith("bce_s1 was already finished; val/iou 0.5000")
    assert "1 runs: 1 already finished;" in summary(registered_runs(journal), 1.0, plan=False)
    assert "1 runs: 1 finished;" in summary(registered_runs(journal), 1.0, plan=True)
    Progress([folder], at_once=1).ended(0, -9)  # killed during the check of whether it can be trained again
    assert caplog.messages[1].endswith("bce_s1 refused")


def test_a_plan_says_how_long_the_rest_takes_by_any_finished_run_of_the_study_and_what_trains_it(tmp_path):
    left(tmp_path / "bce_s1", **FINISHED | {"seconds": 300, "identity": "a"})
    for name, facts in {"foreign": [], "other": {"identity": 3}}.items():
        write_json(tmp_path / name / "run.json", facts)
    runs = [{"folder": str(tmp_path / name), "name": name} for name in ("iou_s1", "iou_s2", "iou_s3")]
    said = summary(runs, 1.0, plan=True)
    assert "3 runs: 3 waiting" in said
    estimate = "left: 3, about 15 min (estimated from finished runs of the study: 1)"
    assert f"{estimate}; run the same command without plan=true to train them\n" in said


def test_a_run_whose_process_died_is_interrupted_and_not_running(tmp_path, capsys, configure):
    with Run(tmp_path / "a") as run:
        run.start()
        dead = run.known()
        show_plan(configure("train"), tmp_path / "a")
    left(tmp_path / "a", **dead)
    show_plan(configure("train"), tmp_path / "a")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["running", "interrupted"]
    assert "1 runs: 1 interrupted" in summary([dead | {"folder": str(tmp_path / "a"), "name": "a"}], 1.0, plan=True)


def test_a_run_that_another_process_trains_is_not_recorded_as_dead(tmp_path):
    with Run(tmp_path / "a") as run:
        run.start()
        assert not record_death(Run(tmp_path / "a"), -9)
        Progress([tmp_path / "a"], at_once=1).ended(0, 1)
        assert run.known()["status"] == "running"


def test_the_report_of_a_study_with_a_space_in_its_name_is_a_command_to_copy(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = summary([{"folder": f"outputs/{study}/bce_s1", "name": "bce_s1"} for study in ("my study", "a")], 1.0, True)
    reports = [f"  report: python -m seglab.report {study}" for study in ("outputs/a", "'outputs/my study'")]
    assert said.splitlines()[-2:] == reports


def test_a_duration_is_read_in_its_own_unit():
    assert [duration(seconds) for seconds in (40, 720, 12600)] == ["40 s", "12 min", "3.5 h"]


def test_a_job_that_was_refused_does_not_pass_for_the_run_that_its_folder_holds(tmp_path, journal, caplog):
    folder = left(tmp_path / "bce_s1", **FINISHED, sweep="another")
    announce([folder])
    refuse(
        folder, ContractError(), "run bce_s1: expected the data that it was trained on, got different or changed data"
    )
    Progress([folder], at_once=1).ended(0)
    assert caplog.messages[0].endswith("bce_s1 refused")
    said = summary(registered_runs(journal), 1.0, plan=False)
    assert "1 runs: 1 refused" in said
    assert "  refused: bce_s1: run bce_s1: expected the data" in said
    assert "left: nothing" in summary(registered_runs(journal), 1.0, plan=True)
    other = tmp_path / "iou_s1"  # without a folder yet
    announce([other])
    refuse(other, ContractError(), "examples: expected a whole number of at least 1, got 0")
    assert "2 runs: 2 refused" in summary(registered_runs(journal), 1.0, plan=True)
    left(folder, **FINISHED, sweep=str(journal))  # the sweep tried again
    assert "1 finished" in summary(registered_runs(journal), 1.0, plan=False)
