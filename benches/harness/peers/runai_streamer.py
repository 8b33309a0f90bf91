"""Run:ai Model Streamer: safetensors files into host memory, tensors as they arrive. Its settings are in its environment.

https://github.com/run-ai/runai-model-streamer/blob/master/docs/src/usage.md
"""

from __future__ import annotations

from typing import Any

from runai_model_streamer import SafetensorsStreamer

from ..child import Meter, main
from .loaded import Tensors, measure


def run(settings: dict[str, Any], meter: Meter) -> None:
    def load() -> Tensors:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(settings["files"])
            # They own their memory (owned=True, its default).
            return dict(streamer.get_tensors())

    measure(settings, meter, load)


if __name__ == "__main__":
    main(run)
