"""Processes of their own with loaders in them, told what to do line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

OPEN = """
import gc, os, signal, sys, threading, time
# A shell's background jobs, `nohup make test &` among them, ignore it, and so would a child.
signal.signal(signal.SIGINT, signal.default_int_handler)
import forebay
def open_loader(urls, cache, kind=forebay.DataLoader, **more):
    settings = dict(batch_size=8, fields={"label": forebay.Int("cls")}, cache_dir=cache, cache_limit="1GB",
                    host_memory_limit="256MB", num_threads=2)
    return kind(urls, **{**settings, **more})
def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n") # at once: several threads may speak
    sys.stdout.flush()
def wait():
    return sys.stdin.readline().strip()
cache, *urls = sys.argv[1:]
"""

# A thread that begins when it is told; each of its turns asks for the interpreter's lock, and with the last one the process ends.
COUNTING = """
def count():
    wait()
    for _ in range(1000):
        time.sleep(0)
    say("counted")
    os._exit(0)
threading.Thread(target=count).start()
"""

# What tells that processes are ranks of one job: a test sets what it is about.
JOB_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "PMIX_NAMESPACE",
    "FOREBAY_JOB",
)

# What a process says last before it hangs is heard after so many seconds.
PATIENCE = 120


class Child:
    """A process that runs `OPEN` and then `code`, with `arguments` as cache folder and URLs. Ended with its `with` block."""

    def __init__(self, code: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", OPEN + code, *map(str, arguments)]
        pipe = subprocess.PIPE
        inherited = {name: value for name, value in os.environ.items() if name not in JOB_VARIABLES}
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**inherited, **(environment or {})}
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> str:
        """The next line that it says. One that says nothing for too long is killed, and the error shows what it said before."""
        assert self.process.stdout
        patience = threading.Timer(PATIENCE, self.process.kill)
        patience.start()
        try:
            line = self.process.stdout.readline()
        finally:
            patience.cancel()
        assert line, self.finish()
        return line.rstrip("\n")

    def tell(self, line: str = "") -> None:
        """A line for its `wait()`."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def finish(self, seconds: float = PATIENCE) -> tuple[int, str, str]:
        """Its exit status, and what it said on standard output and error. Its input ends."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
        return self.process.returncode, out, err

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # told something after its end


def run(code: str, *arguments: Any) -> str:
    """What a process says that ends well."""
    with Child(code, *arguments) as child:
        status, out, err = child.finish()
    assert status == 0, err
    return out


def program(*arguments: Any, code: int = 0) -> Any:
    """What the program `forebay` says, as JSON."""
    command = [sys.executable, "-m", "forebay", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)
