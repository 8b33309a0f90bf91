"""Imports a module, named by the first argument, where Python has imported nothing that it doesn't need itself.

Run as a file, and without the harness, whose own imports the module would find done.
"""

import sys
import time

# This folder, whose files are named after the peers.
del sys.path[0]
before, start = time.process_time(), time.perf_counter()
__import__(sys.argv[1])
seconds, cpu = time.perf_counter() - start, time.process_time() - before

import json  # noqa: E402
import pathlib  # noqa: E402

status = pathlib.Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
print(json.dumps({"value": seconds, "seconds": seconds, "cpu_seconds": cpu, "peak_rss_bytes": peak}))
