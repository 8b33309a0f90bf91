"""vLLM itself, on a CPU, with its weights from an S3 server."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Model, Served, serve
from servers import RangeServer


@pytest.fixture(scope="module")
def by_itself(installed: list[str], llama: Model, other: Model) -> Served:
    """What vLLM generates with its own loader: with one model, and then with the other."""
    served = serve(installed, llama.folder, reloads=[{"weights_path": str(other.folder)}])
    assert served.tokens[0] != served.tokens[1]
    return served


def test_weights_from_s3_give_the_same_tokens_and_so_do_reloads(
    installed: list[str],
    llama: Model,
    other: Model,
    by_itself: Served,
    options: dict[str, Any],
    metadata_service: tuple[str, list[str]],
) -> None:
    url, asked = metadata_service
    served = serve(
        installed,
        llama.configuration,
        load_format="forebay",
        model_loader_extra_config={"url": llama.url, **options},
        reloads=[{}, {"weights_path": other.url}, {"weights_path": str(llama.configuration)}],
        # The makefile says that none is there.
        environment={"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": url},
    )
    llama_tokens, other_tokens = by_itself.tokens
    assert served.tokens == [llama_tokens, llama_tokens, other_tokens, llama_tokens]
    assert "Loading weights took" in served.log
    assert not asked


def test_two_ranks_fetch_the_weights_once(
    installed: list[str], llama: Model, by_itself: Served, options: dict[str, Any]
) -> None:
    with RangeServer(llama.folder) as origin:
        served = serve(
            installed,
            llama.configuration,
            load_format="forebay",
            model_loader_extra_config={"url": f"{origin.url}/model.safetensors.index.json", **options},
            tensor_parallel_size=2,
            # Where there is one node of memory vLLM doesn't know how to share the processors out.
            environment={"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        )
    assert served.tokens == by_itself.tokens[:1]
    size = sum(path.stat().st_size for path in llama.folder.glob("*.safetensors"))
    assert size <= origin.sent_bytes < 1.5 * size
