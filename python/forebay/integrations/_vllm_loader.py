"""The loader behind vLLM's `--load-format forebay`: a model's weights as they arrive.

The processes of a node read through the node's one cache, so that the origin is read once. Which tensors a rank doesn't need, and
which a checkpoint must hold, vLLM says: its own checks run here too.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.logger import init_logger
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from forebay import _sizes, weights
from forebay._errors import ConfigError, Error, NotFoundError
from forebay.integrations._vllm_options import FIRST_MODEL, Options

__all__ = ["ForebayModelLoader", "register_model_loader"]

logger = init_logger("vllm.forebay")

Pairs = Iterator[tuple[str, torch.Tensor]]
TIERS = {
    "origin": "the origin",
    "disk": "the cache folder",
    "host": "the cache's memory",
    "page_cache": "the page cache",
    "file": "local files",
}


class ForebayModelLoader(BaseModelLoader):  # type: ignore[misc]
    """Loads safetensors by `forebay.weights`, from where the option `url` says or from the model's folder."""

    counter_before_loading_weights = 0.0
    counter_after_loading_weights = 0.0

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self.options = Options.of(load_config.model_loader_extra_config)
        if load_config.safetensors_load_strategy is not None:
            raise ConfigError(
                f"--safetensors-load-strategy {load_config.safetensors_load_strategy} belongs to vLLM's own load formats: "
                "leave it out with --load-format forebay"
            )
        self._local_experts: set[int] | None = None
        self._read_from: list[str] = []

    def download_model(self, model_config: ModelConfig) -> None:
        """Fetches the weights into the cache folder; those of a local folder stay where they are."""
        place = self._place(model_config.model, model_config, model_config.revision)
        if "://" in place:
            with weights.open(place, **self.options.of_opening()) as opened:
                opened.prefetch()

    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        """Loads them into a model that exists.

        Raises: `ValueError` where they are not this model's, and what `forebay.weights` raises.
        """
        from vllm.model_executor.model_loader import DefaultModelLoader

        if model_config.quantization == "torchao":
            raise ConfigError("only vLLM's own --load-format auto puts together the tensors of torchao's checkpoints")
        # Whose weights `url` has: a draft model and a reload have loaders of their own, with this very configuration.
        self.load_config.model_loader_extra_config.setdefault(FIRST_MODEL, model_config.model)
        self.options = Options.of(self.load_config.model_loader_extra_config)
        default = DefaultModelLoader(LoadConfig(load_format="safetensors"))
        if model_config.is_moe:
            default._init_ep_weight_filter(model_config)
            self._local_experts = default.local_expert_ids

        self.counter_before_loading_weights = time.perf_counter()
        try:
            loaded = model.load_weights(self.get_all_weights(model_config, model))
            # Which parameters a quantised checkpoint must have, vLLM doesn't know.
            if model_config.quantization is None and loaded is not None:
                default.track_weights_loading(model, loaded)
        except (AssertionError, KeyError, ValueError) as error:
            if isinstance(error, Error):
                raise
            places = " and ".join(map(_shown, self._read_from))
            raise ValueError(f"the weights of {places} are not those of {model_config.model}: {error}") from error
        self.counter_after_loading_weights = time.perf_counter()
        seconds = self.counter_after_loading_weights - self.counter_before_loading_weights
        logger.info_once("Loading weights took %.2f seconds", seconds)

    def get_all_weights(self, model_config: ModelConfig, model: torch.nn.Module) -> Pairs:
        """(name, tensor) of the model's weights, then of its `secondary_weights`. A reload reads them from here."""
        patterns = getattr(model, "allow_patterns_overrides", None)
        unused = getattr(model, "is_unused_checkpoint_weight", None)
        place = self._place(model_config.model, model_config, model_config.revision, patterns)
        yield from self._read(place, patterns, unused)
        for source in getattr(model, "secondary_weights", ()):
            patterns = source.allow_patterns_overrides
            place = self._place(source.model_or_path, model_config, source.revision, patterns, source.subfolder)
            for name, tensor in self._read(place, patterns, source.is_unused_weight):
                yield source.prefix + name, tensor

    def _place(
        self,
        model: str,
        model_config: ModelConfig,
        revision: str | None,
        patterns: Sequence[str] | None = None,
        subfolder: str | None = None,
    ) -> str:
        """The folder or file that has a model's weights."""
        if self.options.url and model == (self.options.model or model_config.model):
            place = self.options.url
        elif "://" in model or os.path.exists(model):
            place = model
        else:
            # A name on the model hub: vLLM downloads it.
            from vllm.model_executor.model_loader.weight_utils import download_weights_from_hf

            place = download_weights_from_hf(
                model,
                self.load_config.download_dir,
                list(patterns or ["*.safetensors"]),
                revision,
                subfolder=subfolder,
                ignore_patterns=self.load_config.ignore_patterns,
            )
        return _inside(place, subfolder) if subfolder else place

    def _read(self, place: str, patterns: Sequence[str] | None, unused: Callable[[str], bool] | None) -> Pairs:
        self._read_from.append(place)
        files = place if patterns is None else self._matching(place, patterns)
        if isinstance(files, list) and not files[0].endswith(".safetensors"):
            yield from self._read_pickled(place, files)
            return
        device = "cpu" if self.options.device == "cpu" else f"cuda:{torch.cuda.current_device()}"
        with weights.open(files, **self.options.of_opening()) as opened:
            names = self._needed(opened.keys(), unused)
            with self._progress(sum(opened.info(name).nbytes for name in names)) as bar:
                for name, tensor in opened.stream(names, device=device):
                    bar.update(opened.info(name).nbytes)
                    yield name, tensor
            stats = opened.stats
            came = [f"{_sizes.show(stats[tier])} from {where}" for tier, where in TIERS.items() if stats[tier]]
            logger.info("%s: %d tensors, %s", _shown(place), len(names), ", ".join(came) or "no bytes")

    def _matching(self, place: str, patterns: Sequence[str]) -> list[str]:
        """What the first pattern matches that matches anything, as with vLLM's own formats."""
        folder = _folder(place)
        for pattern in patterns:
            if "://" not in folder:
                found = sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))
            elif set(pattern) & set("*?["):
                with weights.open(folder, **self.options.of_opening()) as opened:
                    found = [file.url for file in opened.files if fnmatch.fnmatch(file.name, pattern)]
            else:
                found = [_inside(folder, pattern)]
            if found:
                return found
        raise NotFoundError(f"{_shown(folder)}: this model asks for {' or '.join(patterns)}, and there is no such file")

    def _read_pickled(self, place: str, files: list[str]) -> Pairs:
        """Tensors that some models keep beside their weights, by torch.load, which vLLM lets run no code of theirs."""
        from vllm.model_executor.model_loader.weight_utils import pt_weights_iterator

        folder, settings = _folder(place), (self.load_config.use_tqdm_on_load, self.load_config.pt_load_map_location)
        if "://" not in folder:
            yield from pt_weights_iterator(files, *settings)
            return
        with weights.open(folder, **self.options.of_opening()) as opened:
            paths = [opened.path(file.removeprefix(folder).lstrip("/")) for file in files]
            yield from pt_weights_iterator(paths, *settings)

    def _needed(self, names: list[str], unused: Callable[[str], bool] | None) -> list[str]:
        """Without other ranks' experts, where vLLM filters them, and without what the model says that it ignores."""
        from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

        local = [name for name in names if not should_skip_weight(name, self._local_experts)]
        # As with vLLM's own formats: a model that ignores them all gets them all, for its error.
        return [name for name in local if unused is None or not unused(name)] or local

    def _progress(self, total: int) -> Any:
        from tqdm.auto import tqdm
        from vllm.model_executor.model_loader.weight_utils import enable_tqdm

        shown = enable_tqdm(self.load_config.use_tqdm_on_load)
        return tqdm(total=total, desc="Loading weights through forebay", unit="B", unit_scale=True, disable=not shown)


def _folder(place: str) -> str:
    """The folder that a place is, or that its file is in."""
    is_file = place.endswith((".safetensors", ".safetensors.index.json"))
    return place.rpartition("/")[0] or "." if is_file else place


def _shown(place: str) -> str:
    """Without a query, which may be a signature."""
    return place.partition("?")[0]


def _inside(place: str, name: str) -> str:
    return f"{_folder(place).rstrip('/')}/{name}"
