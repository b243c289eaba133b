"""What the server of forked processes does once, so that none of its processes has to; see forked.py."""

import atexit
import gc

from tests.conftest import compose, configuration_read_once

_reads_once = configuration_read_once()
_reads_once.__enter__()  # until the server ends
compose("train")
gc.collect()
gc.freeze()  # a sweep collects after each run
atexit.register(gc.unfreeze)
