"""What the load format does beside a plain load, in this process: options, other sources of weights, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forebay
import forebay.weights
import pytest
import torch
from conftest import Model
from safetensors.torch import load_file, save_file
from servers import SeaweedFS
from vllm import plugins
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import DefaultModelLoader, get_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

Source = DefaultModelLoader.Source


@pytest.fixture(autouse=True)
def registered(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of vLLM: it finds the entry point by itself, again where it already has."""
    monkeypatch.syspath_prepend(installed[1])
    monkeypatch.setattr(plugins, "plugins_loaded", False)
    plugins.load_general_plugins()


Open = Callable[..., BaseModelLoader]


@pytest.fixture
def loader() -> Open:
    def call(*, extra: Any = None, **settings: Any) -> BaseModelLoader:
        return get_model_loader(
            LoadConfig(load_format="forebay", model_loader_extra_config=extra or {}, use_tqdm_on_load=False, **settings)
        )

    return call


class Taker(torch.nn.Module):
    """A model that takes what it is given, and needs `names`."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(2)))
        self.taken: dict[str, torch.Tensor] = {}

    def load_weights(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        self.taken = dict(pairs)
        return set(self.taken)


def config(model: Any, **more: Any) -> Any:
    """The part of vLLM's ModelConfig that a loader reads."""
    return SimpleNamespace(**{"model": str(model), "revision": None, "quantization": None, "is_moe": False, **more})


def pair(name: str) -> dict[str, torch.Tensor]:
    return {name: torch.ones(2)}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def whole(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor for path in model.folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_registering_and_loading_leave_cuda_alone(loader: Open, llama: Model) -> None:
    loader().load_weights(Taker(), config(llama.folder))
    assert not torch.cuda.is_initialized()


def test_options_are_checked_where_vllm_makes_the_loader(loader: Open) -> None:
    with pytest.raises(forebay.ConfigError, match=r"no option cache-dir; the options are url, "):
        loader(extra={"cache-dir": "x"})


def test_a_strategy_of_another_format_is_refused(loader: Open) -> None:
    with pytest.raises(forebay.ConfigError, match="safetensors-load-strategy eager"):
        loader(safetensors_load_strategy="eager")


def test_without_a_url_the_weights_are_those_of_the_model_folder(loader: Open, llama: Model) -> None:
    model = Taker()
    loader().load_weights(model, config(llama.folder))
    assert same(model.taken, whole(llama))


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "model-00001-of-00002.safetensors"])
def test_a_url_may_name_an_index_or_a_file(loader: Open, llama: Model, options: dict[str, Any], name: str) -> None:
    model = Taker()
    loader(extra={"url": llama.url + name, **options}).load_weights(model, config(llama.configuration))
    assert same(model.taken, whole(llama) if name.endswith("json") else load_file(llama.folder / name))


def test_a_downloaded_model_is_loaded_from_the_cache(loader: Open, llama: Model, options: dict[str, Any]) -> None:
    loader(extra={"url": llama.url, **options}).download_model(config(llama.configuration))
    with forebay.weights.open(llama.url, **options) as opened:
        opened.load()
        assert opened.stats["origin"] == 0
    # Nothing to fetch, and no cache folder is made.
    loader().download_model(config(llama.folder))


def test_a_draft_model_has_weights_of_its_own(
    loader: Open, llama: Model, other: Model, options: dict[str, Any]
) -> None:
    """vLLM gives its loader the same configuration as the target's."""
    target = loader(extra={"url": llama.url, **options})
    target.load_weights(Taker(), config(llama.configuration))
    model, draft = Taker(), get_model_loader(target.load_config)
    draft.load_weights(model, config(other.folder))
    assert same(model.taken, whole(other))
    # One that is in the target's own checkpoint comes from the url.
    draft.load_weights(model, config(llama.configuration))
    assert same(model.taken, whole(llama))


def test_secondary_weights_come_from_beside_the_primary_ones(loader: Open, tmp_path: Path) -> None:
    weights, configuration, elsewhere = tmp_path / "weights", tmp_path / "configuration", tmp_path / "elsewhere"
    for folder in (weights / "audio", configuration, elsewhere):
        folder.mkdir(parents=True)
    save_file(pair("a"), weights / "model.safetensors")
    save_file(pair("b"), weights / "audio" / "model.safetensors")
    torch.save(pair("weight"), weights / "head.pt")
    save_file(pair("d"), elsewhere / "model.safetensors")
    save_file(pair("ignored"), elsewhere / "ignored.safetensors")
    model = Taker()
    model.secondary_weights = [
        Source(str(configuration), None, subfolder="audio", prefix="audio."),
        Source(str(configuration), None, prefix="head.", allow_patterns_overrides=["head.pt"]),
        Source(str(elsewhere), None, prefix="text.", is_unused_weight=lambda name: name == "ignored"),
    ]
    loader(extra={"url": str(weights)}).load_weights(model, config(configuration))
    assert set(model.taken) == {"a", "audio.b", "head.weight", "text.d"}


def test_secondary_weights_beside_remote_ones(
    loader: Open, s3: SeaweedFS, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(pair("weight"), tmp_path / "head.pt")
    save_file(pair("a"), tmp_path / "model.safetensors")
    save_file(pair("b"), tmp_path / "joint.safetensors")
    for name in ("head.pt", "model.safetensors", "joint.safetensors"):
        s3.put("models", f"beside/{name}", tmp_path / name)
    model = Taker()
    model.secondary_weights = [
        Source("M", None, prefix="head.", allow_patterns_overrides=["head.pt"]),
        Source("M", None, prefix="joint.", allow_patterns_overrides=["joint.safetensors"]),
        Source("M", None, prefix="glob.", allow_patterns_overrides=["nothing*", "j*.safetensors"]),
    ]
    loader(extra={"url": "s3://models/beside/", **options}).load_weights(model, config("M"))
    assert set(model.taken) == {"a", "b", "head.weight", "joint.b", "glob.b"}


def test_a_model_that_names_its_files_gets_those(loader: Open, tmp_path: Path) -> None:
    save_file(pair("a"), tmp_path / "model.safetensors")
    save_file(pair("b"), tmp_path / "special-1.safetensors")
    save_file(pair("c"), tmp_path / "special-2.safetensors")
    model = Taker()
    model.allow_patterns_overrides = ["absent-*.safetensors", "special-*.safetensors", "model.safetensors"]
    loader().load_weights(model, config(tmp_path))
    assert set(model.taken) == {"b", "c"}
    model.allow_patterns_overrides = ["absent.safetensors"]
    with pytest.raises(forebay.NotFoundError, match=r"asks for absent\.safetensors"):
        loader().load_weights(model, config(tmp_path))


def test_what_a_model_ignores_is_not_read(loader: Open, tmp_path: Path) -> None:
    save_file({**pair("kept"), **pair("mtp.0")}, tmp_path / "model.safetensors")
    model = Taker()
    model.is_unused_checkpoint_weight = lambda name: name.startswith("mtp.")
    loader().load_weights(model, config(tmp_path))
    assert set(model.taken) == {"kept"}


def test_other_ranks_experts_are_not_read(loader: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"layers.0.experts.{expert}.{kind}" for expert in range(4) for kind in ("weight", "weight_scale")]
    save_file({name: torch.ones(2) for name in names}, tmp_path / "model.safetensors")
    # What vLLM's own loader finds out on a rank of two, with expert parallelism and its filter on.
    monkeypatch.setattr(
        DefaultModelLoader, "_init_ep_weight_filter", lambda self, config: setattr(self, "local_expert_ids", {2, 3})
    )
    model = Taker()
    loader().load_weights(model, config(tmp_path, is_moe=True))
    assert set(model.taken) == set(names) - {"layers.0.experts.0.weight", "layers.0.experts.1.weight"}


def test_a_url_without_weights_is_an_error_that_names_it(loader: Open, llama: Model, options: dict[str, Any]) -> None:
    with pytest.raises(forebay.Error, match="s3://models/nothing"):
        loader(extra={"url": "s3://models/nothing/", **options}).load_weights(Taker(), config(llama.configuration))


def test_another_models_weights_are_an_error_that_names_both(
    loader: Open, llama: Model, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=rf"weights of {llama.url} are not those of .*configuration.*'missing'"):
        loader(extra={"url": llama.url, **options}).load_weights(Taker(["missing"]), config(llama.configuration))


def test_a_quantised_checkpoint_may_leave_parameters_out(loader: Open, llama: Model) -> None:
    loader().load_weights(Taker(["scale"]), config(llama.folder, quantization="fp8"))


def test_what_only_vllm_can_put_together_is_refused(loader: Open, llama: Model) -> None:
    with pytest.raises(forebay.ConfigError, match="torchao"):
        loader().load_weights(Taker(), config(llama.folder, quantization="torchao"))
