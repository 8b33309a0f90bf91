"""Tries a wheel in an environment that has nothing else: `python tools/try_wheel.py dist/forebay-….whl`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

EPOCH = """
import io, sys, tarfile, forebay
with tarfile.open("a.tar", "w") as tar:
    for index in range(10):
        info = tarfile.TarInfo(f"{index}.cls")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"%d" % index))
with forebay.DataLoader("a.tar", batch_size=4, fields={"label": forebay.Int("cls")}, shuffle=True, cache_dir="cache",
                        cache_limit="64MB", host_memory_limit="128MB") as loader:
    labels = [label for batch in loader for label in memoryview(batch["label"]).tolist()[:batch.valid]]
assert sorted(labels) == list(range(10)), labels
assert not {"numpy", "torch"} & set(sys.modules)
print(forebay.__version__)
"""


PLUGIN = """
from importlib.metadata import entry_points
(plugin,) = entry_points(group="vllm.general_plugins")
assert plugin.load().__module__ == "forebay.integrations.vllm"
"""


def main() -> int:
    (wheel,) = map(Path, sys.argv[1:])
    assert "-abi3-" in wheel.name, f"{wheel.name}: not for every Python from 3.10 on"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        programs = Path(folder) / "venv" / "bin"

        def run(*command: str) -> str:
            # Without PYTHONPATH: what is tried is what was installed.
            program, environment = str(programs / command[0]), {"HOME": folder}
            done = subprocess.run(
                [program, *command[1:]], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
            )
            return done.stdout.decode()

        run("python", "-m", "pip", "install", "--quiet", "--no-index", str(wheel.resolve()))
        version = run("python", "-W", "error", "-c", EPOCH).strip()
        run("python", "-W", "error", "-c", PLUGIN)
        doctor = json.loads(run("forebay", "doctor", "--json"))
        assert doctor["version"] == version, (doctor["version"], version)
    print(f"{wheel.name}: installs alone, imports without numpy and torch, reads an epoch, and its program runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
