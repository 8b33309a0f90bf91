"""transformers and accelerate with weights from an S3 server: the examples of docs/weights.md."""

from __future__ import annotations

from typing import Any

import forebay.weights
import pytest
import torch
from accelerate import dispatch_model, init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from conftest import Model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

PROMPT = torch.tensor([[1, 2, 3, 4]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(PROMPT).logits
    return result


@pytest.fixture(params=["llama", "tied"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


def expected(model: Model) -> torch.Tensor:
    return logits(LlamaForCausalLM.from_pretrained(model.folder, dtype=torch.bfloat16))


def test_transformers_takes_a_state_dict(model: Model, options: dict[str, Any]) -> None:
    config = AutoConfig.from_pretrained(model.configuration)
    with forebay.weights.open(model.url, **options) as weights:
        llama = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights.load(), dtype="auto")
    assert torch.equal(logits(llama), expected(model))


def test_accelerate_fills_an_empty_model_tensor_by_tensor(model: Model, options: dict[str, Any]) -> None:
    with init_empty_weights():
        llama = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model.configuration))
    for name, tensor in forebay.weights.stream(model.url, **options):
        set_module_tensor_to_device(llama, name, "cpu", value=tensor)
    llama.tie_weights()
    llama = dispatch_model(llama, device_map={"": "cpu"})
    assert torch.equal(logits(llama), expected(model))


def test_accelerate_reads_offloaded_layers_from_the_cached_files(model: Model, options: dict[str, Any]) -> None:
    with init_empty_weights():
        llama = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model.configuration))
    places = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    with forebay.weights.open(model.url, **options) as weights:
        names = weights.keys()
        offloaded = [name for name in names if name.startswith("model.layers.1.")]
        for name, tensor in weights.stream([name for name in names if name not in offloaded]):
            set_module_tensor_to_device(llama, name, "cpu", value=tensor)
        llama.tie_weights()
        index = {
            name: {"safetensors_file": weights.path(weights.info(name).file), "weight_name": name, "dtype": "bfloat16"}
            for name in offloaded
        }
        llama = dispatch_model(llama, device_map=places, offload_index=index)
        assert llama.model.layers[1].mlp.up_proj.weight.is_meta
        assert torch.equal(logits(llama), expected(model))
