"""Commands in forked processes with most imports already done, since starting Python and torch takes seconds."""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Begun = tuple[BaseProcess, int]
"""A process and its pidfd."""

PRELOADED = ["hydra", "pydantic", "optuna", "onnxscript", "torch.onnx", "pytorch_lightning.callbacks"]
PRELOADED += [f"seglab.engine.{name}" for name in ("checkpoints", "dry_run", "initial_weights", "sweep")]
PRELOADED += [f"seglab.inference.{name}" for name in ("evaluation", "export", "prediction_writer", "results")]
PRELOADED += ["seglab.data.audit", "seglab.models.smp", "seglab.models.unet", "seglab.reporting.write_report"]
PRELOADED += ["seglab.api", "seglab.search", "seglab.train", "tests.commands.warm", __name__]


class Fork:
    """A replacement of `subprocess.Popen` for `python -m seglab.COMMAND` that forks this process."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stdout: int = 0, **_: Any) -> None:
        heard, speaks = os.pipe()
        self.pid, self.stdout = os.fork(), os.fdopen(heard)
        if not self.pid:
            code = 1
            try:
                for descriptor in (1, 2) if stdout else ():
                    os.dup2(speaks, descriptor)
                os.environ |= env
                sys.argv = list(command[command.index("-m") + 1 :])
                import_module(sys.argv[0]).main()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
                print(ended, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        os.close(speaks)

    def send_signal(self, number: int) -> None:
        if self.pid:  # 0 once it has ended
            os.kill(self.pid, number)

    def wait(self) -> int:
        status, self.pid = os.waitpid(self.pid, 0)[1], 0
        return os.waitstatus_to_exitcode(status)


def speak_into(file: str) -> None:
    """Redirect stdout and stderr of this process to a file."""
    with open(file, "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)


def program(code: str, place: Path) -> None:
    """Run a program in this process in the folder `place`, with output to said.txt; its commands are forked."""
    import torch

    from seglab import api

    os.chdir(place)
    speak_into("said.txt")
    torch.set_num_threads(1)  # several do not survive a fork
    api.subprocess = SimpleNamespace(Popen=Fork, PIPE=1, STDOUT=2)
    exec(code, {"__name__": "__main__"})


def command_line(command: str, words: Sequence[str], out: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command as from a terminal in the folder `out`, with output to said.txt; the child of a sweep is forked."""
    from seglab.engine import sweep

    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a terminal, even if the tests run under nohup
    os.chdir(out)
    os.environ |= environment or {}
    speak_into("said.txt")
    sys.argv = [command, *words]
    sweep.subprocess = SimpleNamespace(Popen=Fork)
    module = import_module(f"seglab.{command}")  # until then, signals have Python's handlers
    Path("began").touch()
    module.main()


def begin(target: Callable[..., None], *arguments: Any) -> Begun:
    """Call a function of a test module in its own process, with most imports already done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    assert process.pid
    return process, os.pidfd_open(process.pid)


def end(begun: Begun, moment: float | None = None, number: int = signal.SIGKILL) -> int | None:
    """Wait for the end of a command, signaling it after `moment` seconds if given; return the exit code."""
    process, descriptor = begun
    process.join(moment)
    with contextlib.suppress(ProcessLookupError):  # a process id may have been reused, a descriptor not
        signal.pidfd_send_signal(descriptor, number)
    process.join()
    os.close(descriptor)
    return process.exitcode


def run(
    command: str, words: Sequence[str], place: Path, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Run a command to its end in a folder; return its exit code and output."""
    code = end(begin(command_line, command, words, place, environment), 300)
    return code, (place / "said.txt").read_text()


def kill_group(begun: Begun) -> None:
    """Kill a command and every process that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(begun[0].pid or 0, signal.SIGKILL)
    end(begun)
