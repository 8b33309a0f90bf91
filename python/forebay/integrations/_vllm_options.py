"""What `--model-loader-extra-config` may say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from forebay._errors import ConfigError

FIRST_MODEL = "model"


@dataclass(frozen=True)
class Options:
    """Options of the load format, checked; those that are None are `forebay.weights.open`'s own."""

    url: str | None = None
    """The weights: a folder or prefix, a .safetensors file or a *.safetensors.index.json. Without it, those of vLLM's --model."""
    model: str | None = None
    """Which --model `url` has the weights of. By default the first that is loaded: a draft model has weights of its own, and so
    has the path that a reload names."""
    device: str = "cpu"
    """Where tensors arrive before vLLM takes its part of them: "cpu", or "cuda", the worker's own device."""
    cache_dir: str | None = None
    cache_limit: int | str | None = None
    host_memory_limit: int | str | None = None
    storage_options: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, extra: Any) -> Options:
        """From what vLLM was given.

        Raises: `ConfigError` for an option that doesn't exist, with those that do, and for one of the wrong kind.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(extra, Mapping):
            raise _wrong(f"{extra!r}: give a JSON object with any of {', '.join(known)}")
        if unknown := sorted(map(str, set(extra) - set(known))):
            raise _wrong(f"there is no option {', '.join(unknown)}; the options are {', '.join(known)}")
        for name in ("url", "model", "device", "cache_dir"):
            if name in extra and (not isinstance(extra[name], str) or not extra[name]):
                raise _wrong(f"{name}={extra[name]!r}: give a string")
        if extra.get("device", "cpu") not in ("cpu", "cuda"):
            raise _wrong(f'device={extra["device"]!r}: give "cpu", or "cuda" for the device of each worker')
        if not isinstance(extra.get("storage_options", {}), Mapping):
            raise _wrong("storage_options: give a JSON object such as " + json.dumps({"region": "us-east-1"}))
        return cls(**extra)

    def of_opening(self) -> dict[str, Any]:
        """The arguments of `forebay.weights.open`."""
        own = ("url", "model", "device")
        return {name: value for name, value in asdict(self).items() if name not in own and value is not None}


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"--model-loader-extra-config: {what}")
