"""The plugin for vLLM where there is no vLLM. With vLLM: `make test-vllm`."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import forebay
import pytest
from forebay.integrations._vllm_options import Options
from forebay.integrations.vllm import register

PACKAGE = str(Path(forebay.__file__).parents[1])
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": PACKAGE}, capture_output=True, text=True, check=True
    )


def test_the_entry_point_is_the_function_that_registers() -> None:
    group, name, value = "vllm.general_plugins", "forebay", "forebay.integrations.vllm:register"
    assert re.search(rf'\[project\.entry-points\."{group}"\]\n{name} = "{value}"\n', PROJECT.read_text())
    assert EntryPoint(name, value, group).load() is register


def test_importing_the_plugin_imports_neither_vllm_nor_torch() -> None:
    done = run("import sys, forebay.integrations.vllm; print({'torch', 'vllm'} & set(sys.modules))")
    assert done.stdout == "set()\n"


def test_a_vllm_that_it_does_not_know_is_a_warning() -> None:
    """An old vLLM starts with this package beside it."""
    done = run("import sys; sys.modules['vllm'] = None; from forebay.integrations.vllm import register; register()")
    assert re.search("--load-format forebay is not available: .*vllm", done.stderr)


def test_options_are_those_of_opening_and_the_loaders_own() -> None:
    given = {"cache_dir": "/nvme", "cache_limit": "1TB", "host_memory_limit": 10**9, "storage_options": {"region": "x"}}
    options = Options.of({"url": "s3://models/llama/", "device": "cuda", **given})
    assert (options.url, options.device, options.of_opening()) == ("s3://models/llama/", "cuda", given)
    assert Options.of({}).of_opening() == {}, "the rest is forebay.weights.open's to say"


def test_an_unknown_option_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(forebay.ConfigError, match=r"no option cache-dir, concurrency; .* url, .* cache_dir, "):
        Options.of({"concurrency": 4, "cache-dir": "x", "url": "s3://models/llama/"})


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('{"url": "s3://models/llama/"}', "give a JSON object"),
        ({"url": ["a", "b"]}, "url="),
        ({"url": ""}, "url="),
        ({"cache_dir": 3}, "cache_dir=3"),
        ({"device": "cuda:1"}, '"cuda" for the device of each worker'),
        ({"storage_options": "us-east-1"}, "storage_options: give a JSON object"),
    ],
)
def test_an_option_of_the_wrong_kind_is_named(extra: Any, says: str) -> None:
    with pytest.raises(forebay.ConfigError, match=says):
        Options.of(extra)
