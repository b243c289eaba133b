"""A real SLURM with two nodes on this machine, for the duration of a test."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

CONF = """
ClusterName=seglab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
JobRequeue=1
KillWait=30
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool.%n
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.%n.log
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.%n.pid
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=both Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def until(true: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait until a condition holds; fail with its name `what` if it does not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.2)


@contextmanager
def daemon(*command: str) -> Iterator[None]:
    """Run a program in the background, and terminate it at the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def credentials() -> bool:
    """Whether munged answers on this machine."""
    return subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0


@contextmanager
def munged() -> Iterator[None]:
    """Run munged, which authenticates SLURM's messages, unless it already runs on this machine."""
    if credentials():
        yield
        return
    folder = Path("/run/munge")
    folder.mkdir(exist_ok=True)
    shutil.chown(folder, "munge", "munge")
    with daemon("runuser", "-u", "munge", "--", "munged", "--foreground"):
        until(credentials, "munged answers", 30)
        yield


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two idle nodes, n1 and n2, for all programs started by this process."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "runuser") if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing more'}; make test-slurm installs them")
    place = tmp_path_factory.mktemp("slurm")
    (place / "state").mkdir()
    conf = place / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), place=place))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        stack.enter_context(munged())
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
            stack.enter_context(daemon(*command))
        until(lambda: slurm("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", "two idle nodes", 60)
        yield
        slurm("scancel", "--user=root")
        until(lambda: not slurm("squeue", "-h"), "an empty queue", 60)


def slurm(*command: str) -> str:
    """Return the output of a program of SLURM."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
