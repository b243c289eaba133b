"""A wrong override raises an error of one sentence with the nearest existing names."""

import errno
import os
import re
import sys
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException

from seglab import train
from seglab.contract import ContractError
from seglab.engine import cli
from seglab.engine.cli import _in_hydra_form, _not_utf8
from seglab.engine.config import CONF, check_root
from seglab.engine.override_errors import explain, first_line, refuse_unread, wrong_choice
from tests.conftest import compose, python

WRONG = {
    "epochs=5": r"epochs: expected an option of this command, such as .*trainer\.max_epochs.*, got epochs",
    "lr=0.1 epochs=5 trainer.devises=2 hydra.x=1": r"lr: expected an option of this command, such as .*optimizer\.lr",
    "lr=0.1": r"lr: expected an option of this command, such as .*optimizer\.lr.*, got lr",
    "los=focal": r"los: expected an option of this command, such as loss or .*, got los",
    "loss=focal loss.gama=2": r"loss\.gama: expected an option such as gamma, got gama",
    "loss=focl": "loss: expected a choice such as focal.*, got focl",
    "dataset=nothing": "dataset: expected one of coco, ddsm, folder, fundus, mias, .*, got nothing",
    "trainer.max_epoch=3": r"trainer\.max_epoch: expected an option such as max_epochs, got max_epoch",
    "seed": "seed: expected KEY=VALUE, got a word that cannot be parsed; .* special characters 'KEY=\"TEXT\"'$",
    "loss=external loss.function.p=1": r"got p; \+loss\.function\.p=\.\.\. passes a value to its target",
    "loss=bce,dice": "loss=bce,dice: expected one value, got several; add -m",
    "+loss=bce": "loss: expected one choice, got two",
    "tune=[a,b]": r"tune: expected a value of the option's type \(list or mapping\), got \[a,b\]; --cfg job shows",
    "+seed=3": r"seed: expected seed=VALUE, since the option exists, got \+seed; remove the \+$",
    "augment=chain augment.steps={e:{p:1}}": r"got e; add one with \+\+augment\.steps\.e=\.\.\.$",
    "dataset=folder dataset.train=8 dataset.val=4": "dataset.train: expected one of .*test_images, .*, got train",
}


def sentence_of(tried, words=None):
    """Return the error message for overrides that cannot be composed, in a command with these or other words."""
    with pytest.raises(Exception) as fault:  # noqa: PT011
        compose("train", *tried)
    return explain(fault.value, "train", str(CONF), words or tried)


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_override_names_what_is_near(words):
    sentence = sentence_of(words.split())
    assert re.search(WRONG[words], sentence), sentence
    assert "\n" not in sentence


def test_an_option_that_not_all_losses_of_a_sweep_have_is_not_called_unknown():
    said = "loss.gamma: expected an option of each loss of the sweep, got one that some of them lack"
    assert sentence_of(["loss=dice", "loss.gamma=1"], ["loss=focal,dice", "loss.gamma=1,2"]) == said


def test_an_unknown_key_in_a_sweep_names_its_siblings():
    sentence = sentence_of(["model.width=8"], ["model.width=8", "loss=bce,dice", "seed=1,2"])
    assert sentence.startswith("model.width: expected one of base, "), sentence


def test_an_unknown_key_beside_a_choice_of_the_users_names_its_siblings(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/mine.yaml").write_text("_target_: seglab.losses.Dice\nsmooth: 0.0\n")
    words = ["loss=mine", "loss.smoth=1", f"hydra.searchpath=[file://{tmp_path}]"]
    assert sentence_of(words) == "loss.smoth: expected an option such as smooth, got smoth"


def test_an_interpolation_that_leads_nowhere_names_the_option_that_holds_it(configure):
    with pytest.raises(OmegaConfBaseException) as fault:
        _ = configure("train", "+model.width=${dataset.chanels}").model.width
    assert first_line(fault.value) == "model.width: Interpolation key 'dataset.chanels' not found"


def test_options_may_stand_between_overrides(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = ["seed=1,2", "-m", "~logger", "--config-dir", "mine", "dataset.root=~/images"]
    kept = ["loss='\u00e4'", "model=a,\u00e4"]
    assert _in_hydra_form(["dataset.root=d\u00e4 t\u00e9", *kept], "train") == ['dataset.root="d\u00e4 t\u00e9"', *kept]
    right = "-m --config-dir mine seed=1,2 ~logger dataset.root=/home/ada/images"
    assert _in_hydra_form(words, "train") == right.split()


def test_a_user_without_a_home_folder_gets_no_traceback(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 3)  # without an account, as in a container
    assert _in_hydra_form(["dataset.root=~/images"], "train") == ["dataset.root=~/images"]
    with pytest.raises(ContractError, match="existing folder, got ~/images"):
        check_root(compose("train", "dataset=folder", "dataset.root='~/images'"))


def test_options_of_the_runs_own_data_are_changed_by_their_plain_names():
    words = ["run=outputs/a", "dataset.root=b", "+dataset.size=64", "device=cpu"]
    assert _in_hydra_form(words, "evaluate") == ["run=outputs/a", "++dataset.root=b", "++dataset.size=64", "device=cpu"]
    assert compose("evaluate", *_in_hydra_form(words, "evaluate")).dataset == {"root": "b", "size": 64}
    other = compose("evaluate", *_in_hydra_form(["dataset=mias", *words], "evaluate")).dataset
    assert (other.root, other.size, "_target_" in other) == ("b", 64, True)


def test_a_group_that_a_command_does_not_have_is_not_suggested(configure):
    with pytest.raises(ConfigCompositionException) as fault:
        configure("prepare", "augment=light")
    said = explain(fault.value, "prepare", str(CONF), ["augment=light"])
    assert re.match(r"augment: expected an option of this command, such as (?!augment)", said), said
    assert "or augment" not in said
    with pytest.raises(ContractError, match="augment: expected an option of this command"):
        refuse_unread(configure("prepare", "+augment=light"), ["+augment=light"], "prepare", str(CONF))


def test_the_last_value_of_a_repeated_option_holds():
    words = ["loss=bce", "dataset.classes={a: 0}", "seed=1", "loss=dice", "++dataset.classes={a: 0, b: 1}"]
    assert _in_hydra_form(words, "train") == ["loss=dice", "++dataset.classes={a: 0, b: 1}", "seed=1"]


@pytest.mark.filterwarnings("ignore:(?s).*validated against ConfigStore schema")  # as in cli.py
def test_words_that_need_each_other_are_not_blamed_for_the_error_of_a_launcher():
    words = ["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0"]
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="an optional launcher")
    assert explain(RuntimeError("no cluster"), "train", str(CONF), words) == "no cluster"


def test_a_word_that_would_be_merged_with_another_choice_is_refused():
    said = "loss._target_: expected a choice of loss, got only a class; write loss=external loss.function._target_=a.L"
    assert wrong_choice("loss._target_=a.L", CONF) == said
    said = "loss: expected one choice, got [bce, dice]; to run each of them, use -m loss=bce,dice"
    assert wrong_choice("loss=[bce, dice]", CONF) == said
    said = "scheduler: expected one of cosine, none, plateau, poly, got []"
    assert wrong_choice("scheduler=[]", CONF) == said
    for word in (
        "loss=[bce]",
        "callbacks=[ema,early_stopping]",
        "losses=[bce,dice]",
        "dataset.bands=[]",
        "loss=bce,dice",
        "-m",
    ):
        assert wrong_choice(word, CONF) is None


def test_an_option_cannot_be_deleted_but_one_of_a_class_can():
    said = "expected a value for every option, got its deletion; leave it out, or use"
    for word, key in (("~tune", "tune"), ("~loss=bce", "loss"), ("~trainer.devices", "trainer.devices")):
        assert wrong_choice(word, CONF) == f"{word}: {said} {key}=VALUE"
    assert wrong_choice("~model._target_", CONF) == f"~model._target_: {said} model._target_=VALUE"
    assert [wrong_choice(word, CONF) for word in ("~optimizer.fused", "~callbacks.ema", "~hydra.job.name")] == [
        None
    ] * 3


def test_what_nothing_reads_is_refused_on_the_command_line_and_reported_in_a_file(configure, caplog):
    wrong = {
        "+tune.foo=1": "tune.foo: expected one of epochs, lr, seed, got foo",
        "+loss@second=dice": "second: expected an option of this command",
        "+experiment.loss.gamma=3": "experiment: expected a file that begins with `# @package _global_`, got",
    }
    for word, said in wrong.items():
        with pytest.raises(ContractError, match=re.escape(said)):
            refuse_unread(configure("train", word), [word], "train", str(CONF))
    words = ["+rate=0.1", "optimizer.lr=${rate}"]
    refuse_unread(configure("train", *words), words, "train", str(CONF))
    assert not caplog.messages
    refuse_unread(configure("train", "+epochs=5"), [], "train", str(CONF))  # as from a file
    [said] = caplog.messages
    assert re.fullmatch("epochs: expected an option .* such as tune.epochs .*, got epochs, which has no effect", said)


def test_other_kinds_of_logging_and_incomplete_choices_are_one_sentence(configure):
    said = explain(ValueError("Unable to configure handler 'file'"), "train", str(CONF), [])
    assert said == "hydra/job_logging: expected default or none, which train.yaml extends, got another choice"
    with pytest.raises(ConfigAttributeError) as fault:
        OmegaConf.select(configure("train", "~trainer.num_nodes"), "trainer").num_nodes += 1
    assert first_line(fault.value) == "trainer.num_nodes: expected a value, got none; set trainer.num_nodes=..."


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+epochs=5", "epochs: expected an option of this command, such as tune.epochs or trainer.max_epochs"),
        ("-m hydra/launcher=slurm seed=1,2", "hydra/launcher: expected a SLURM cluster, got none on this machine"),
        ("optimizer.lr=-1", "optimizer.lr: expected a number above 0 and at most 1000000, got -1\n"),
    ],
)
def test_the_sentence_stands_alone_on_the_terminal(word, said, tmp_path):
    without_slurm = str(Path(sys.executable).parent)
    done = python("-m", "seglab.train", *word.split(), cwd=tmp_path, PATH=without_slurm)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(said)


def test_a_folder_of_configurations_may_have_any_name(tmp_path):
    (tmp_path / "m\u00f6, (1)/loss").mkdir(parents=True)
    (tmp_path / "m\u00f6, (1)/loss/mine.yaml").write_text("_target_: seglab.losses.Dice\nsmooth: 0.0\n")
    words = ("--config-dir", "m\u00f6, (1)", "loss=mine", "loss.smoth=1")
    done = python("-m", "seglab.train", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "loss.smoth: expected an option such as smooth, got smoth\n")


def test_a_folder_is_chosen_by_hydra_alone(configure):
    with pytest.raises(
        ContractError, match=r"train: expected hydra.run.dir=FOLDER as the output folder, got folder=there"
    ):
        refuse_unread(configure("train"), ["seed=2", "folder=there"], "train", str(CONF))


@pytest.mark.parametrize(
    ("code", "command", "remedy"),
    [
        (errno.EROFS, "report", "choose another folder (output=DIR)"),
        (errno.EROFS, "train", "choose another folder (hydra.run.dir=DIR, or hydra.sweep.dir=DIR for a sweep)"),
        (errno.EACCES, "evaluate", "change its permissions, or choose another folder (a copy of the run)"),
        (errno.ENAMETOOLONG, "train", "use a shorter name"),
        (errno.ENOSPC, "predict", "free some disk space, then run the same command again to resume"),
        (errno.EDQUOT, "train", "free some disk space, then run the same command again to resume"),
        (errno.EFBIG, "train", "raise the limit (ulimit -f), then run the same command again to resume"),
        (errno.EMFILE, "train", "raise the limit (ulimit -n), then run the same command again to resume"),
        (errno.EIO, "train", "run the same command again to resume"),
    ],
)
def test_a_file_that_cannot_be_written_has_a_remedy_that_helps(code, command, remedy):
    said = cli.sentence_of(OSError(code, os.strerror(code), "x"), command)
    assert said == f"x: expected a file that can be read and written, got {os.strerror(code)}; {remedy}"
    assert cli.sentence_of(OSError(code, os.strerror(code)), command) == f"{command}{said[1:]}"


def test_a_current_folder_that_was_deleted_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    with pytest.raises(SystemExit, match=r"^train: expected a current folder, got a deleted one; use another one"):
        train.main()


def test_a_word_in_another_encoding_is_one_sentence(monkeypatch):
    assert _not_utf8("study=gr\u00f6\u00dfe") is None
    said = r"study=gr\udcf6: expected UTF-8, got another encoding; rename it"
    assert _not_utf8(os.fsdecode(b"study=gr\xf6")) == said
    monkeypatch.setattr(cli.sys, "getfilesystemencoding", lambda: "ascii")  # LC_ALL=POSIX, as in a minimal container
    assert _not_utf8("study=gr\udcf6") == f"{said} or, in this locale, set PYTHONUTF8=1"


def test_a_process_that_cannot_be_started_is_not_called_a_file():
    said = "train: expected memory and processes to spare, got no; raise the limit (ulimit -u), then run the same"
    assert cli.sentence_of(OSError(errno.EAGAIN, "no"), "train") == f"{said} command again to resume"
