"""Epochs, their order, where a loader stands, and how a job goes on from there."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import pytest
from conftest import Dataset, OpenLoader, labels_of, samples_of, wait_for


def test_storage_order_without_shuffle(dataset: Dataset, open_loader: OpenLoader) -> None:
    assert samples_of(open_loader(dataset.urls)) == dataset.everything


@pytest.mark.parametrize("shuffle", [True, "sticky", "global"])
def test_every_epoch_holds_every_sample_once_in_an_order_of_its_own(
    dataset: Dataset, open_loader: OpenLoader, shuffle: Any
) -> None:
    loader = open_loader(dataset.urls, shuffle=shuffle)
    epochs = [samples_of(loader) for _ in range(3)]
    assert all(sorted(epoch) == dataset.everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in [dataset.everything, *epochs]}) == 4
    again = open_loader(dataset.urls, shuffle=shuffle, num_threads=1, batch_size=5)
    assert [samples_of(again) for _ in range(3)] == epochs


def test_batches_know_their_epoch_and_place(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, shuffle=True)
    for epoch in range(2):
        batches = list(loader)
        assert [batch.epoch for batch in batches] == [epoch] * 8
        assert [batch.index for batch in batches] == list(range(8))
        for batch in batches:
            assert labels_of(batch) == [dataset.at(place).label for place in batch.samples[: batch.valid]]


def test_drop_last_leaves_the_rest_out_and_otherwise_it_is_padded(dataset: Dataset, open_loader: OpenLoader) -> None:
    dropped = open_loader(dataset.urls, drop_last=True)
    assert [(batch.valid, len(batch["label"])) for batch in dropped] == [(8, 8)] * 7
    assert dropped.count() == len(dropped) == 7
    kept = open_loader(dataset.urls)
    assert [batch.valid for batch in kept] == [8] * 7 + [4]
    assert kept.count() == len(kept) == 8


@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_an_epoch(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path, world: int) -> None:
    settings: dict[str, Any] = {"shuffle": True, "world_size": world, "canonical_ranks": 2, "batch_size": 4}
    ranks = [open_loader(dataset.urls, rank=rank, cache_dir=tmp_path / f"{rank}", **settings) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    assert len({len(listed) for listed in batches}) == 1
    assert [len(rank) for rank in ranks] == [len(listed) for listed in batches]
    rows = [[len(batch["label"]) for batch in listed] for listed in batches]
    assert all(each == rows[0] for each in rows), "every rank has as many rows"
    real = [sample for listed in batches for batch in listed for sample in batch.samples[: batch.valid]]
    assert sorted(real) == dataset.everything


def test_len_is_an_error_until_samples_are_counted(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls)
    with pytest.raises(TypeError, match=r"loader\.count\(\).*forebay index --write-sidecars"):
        len(loader)
    assert loader.count() == 8
    assert len(loader) == 8


def test_leaving_early_frees_memory_and_ends_the_epoch(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, shuffle=True)
    samples_of(loader)
    idle = loader.stats().host_memory_bytes
    for batch in loader:
        assert batch.epoch == 1
        break
    del batch
    wait_for(lambda: loader.stats().host_memory_bytes <= idle)
    assert [batch.epoch for batch in loader] == [2] * 8


def test_an_iterator_ends_when_another_starts(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls)
    first = iter(loader)
    next(first)
    second = iter(loader)
    with pytest.raises(forebay.StateError, match="one epoch at a time"):
        next(first)
    assert next(second).index == 0
    assert iter(second) is second
    assert len(list(second)) == 7
    with pytest.raises(StopIteration):
        next(second)


def test_set_epoch_keeps_its_own_epoch_and_starts_another(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, shuffle=True)
    epochs = [samples_of(loader) for _ in range(3)]
    other = open_loader(dataset.urls, shuffle=True)
    other.set_epoch(2)
    assert samples_of(other) == epochs[2]
    other.set_epoch(0)
    assert samples_of(other) == epochs[0]
    loader.close()
    resumed = open_loader(dataset.urls, shuffle=True)
    running = iter(other)
    taken = [sample for _ in range(3) for sample in next(running).samples]
    resumed.load_state_dict(other.state_dict())
    resumed.set_epoch(1)
    assert taken + samples_of(resumed) == epochs[1]
    with pytest.raises(forebay.ConfigError, match="epoch=-1"):
        other.set_epoch(-1)


def test_a_state_is_small_json_and_equal_on_every_rank(dataset: Dataset, open_loader: OpenLoader) -> None:
    ranks = [open_loader(dataset.urls, shuffle=True, rank=rank, world_size=2, batch_size=4) for rank in range(2)]
    iterators = [iter(rank) for rank in ranks]
    for _ in range(3):
        for iterator in iterators:
            next(iterator)
    states = [rank.state_dict() for rank in ranks]
    assert states[0] == states[1]
    assert json.loads(json.dumps(states[0])) == states[0]
    assert len(json.dumps(states[0])) < 4096


@pytest.mark.parametrize(
    ("shuffle", "chain"),
    [
        *[(True, chain) for chain in ([1, 2], [2, 1], [3, 2, 5], [4, 3, 1, 2])],
        *[(shuffle, [2, 3, 1]) for shuffle in (False, "sticky", "global")],
    ],
)
def test_a_job_goes_on_with_any_number_of_ranks(
    dataset: Dataset, open_loader: OpenLoader, tmp_path: Path, shuffle: Any, chain: list[int]
) -> None:
    """Two batches per rank on each number of ranks but the last, which takes the rest."""
    delivered: list[Any] = []
    state = None
    for step, world in enumerate(chain):
        settings: dict[str, Any] = {"shuffle": shuffle, "seed": 9, "world_size": world, "batch_size": 3}
        ranks = [
            open_loader(dataset.urls, rank=rank, cache_dir=tmp_path / f"{rank}", **settings) for rank in range(world)
        ]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
            for count, batch in enumerate(rank, start=1):
                delivered += batch.samples[: batch.valid]
                if count == 2 and step + 1 < len(chain):
                    break
        state = ranks[0].state_dict()
        assert all(rank.state_dict() == state for rank in ranks)
        for rank in ranks:
            rank.close()
    assert sorted(delivered) == dataset.everything


@pytest.mark.parametrize("is_sorted", [True, False])
def test_labels_sorted_by_shard_are_said_once(
    open_loader: OpenLoader, write: Callable[..., str], is_sorted: bool
) -> None:
    def members(shard: int) -> dict[str, bytes]:
        return {f"{index:03}.cls": b"%d" % (shard if is_sorted else index % 4) for index in range(600)}

    loader = open_loader([write(members(shard), f"{shard}.tar") for shard in range(4)], shuffle=True)
    for _ in range(2):
        samples_of(loader)
    said = [note for note in loader.stats().notes if "labels are nearly constant within shards" in note]
    assert len(said) == is_sorted
    assert all("forebay pack --shuffle" in note for note in said)


def test_the_state_counts_what_was_delivered_not_what_was_prepared(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, shuffle=True, prefetch_factor=4)
    whole = samples_of(loader)
    for taken in range(9):
        loader.set_epoch(1)
        loader.set_epoch(0)
        running = iter(loader)
        first = [sample for batch in itertools.islice(running, taken) for sample in batch.samples[: batch.valid]]
        other = open_loader(dataset.urls, shuffle=True)
        other.load_state_dict(json.dumps(loader.state_dict()))
        rest = samples_of(other)
        if taken < 8:
            assert first + rest == whole
        else:  # After the last batch the state is a full next epoch.
            assert sorted(rest) == dataset.everything
            assert rest != whole
        other.close()


def test_a_state_may_be_taken_and_loaded_at_any_time(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, shuffle=True)
    fresh = loader.state_dict()
    epoch = samples_of(loader)
    done = loader.state_dict()
    loader.load_state_dict(fresh)
    assert loader.state_dict() == fresh
    assert samples_of(loader) == epoch
    assert loader.state_dict() == done


def test_a_state_ends_the_running_iterator(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls)
    running = iter(loader)
    next(running)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(forebay.StateError):
        next(running)


def test_states_that_do_not_belong_here_are_refused(
    dataset: Dataset, open_loader: OpenLoader, write: Callable[..., str]
) -> None:
    other = open_loader(write({f"{index}.cls": b"1" for index in range(9)}), shuffle=True)
    state = other.state_dict()
    loader = open_loader(dataset.urls, shuffle=True)
    loader.count()
    before = loader.state_dict()
    for bad in (state, "{}", "[", "[]", {"a": object()}, {**before, "version": 99}, ""):
        with pytest.raises(forebay.StateError):
            loader.load_state_dict(bad)
    loader.load_state_dict(before)
    assert sorted(samples_of(loader)) == dataset.everything


def test_a_closed_loader_says_so(dataset: Dataset, open_loader: OpenLoader) -> None:
    with open_loader(dataset.urls) as loader:
        running = iter(loader)
        next(running)
    loader.close()
    assert "closed" in repr(loader)
    with pytest.raises(forebay.StateError):
        next(running)
    for call in (lambda: iter(loader), loader.state_dict, loader.count, lambda: loader.set_epoch(1)):
        with pytest.raises(forebay.StateError, match="closed"):
            call()
    assert loader.stats().samples == 8, "the account stays"


def test_map_is_applied_to_every_batch(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, map=lambda batch: np.asarray(batch["label"]).sum() if batch.index else None)
    results = list(loader)
    assert results[0] is None
    assert len(results) == 8

    def fail(batch: forebay.Batch) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        next(iter(open_loader(dataset.urls, map=fail)))


def test_stop_iteration_of_a_map_ends_nothing_quietly(dataset: Dataset, open_loader: OpenLoader) -> None:
    def stop(batch: forebay.Batch) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(open_loader(dataset.urls, map=stop))


def test_loaders_are_not_pickled_but_say_what_to_do(dataset: Dataset, open_loader: OpenLoader) -> None:
    with pytest.raises(TypeError, match="make the loader in that process"):
        pickle.dumps(open_loader(dataset.urls))


def test_stats_are_numbers_and_a_table(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls)
    fresh = loader.stats()
    assert fresh.samples == fresh.batches == 0
    samples_of(loader)
    first = loader.stats()
    samples_of(loader)
    second = loader.stats().since(first)
    assert (first.samples, first.batches, first.skipped) == (60, 8, 0)
    assert (second.samples, second.batches) == (60, 8)
    assert sum(first.samples_by_tier.values()) >= 60
    assert first.fetched_bytes >= sum(path.stat().st_size for path in dataset.paths) * 0.99
    assert (second.fetched_bytes, second.bytes_by_tier["origin"], second.hit_rate) == (0, 0, 1)
    assert first.threads == 2
    assert first["io_engine"] in ("io_uring", "blocking")
    assert first.host_memory_peak_bytes <= 512 * 10**6
    assert dict(first) == first.as_dict()
    assert json.dumps(first.as_dict())
    assert "60 samples in 8 batches" in repr(first)
    assert "hit rate" in repr(first)
    assert "<table>" in first._repr_html_()


def test_sources_may_be_paths_folders_globs_and_brace_lists(dataset: Dataset, open_loader: OpenLoader) -> None:
    folder = dataset.paths[0].parent
    for source in (
        dataset.paths,
        folder,
        str(folder / "train-*.tar"),
        f"{folder}/train-{{000000..000002}}.tar",
        "::".join(dataset.urls),
        folder.as_uri() + "/train-{000000..000002}.tar",
    ):
        loader = open_loader(source)
        assert samples_of(loader) == dataset.everything, source
        loader.close()


def test_a_second_loader_in_the_same_process_shares_the_cache(
    dataset: Dataset, open_loader: OpenLoader, tmp_path: Path
) -> None:
    samples_of(open_loader(dataset.urls))
    second = open_loader(dataset.urls)
    assert samples_of(second) == dataset.everything
    assert second.stats().bytes_by_tier["origin"] == 0
