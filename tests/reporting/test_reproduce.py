from itertools import product

import pytest

from seglab.reporting.reproduce import commands


def write(root, runs):
    for number, overrides in enumerate(runs):
        (root / f"{number:02d}" / ".hydra").mkdir(parents=True)
        (root / f"{number:02d}" / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in overrides))
    return sorted(root.iterdir())


def test_a_full_grid_is_one_sweep_command(tmp_path):
    grid = [["dataset=fundus", f"loss={loss}", f"seed={seed}"] for loss, seed in product(("bce", "dice"), (1, 2))]
    assert commands(write(tmp_path, grid)) == ["python -m seglab.train -m dataset=fundus loss=bce,dice seed=1,2"]


@pytest.mark.parametrize("odd", [["loss=dice", "seed=3"], ["loss=focal", "loss.gamma=3", "seed=1"]])
def test_what_is_no_grid_is_listed_run_by_run(tmp_path, odd):
    runs = [["loss=bce", "seed=1"], ["loss=bce", "seed=2"], odd]
    assert commands(write(tmp_path, runs))[2] == f"python -m seglab.train {' '.join(odd)}"


def test_words_that_a_shell_would_split_are_quoted(tmp_path):
    folders = write(tmp_path, [["'dataset.root=my data'"]])
    assert commands(folders) == ["python -m seglab.train 'dataset.root=my data'"]


def test_runs_without_a_record_are_left_out(tmp_path):
    assert commands([tmp_path]) == []
