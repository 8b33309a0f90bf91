"""Which driver a process would load: NVIDIA's, the simulated one, or none.

`python -m harness.gpu.driver` ends with an error where it isn't the one that was asked for, before anything is built; it
needs nothing but Python.
"""

from __future__ import annotations

import ctypes
import sys

LIBRARY = "libcuda.so.1"
# The simulator's name, which no real driver has.
MARKER = "forebay_fake_cuda_marker"
NO_DEVICE = 100


class NoDevice(Exception):
    """There is nothing to check, and why."""


def look(simulated: bool) -> None:
    """Raises NoDevice where the driver that a process finds is not the one asked for, or has no device."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NoDevice(
            f"no NVIDIA driver: {error}; install it, or start the container with access to a GPU. `make gpu-check GPU=simulated` "
            "runs the same on the simulated driver, without a figure that means anything"
        ) from None
    if hasattr(library, MARKER) != simulated:
        found, wanted = (
            ("the simulated driver", "NVIDIA's") if not simulated else ("a real driver", "the simulated one")
        )
        raise NoDevice(
            f"{LIBRARY} on the library path is {found}, and {wanted} was asked for: look at LD_LIBRARY_PATH, and at GPU="
        )
    status, count = library.cuInit(0), ctypes.c_int()
    if status and status != NO_DEVICE:
        raise NoDevice(f"the driver can't be initialised: cuInit answered {status}; `forebay doctor` says more")
    if status or library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise NoDevice("the NVIDIA driver sees no device; look at CUDA_VISIBLE_DEVICES and at the container's devices")


def main() -> None:
    try:
        look(simulated=sys.argv[1:] == ["--simulated"])
    except NoDevice as error:
        raise SystemExit(f"gpu-check: {error}") from None


if __name__ == "__main__":
    main()
