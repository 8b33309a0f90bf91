"""Compiles the kernels to forebay.ptx, and checks that every architecture takes it. Needs no GPU.

    build.py            writes forebay.ptx beside this file
    build.py --check    fails where the checked-in one differs

Needs the packages of requirements.txt: NVRTC writes the PTX, ptxas assembles it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
PTX = HERE / "forebay.ptx"
SOURCES = sorted(path for path in [*HERE.glob("*.h"), *HERE.glob("*.cu")] if path.name != "host.h")
# Volta and everything after it takes PTX for compute_70. Products and sums are rounded one by one, as on the host.
OPTIONS = ["--gpu-architecture=compute_70", "--std=c++17", "--fmad=false"]
ARCHITECTURES = ["sm_70", "sm_90", "sm_100", "sm_120"]
# A step takes seconds, and NVRTC 12.0 never ends on some sources.
LONGEST_SECONDS = 300


class Compiler:
    """NVRTC, as far as one program needs it."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(package("nvidia.cuda_nvrtc") / "lib" / "libnvrtc.so.12"))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: object) -> int:
        return int(getattr(self.library, name)(*arguments))

    def text(self, what: str, program: ctypes.c_void_p) -> str:
        """What nvrtcGet`what` gives, which asks for its size first."""
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.value.decode()

    def ptx(self, main: str, files: dict[str, str]) -> str:
        """PTX of `main`, which includes `files` by name: so that no path of this machine gets into it."""

        def strings(texts: list[str]) -> ctypes.Array[ctypes.c_char_p]:
            return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))

        program = ctypes.c_void_p()
        names, contents = strings(list(files)), strings(list(files.values()))
        self.call(
            "nvrtcCreateProgram",
            ctypes.byref(program), main.encode(), b"forebay.cu", len(files), contents, names,
        )  # fmt: skip
        with watched("NVRTC"):
            status = self.call("nvrtcCompileProgram", program, len(OPTIONS), strings(OPTIONS))
        log = self.text("ProgramLog", program).strip()
        if status != 0 or log:
            raise SystemExit(f"{self.library.nvrtcGetErrorString(status).decode()}\n{log}")
        return self.text("PTX", program)


def late(who: str, seconds: float) -> str:
    return f"{who} has not ended after {seconds:g} s: look at what changed last in gpu/kernels/*.cu and *.h"


@contextmanager
def watched(who: str, seconds: float = LONGEST_SECONDS) -> Iterator[None]:
    """Ends this process, and says why, where what happens inside doesn't end: a library can't be interrupted."""

    def give_up() -> None:
        print(late(who, seconds), file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def package(name: str) -> Path:
    """The folder of an installed package."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: `make kernels` installs gpu/kernels/requirements.txt")
    return Path(found.submodule_search_locations[0])


def build() -> str:
    """The PTX, headed by a checksum of every source: a test compares them where no compiler is installed."""
    files = {path.name: path.read_text() for path in SOURCES}
    main = "".join(f'#include "{name}"\n' for name in files if name.endswith(".cu"))
    # A header that NVRTC includes by itself leaves these, named after the machine's own compilation; nothing uses them.
    ptx = re.sub(r"^\.global .*_INTERNAL_\w*nv6target\w*.*;\n", "", Compiler().ptx(main, files), flags=re.MULTILINE)
    checksums = "".join(f"// {zlib.crc32(text.encode()):08x} {name}\n" for name, text in files.items())
    return f"// Written by `make kernels` from:\n{checksums}{ptx}"


def assemble(ptx: str) -> None:
    """Prints registers and stack of every kernel on every architecture; ends where one spills or is refused."""
    ptxas = package("nvidia.cuda_nvcc") / "bin" / "ptxas"
    for architecture in ARCHITECTURES:
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(ptx)
            file.flush()
            command = [str(ptxas), f"--gpu-name={architecture}", "--verbose", "--output-file=/dev/null", file.name]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS)
            except subprocess.TimeoutExpired:
                raise SystemExit(late(f"ptxas for {architecture}", LONGEST_SECONDS)) from None
        if done.returncode != 0:
            raise SystemExit(f"ptxas refuses the PTX for {architecture}:\n{done.stdout}{done.stderr}")
        report(architecture, done.stdout + done.stderr)


def report(architecture: str, log: str) -> None:
    """What ptxas says of each kernel, in one line each."""
    kernels = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        log,
        re.DOTALL,
    )
    names = re.findall(r"Compiling entry function '(\w+)'", log)
    if [kernel[0] for kernel in kernels] != names or not names:
        raise SystemExit(f"ptxas for {architecture} says something else than it did:\n{log}")
    for name, stack, stores, loads, registers in kernels:
        print(f"{architecture:7} {name:20} {registers:>3} registers, {stack} bytes of stack, spills {stores} + {loads}")
        if (stack, stores, loads) != ("0", "0", "0"):
            raise SystemExit(f"{name} keeps registers in memory on {architecture}")


def main() -> None:
    ptx = build()
    assemble(ptx)
    if sys.argv[1:] == ["--check"]:
        if PTX.read_text() != ptx:
            raise SystemExit(f"{PTX.name} is not what its sources give: run `make kernels` and commit it")
    else:
        PTX.write_text(ptx)


if __name__ == "__main__":
    main()
