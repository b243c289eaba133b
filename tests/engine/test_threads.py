"""The number of threads follows from the work of a step, counted by hand for a convolution."""

import json

import pytest

from seglab.contract import ContractError
from seglab.engine import threads
from seglab.engine.config import to_container

CONV = '{"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 1, "kernel_size": 3, "padding": 1}'
DISC = '{"_target_": "seglab.data.datasets.synthetic.Synthetic", "size": 64}'


@pytest.fixture(autouse=True)
def _no_limit_of_cpu_time(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "CGROUP", tmp_path)


def test_the_work_of_a_step_is_three_forward_passes_of_multiplications_and_additions():
    assert threads.step_flop(CONV, DISC, 4) == 3 * 4 * 2 * 27 * 64 * 64
    assert threads.step_flop('{"_target_": "torch.nn.Tanhh"}', DISC, 4) == float("inf")  # takes all cores


def test_the_work_of_our_networks_is_known(configure):
    for model in ("unet", "fcn"):
        node = json.dumps(to_container(configure("train", f"model={model}").model))
        assert 0 < threads.step_flop(node, DISC, 4) < 1e12


def test_a_thread_is_added_for_each_tenth_of_a_teraflop_up_to_the_cores(configure, monkeypatch):
    cfg = configure("train")
    monkeypatch.setattr(threads, "cores", lambda: 4)
    for flop, expected in ((1e10, 1), (1.5e11, 2), (3.2e11, 4), (1e15, 4), (float("inf"), 4)):
        monkeypatch.setattr(threads, "step_flop", lambda *_, flop=flop: flop)
        assert threads.run_threads(cfg) == expected
    cfg.threads = 7
    assert threads.run_threads(cfg) == 7


@pytest.mark.parametrize(
    ("given", "expected"), [("3", 3), ("99", 8), ("4,2", 4), (" 2 ", 2), ("", 8), ("0", 8), ("-1", 8), ("many", 8)]
)
def test_the_cores_are_those_that_openmp_would_take(monkeypatch, given, expected):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads.sys, "platform", "linux")
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads.cores() == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_the_cores_of_a_container_are_its_limit_of_cpu_time(configure, monkeypatch, tmp_path, files, expected):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads.sys, "platform", "linux")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.cores() == threads.runs_at_once("auto", [configure("train", "trainer=cpu", "threads=1")] * 30)
    assert threads.cores() == expected


def test_images_are_scored_in_processes_beside_a_gpu_alone(configure, monkeypatch):
    cfg = configure("train")
    for gpu, cores, expected in ((False, 8, 0), (True, 1, 0), (True, 3, 2), (True, 64, 4)):
        monkeypatch.setattr(threads, "cores", lambda cores=cores: cores)
        monkeypatch.setattr(threads, "uses_gpu", lambda _, gpu=gpu: gpu)
        assert threads.evaluation_processes(cfg) == expected
    cfg.evaluation_processes = 7
    assert threads.evaluation_processes(cfg) == 7


def test_a_machine_makes_as_many_runs_at_once_as_their_threads_fit(configure, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)))
    configs = [configure("train", "trainer=cpu", f"threads={count}") for count in (1, 2)]
    assert threads.runs_at_once("auto", configs[:1] * 3) == 3
    assert threads.runs_at_once("auto", configs[:1] * 30) == 8
    assert threads.runs_at_once("auto", configs * 30) == 4
    assert threads.runs_at_once(5, configs) == 5
    with pytest.raises(ContractError, match="n_jobs"):
        threads.runs_at_once(0, configs)
