"""A neighbour: another process that keeps one core busy."""

import contextlib
import subprocess
import sys
import time

#: Until the neighbour runs, in seconds.
SETTLE_S = 0.5


@contextlib.contextmanager
def neighbour():
    """Keeps one core busy, pinned nowhere."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        process.kill()
        process.wait()
