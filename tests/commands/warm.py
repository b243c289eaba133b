"""Preparations that the fork server makes once for all of its processes; see forked.py."""

import atexit
import gc

from tests.conftest import compose, configuration_read_once

_reads_once = configuration_read_once()
_reads_once.__enter__()  # stays active until the server ends
compose("train")
gc.collect()
gc.freeze()  # a sweep collects garbage after each run
atexit.register(gc.unfreeze)
