from itertools import product

import pytest

from seglab.reporting.write_report import training_commands


def test_a_full_grid_is_one_sweep_command():
    grid = [["dataset=fundus", f"loss={loss}", f"seed={seed}"] for loss, seed in product(("bce", "dice"), (1, 2))]
    assert training_commands(grid) == ["python -m seglab.train -m dataset=fundus loss=bce,dice seed=1,2"]


def test_the_folder_of_own_configurations_is_part_of_the_command():
    grid = [["--config-dir=mine", f"loss={loss}"] for loss in ("squared", "dice")]
    assert training_commands(grid) == ["python -m seglab.train -m --config-dir=mine loss=squared,dice"]


@pytest.mark.parametrize("odd", [["loss=dice", "seed=3"], ["loss=focal", "loss.gamma=3", "seed=1"]])
def test_what_is_no_grid_is_listed_run_by_run(odd):
    runs = [["loss=bce", "seed=1"], ["loss=bce", "seed=2"], odd]
    assert training_commands(runs)[2] == f"python -m seglab.train {' '.join(odd)}"


def test_words_that_a_shell_would_split_are_quoted():
    assert training_commands([["dataset.root=my data"]]) == ["python -m seglab.train 'dataset.root=my data'"]
