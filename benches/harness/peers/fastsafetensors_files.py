"""fastsafetensors: files into one allocation each, which their tensors share and keep.

https://github.com/foundation-model-stack/fastsafetensors
"""

from __future__ import annotations

from typing import Any

from fastsafetensors import SafeTensorsFileLoader

from ..child import Meter, main
from .loaded import Tensors, measure


def run(settings: dict[str, Any], meter: Meter) -> None:
    def load() -> Tensors:
        loader = SafeTensorsFileLoader(None, device="cpu", nogds=True, **settings["loader"])
        loader.add_filenames({0: settings["files"]})
        buffers = loader.copy_files_to_device()
        tensors = {name: buffers.get_tensor(name) for name in loader.get_keys()}
        buffers.close()
        loader.close()
        return tensors

    measure(settings, meter, load)


if __name__ == "__main__":
    main(run)
