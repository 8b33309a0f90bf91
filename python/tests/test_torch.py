"""`forebay.torch.DataLoader`: tensors without a copy, and ranks that agree."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import forebay
import forebay.torch
import pytest
import torch
from children import Child
from conftest import SMALL, Dataset, OpenLoader, samples_of
from servers import free_ports


def test_images_are_nchw_in_channels_last_strides(dataset: Dataset, open_loader: OpenLoader) -> None:
    fields = {**SMALL, "text": forebay.Text("txt"), "array": forebay.Numpy("npy")}
    plain = next(iter(open_loader(dataset.urls, fields=fields, seed=4)))
    batch = next(iter(open_loader(dataset.urls, forebay.torch.DataLoader, fields=fields, seed=4)))
    image = batch["image"]
    assert image.shape == (8, 3, 32, 32)
    assert image.dtype == torch.uint8
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(image.permute(0, 2, 3, 1), torch.from_dlpack(plain["image"]))
    assert batch["label"].dtype == torch.int64
    assert batch["array"].shape == (8, 2, 3)
    assert batch["text"] == plain["text"]
    assert isinstance(batch, dict)
    assert (batch.valid, batch.epoch, batch.index) == (8, 0, 0)


def test_ragged_images_are_chw_and_masks_stay_as_they_are(dataset: Dataset, open_loader: OpenLoader) -> None:
    fields = {
        "image": forebay.Image("jpg", ragged=True),
        "mask": forebay.Mask("seg.png", like="image", ragged=True),
    }
    batch = next(iter(open_loader(dataset.urls, forebay.torch.DataLoader, fields=fields)))
    for image, mask in zip(batch["image"], batch["mask"], strict=True):
        assert image.shape == (3, *mask.shape)


def test_a_batch_can_be_trained_on(dataset: Dataset, open_loader: OpenLoader) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 60)
    )
    model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = open_loader(dataset.urls, forebay.torch.DataLoader, fields=SMALL, shuffle=True, drop_last=True)
    for batch in loader:
        loss = torch.nn.functional.cross_entropy(model(batch["image"].float() / 255), batch["label"])
        loss.backward()
        optimiser.step()
    assert torch.isfinite(loss)


def test_the_map_gets_tensors(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, forebay.torch.DataLoader, map=lambda batch: batch["label"] * 2)
    assert torch.equal(next(iter(loader)), torch.arange(8) * 2)


RANK = """
import torch.distributed as dist, forebay.torch
rank, port, seed = (int(os.environ[name]) for name in ("AT", "PORT", "SEED"))
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
loader = open_loader(urls, cache, forebay.torch.DataLoader, batch_size=4, shuffle=True, seed=seed, num_threads=1, timeout=60)
assert (loader.rank, loader.world_size) == (rank, 2)
try:
    say("labels", *[label for batch in loader for label in batch["label"][:batch.valid].tolist()])
except forebay.StateError as error:
    say("refused", error)
loader.close()
dist.destroy_process_group()
"""


def run_ranks(dataset: Dataset, folder: Path, seeds: tuple[int, int]) -> list[str]:
    """What each of two ranks says."""
    port = free_ports(1)[0]
    with ExitStack() as stack:
        places = [{"AT": str(rank), "PORT": str(port), "SEED": str(seed)} for rank, seed in enumerate(seeds)]
        ranks = [stack.enter_context(Child(RANK, folder, *dataset.urls, environment=place)) for place in places]
        ended = [rank.finish() for rank in ranks]
    assert [status for status, _, _ in ended] == [0, 0], [err for _, _, err in ended]
    return [out for _, out, _ in ended]


def test_ranks_of_torch_distributed_share_an_epoch(dataset: Dataset, tmp_path: Path) -> None:
    outputs = run_ranks(dataset, tmp_path / "cache", (3, 3))
    labels = [int(label) for output in outputs for label in output.split()[1:]]
    assert sorted(labels) == list(range(60))


def test_ranks_with_different_orders_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    outputs = run_ranks(dataset, tmp_path / "cache", (3, 4))
    assert all(output.startswith("refused rank 1 has another order than rank 0 (hash ") for output in outputs)


def test_worker_processes_are_refused_with_a_reason(dataset: Dataset, open_loader: OpenLoader) -> None:
    class Wrapped(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __init__(self, loader: forebay.DataLoader) -> None:
            self.loader = loader

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(samples_of(self.loader))

    loader = open_loader(dataset.urls, forebay.torch.DataLoader)
    outer = torch.utils.data.DataLoader(Wrapped(loader), num_workers=1, batch_size=None, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match="ForkError"):
        list(outer)
