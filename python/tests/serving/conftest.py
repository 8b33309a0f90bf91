"""Two small random models, as folders and in an S3 server, and processes in which vLLM serves them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import forebay
import pytest
import tomllib
import torch
from servers import SeaweedFS
from transformers import LlamaConfig, LlamaForCausalLM

BUCKET = "models"


@dataclass(frozen=True)
class Model:
    """A model of two shards."""

    folder: Path
    """All of it."""
    configuration: Path
    """All but its weights."""
    url: str
    """Its folder in the S3 server."""


def make_model(folder: Path, name: str, seed: int, s3: SeaweedFS, **more: Any) -> Model:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, **more
    )
    whole, configuration = folder / name, folder / f"{name}-configuration"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(whole, max_shard_size="2MB")
    assert len(list(whole.glob("*.safetensors"))) == 2
    assert (whole / "model.safetensors.index.json").exists()
    shutil.copytree(whole, configuration, ignore=shutil.ignore_patterns("*.safetensors*"))
    for path in whole.iterdir():
        s3.put(BUCKET, f"{name}/{path.name}", path)
    return Model(whole, configuration, f"s3://{BUCKET}/{name}/")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, s3: SeaweedFS) -> Model:
    return make_model(tmp_path_factory.mktemp("llama"), "llama", 1, s3)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory, s3: SeaweedFS) -> Model:
    """The same with other weights."""
    return make_model(tmp_path_factory.mktemp("other"), "other", 2, s3)


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory, s3: SeaweedFS) -> Model:
    """One whose output is computed by its embeddings, which its files have once."""
    return make_model(tmp_path_factory.mktemp("tied"), "tied", 3, s3, tie_word_embeddings=True)


@pytest.fixture
def options(s3: SeaweedFS, tmp_path: Path) -> dict[str, Any]:
    """How the S3 server is reached, with a cache folder of the test's own."""
    return {
        "cache_dir": str(tmp_path / "cache"),
        "cache_limit": "1GB",
        "host_memory_limit": "256MB",
        "storage_options": s3.storage_options,
    }


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders for PYTHONPATH with which this package is as good as installed: with the entry points that its wheel would have."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("installed")
    information = folder / "forebay-0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: forebay\nVersion: 0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items())]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return [str(Path(forebay.__file__).parents[1]), str(folder)]


@pytest.fixture
def metadata_service() -> Iterator[tuple[str, list[str]]]:
    """An address for what a cloud's machines ask for credentials, and what was asked of it."""
    asked: list[str] = []

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_PUT = do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Asked)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True)
class Served:
    """What a process with vLLM gave: tokens after the start and after each reload, and all that it logged."""

    tokens: list[list[int]]
    log: str


def serve(
    installed: list[str],
    folder: Path,
    *,
    reloads: list[dict[str, str]] | None = None,
    environment: Any = None,
    **llm: Any,
) -> Served:
    """Starts vLLM as a user does, generates from one prompt, and again after each reload."""
    asked = json.dumps({"llm": {"model": str(folder), **llm}, "reloads": reloads or []})
    path = os.pathsep.join(installed)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("engine.py")), asked],
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-20000:]
    return Served(json.loads(done.stdout.rsplit("TOKENS ", 1)[1].splitlines()[0]), done.stdout)
