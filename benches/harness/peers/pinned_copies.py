"""Copies of pinned host memory to the GPU, by the driver alone: what no loader that feeds a GPU can be faster than.

The driver's own functions (https://docs.nvidia.com/cuda/cuda-driver-api/) by ctypes, so that no toolkit is needed: a buffer of
cuMemHostAlloc, copied over and over by cuMemcpyHtoDAsync on a stream of its own, timed by events on that stream. What arrived is
compared. Without a driver or a device the answer is why this is left out.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from ..child import Meter, main

LIBRARY = "libcuda.so.1"
NO_DEVICE = 100


class Refused(Exception):
    """What the driver answered, and to what."""

    def __init__(self, function: str, status: int, said: str) -> None:
        super().__init__(f"{function}: {said}")
        self.status = status


class Driver:
    """The driver's functions by name; one that does not succeed raises."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(LIBRARY)

    def __call__(self, function: str, *arguments: Any) -> None:
        status = self.library[function](*arguments)
        if status:
            said = c_char_p()
            self.library["cuGetErrorString"](status, byref(said))
            raise Refused(function, status, (said.value or b"no such error").decode())


def run(settings: dict[str, Any], meter: Meter) -> None:
    try:
        driver = Driver()
    except OSError as error:
        meter.extra["left_out"] = f"no NVIDIA driver: {error}"
        return
    try:
        driver("cuInit", 0)
        count = c_int()
        driver("cuDeviceGetCount", byref(count))
    except Refused as refused:
        if refused.status != NO_DEVICE:
            raise
        count = c_int(0)
    if not count.value:
        meter.extra["left_out"] = "the NVIDIA driver has no device here"
        return
    with ExitStack() as stack:
        copy(driver, stack, settings, meter)


def copy(driver: Driver, stack: ExitStack, settings: dict[str, Any], meter: Meter) -> None:
    """To the first device. What is taken is given back when the stack ends."""
    device, name = c_int(), ctypes.create_string_buffer(256)
    driver("cuDeviceGet", byref(device), 0)
    driver("cuDeviceGetName", name, len(name), device)
    context = c_void_p()
    driver("cuDevicePrimaryCtxRetain", byref(context), device)
    stack.callback(driver, "cuDevicePrimaryCtxRelease_v2", device)
    driver("cuCtxSetCurrent", context)

    size, times = settings["bytes"], settings["times"]
    host, there, stream = c_void_p(), c_uint64(), c_void_p()
    driver("cuMemHostAlloc", byref(host), c_size_t(size), c_uint(0))
    stack.callback(driver, "cuMemFreeHost", host)
    driver("cuMemAlloc_v2", byref(there), c_size_t(size))
    stack.callback(driver, "cuMemFree_v2", there)
    driver("cuStreamCreate", byref(stream), c_uint(0))
    stack.callback(driver, "cuStreamDestroy_v2", stream)
    events = c_void_p(), c_void_p()
    for event in events:
        driver("cuEventCreate", byref(event), c_uint(0))
        stack.callback(driver, "cuEventDestroy_v2", event)

    data = os.urandom(1 << 20) * (size >> 20)
    ctypes.memmove(host, data, size)
    with meter.warm_up():
        driver("cuMemcpyHtoDAsync_v2", there, host, c_size_t(size), stream)
        driver("cuStreamSynchronize", stream)
    with meter.measure():
        driver("cuEventRecord", events[0], stream)
        for _ in range(times):
            driver("cuMemcpyHtoDAsync_v2", there, host, c_size_t(size), stream)
        driver("cuEventRecord", events[1], stream)
        driver("cuEventSynchronize", events[1])
    milliseconds = c_float()
    driver("cuEventElapsedTime", byref(milliseconds), *events)

    arrived = ctypes.create_string_buffer(size)
    driver("cuMemcpyDtoH_v2", arrived, there, c_size_t(size))
    if arrived.raw != data:
        raise SystemExit("what arrived on the device is not what was copied")
    # The device's own time: the processor's has the waiting for it.
    meter.seconds = milliseconds.value / 1e3
    meter.samples = size * times / 1e9
    meter.extra["device"] = name.value.decode()


if __name__ == "__main__":
    main(run)
