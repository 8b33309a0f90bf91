"""The plugin for vLLM: `vllm serve FOLDER --load-format forebay --model-loader-extra-config '{"url": "s3://models/llama/"}'`.

vLLM finds it by its entry point (group `vllm.general_plugins`) and calls `register` in each of its processes. FOLDER has the
configuration and the tokenizer. Importing this imports neither vLLM nor torch, and nothing here initialises CUDA.
"""

from __future__ import annotations

import functools
import logging

__all__ = ["register"]

LOAD_FORMAT = "forebay"


@functools.cache
def register() -> None:
    """Registers the load format "forebay" with the vLLM of this process, once.

    vLLM calls this whatever format it is going to load, so a vLLM that has no such registry is no error but a warning.
    """
    try:
        from forebay.integrations._vllm_loader import ForebayModelLoader, register_model_loader
    except ImportError as error:
        logging.getLogger("vllm.forebay").warning("--load-format %s is not available: %s", LOAD_FORMAT, error)
        return
    register_model_loader(LOAD_FORMAT)(ForebayModelLoader)
