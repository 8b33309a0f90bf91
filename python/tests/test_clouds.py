"""Azure Blob and Google Cloud Storage, against their emulators where the environment names them: see CONTRIBUTING.md."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forebay
import pytest
from conftest import Dataset, OpenLoader, samples_of, wait_for
from servers import free_ports

# Azurite's well-known account.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@contextmanager
def emulator(variable: str, port: int, *arguments: str) -> Iterator[None]:
    """The program that the environment variable names, until it takes connections and until the block ends."""
    program = os.environ.get(variable)
    if not program:
        pytest.skip(f"{variable} names no emulator")

    def answers() -> bool:
        assert process.poll() is None, f"{program} ended with {process.returncode}"
        try:
            ask(port, "GET", "/", {})
        except OSError:
            return False
        return True

    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(answers)
        yield
    finally:
        process.kill()
        process.wait()


def put_blob(port: int, path: str, body: bytes, headers: dict[str, str]) -> None:
    """A signed PUT: SharedKey of the Blob service."""
    date = email.utils.formatdate(usegmt=True)
    signed = {"x-ms-date": date, "x-ms-version": "2021-08-06", **headers}
    resource, _, query = f"/{ACCOUNT}/{ACCOUNT}{path}".partition("?")
    named = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    asked = "".join(f"\n{each.replace('=', ':')}" for each in sorted(query.split("&")) if each)
    length = str(len(body)) if body else ""
    text = f"PUT\n\n\n{length}\n\n\n\n\n\n\n\n\n{named}{resource}{asked}"
    signature = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    authorization = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
    status = ask(port, "PUT", f"/{ACCOUNT}{path}", {**signed, "Authorization": authorization}, body)
    assert status == 201, status


@pytest.fixture(scope="module")
def azure(dataset: Dataset) -> Iterator[dict[str, str]]:
    """Azurite with the dataset in the container `photos`: storage_options that reach it."""
    (port,) = free_ports(1)
    more = "--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort"
    with emulator("FOREBAY_TEST_AZURITE", port, *more, str(port)):
        put_blob(port, "/photos?restype=container", b"", {})
        for path in dataset.paths:
            put_blob(port, f"/photos/{path.name}", path.read_bytes(), {"x-ms-blob-type": "BlockBlob"})
        yield {"endpoint": f"http://127.0.0.1:{port}/{ACCOUNT}", "account_name": ACCOUNT, "account_key": KEY}


@pytest.fixture(scope="module")
def google(dataset: Dataset) -> Iterator[dict[str, str]]:
    """fake-gcs-server with the dataset in the bucket `photos`."""
    (port,) = free_ports(1)
    host = f"127.0.0.1:{port}"
    more = "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory", "-public-host", host
    with emulator("FOREBAY_TEST_GCS", port, *more):
        json = {"Content-Type": "application/json"}
        assert ask(port, "POST", "/storage/v1/b", json, b'{"name": "photos"}') == 200
        for path in dataset.paths:
            to = f"/upload/storage/v1/b/photos/o?uploadType=media&name={path.name}"
            assert ask(port, "POST", to, {"Content-Type": "application/x-tar"}, path.read_bytes()) == 200
        yield {"endpoint": f"http://{host}", "skip_signature": "true"}


def read_everything(
    scheme: str, options: dict[str, str], dataset: Dataset, open_loader: OpenLoader, folder: Path
) -> None:
    """By names, by glob and by folder, cold and warm; and what is not there is named."""
    for number, url in enumerate(("train-{000000..000002}.tar", "train-*.tar", "")):
        loader = open_loader(f"{scheme}://photos/{url}", storage_options=options, cache_dir=folder / str(number))
        for _ in range(2):
            assert samples_of(loader) == dataset.everything
        stored = sum(path.stat().st_size for path in dataset.paths)
        assert stored * 0.99 <= loader.stats().fetched_bytes <= stored * 1.05
        loader.close()
    # fake-gcs-server answers 500 to the listing of a bucket that isn't there; the service and Azurite answer 404.
    for missing in ("photos/missing.tar", "nowhere/missing.tar", *["nowhere/*.tar"] * (scheme == "az")):
        with pytest.raises(forebay.NotFoundError, match=f"{scheme}://{missing.split('*')[0]}"):
            samples_of(open_loader(f"{scheme}://{missing}", storage_options=options, cache_dir=folder / "missing"))


def test_azure(azure: dict[str, str], dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    read_everything("az", azure, dataset, open_loader, tmp_path)


def test_google(google: dict[str, str], dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    read_everything("gs", google, dataset, open_loader, tmp_path)


@pytest.mark.parametrize("url", ["az://photos/train-000000.tar", "az://photos/*.tar"])
def test_a_wrong_azure_key_is_refused_and_never_shown(azure: dict[str, str], open_loader: OpenLoader, url: str) -> None:
    wrong = base64.b64encode(b"a wrong key" * 4).decode()
    with pytest.raises(forebay.PermissionError) as caught:
        samples_of(open_loader(url, storage_options={**azure, "account_key": wrong}))
    assert wrong not in str(caught.value)
