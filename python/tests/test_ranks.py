"""Ranks of one job, each in a process of its own, on one cache folder: they agree, or an error says where they don't."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from children import Child
from conftest import Dataset, OpenLoader

# Makes loaders and starts them as it is told, in lines of JSON, and says what came of it.
RANK = """
import json
loaders, kept = [], []
for line in sys.stdin:
    call, arguments = json.loads(line)
    try:
        if call == "open":
            loaders.append(open_loader(urls, cache, **{"shuffle": True, "batch_size": 4, **arguments}))
        elif call == "start":
            kept.append(next(iter(loaders[arguments])))
        elif call == "load":
            loaders[-1].load_state_dict(arguments)
        loader = loaders[-1]
        say("ok", json.dumps(loader.state_dict()) if call == "state" else loader.stats().notes if call == "notes"
            else loader.order_hash())
    except forebay.StateError as error:
        say("refused", str(error))
"""


class Rank:
    """One rank's process."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def does(self, call: str, arguments: Any = None) -> str:
        """What comes of a call: "ok" with the order's hash (or the state, the notes), or "refused" with the error."""
        self.child.tell(json.dumps([call, arguments]))
        return self.child.hear()

    def open(self, **arguments: Any) -> str:
        answer = self.does("open", arguments)
        assert answer.startswith("ok"), answer
        return answer

    def start(self, loader: int = -1) -> str:
        return self.does("start", loader)


Ranks = list[Rank]


@pytest.fixture
def ranks(dataset: Dataset, tmp_path: Path) -> Iterator[Ranks]:
    """Two processes, started by this one with nothing in their environment."""
    with ExitStack() as stack:
        yield [Rank(stack.enter_context(Child(RANK, tmp_path / "cache", *dataset.urls))) for _ in range(2)]


def test_ranks_with_other_seeds_are_refused_with_both_hashes(ranks: Ranks) -> None:
    hashes = [rank.open(seed=number, rank=number, world_size=2).split()[1] for number, rank in enumerate(ranks)]
    assert hashes[0] != hashes[1]
    assert ranks[0].start().startswith("ok")
    refused = ranks[1].start()
    assert refused.startswith("refused rank 1 has another order than rank 0")
    assert all(each in refused for each in hashes)
    assert "seed, shuffle, canonical_ranks, shuffle_window" in refused
    assert ranks[1].start() == refused, "it stays refused"


def test_ranks_with_the_same_order_run(ranks: Ranks) -> None:
    for number, rank in enumerate(ranks):
        rank.open(seed=5, rank=number, world_size=2)
    answers = [rank.start() for rank in ranks]
    assert answers[0] == answers[1]
    assert answers[0].startswith("ok")


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        ({"batch_size": 5}, "rank 1 has batch_size=5, drop_last=false, rank 0 batch_size=4"),
        ({"drop_last": True}, "drop_last=true"),
        ({"shuffle": "sticky"}, "another order"),
        ({"shuffle_window": 7}, "another order"),
    ],
)
def test_what_else_must_be_equal_on_all_ranks(ranks: Ranks, difference: dict[str, Any], says: str) -> None:
    ranks[0].open(rank=0, world_size=2)
    ranks[1].open(rank=1, world_size=2, **difference)
    assert ranks[0].start().startswith("ok")
    refused = ranks[1].start()
    assert refused.startswith("refused rank 1")
    assert says in refused


def test_a_training_and_a_validation_loader_of_a_job_are_not_taken_for_each_other(ranks: Ranks) -> None:
    for number, rank in enumerate(ranks):
        rank.open(seed=1, rank=number, world_size=2)
        rank.open(shuffle=False, rank=number, world_size=2)
    # Each kind in both turns: a rank may validate before another one has begun to train.
    assert ranks[0].start(0).startswith("ok")
    assert ranks[1].start(1).startswith("ok")
    assert ranks[0].start(1).startswith("ok")
    assert ranks[1].start(0).startswith("ok")


def test_a_state_that_only_one_rank_loaded_is_found(ranks: Ranks) -> None:
    for number, rank in enumerate(ranks):
        rank.open(rank=number, world_size=2)
        assert rank.start().startswith("ok")
    state = json.loads(ranks[0].does("state").split(" ", 1)[1])
    for number, rank in enumerate(ranks):
        rank.open(rank=number, world_size=2)
    ranks[0].does("load", state)
    assert ranks[0].start().startswith("ok")
    refused = ranks[1].start()
    assert refused.startswith("refused rank 1 starts at sample 0 of epoch 0, rank 0 at sample 8 of epoch 0"), refused
    ranks[1].does("load", state)
    assert ranks[1].start().startswith("ok")


def test_ranks_may_load_a_state_one_after_the_other(ranks: Ranks) -> None:
    for number, rank in enumerate(ranks):
        rank.open(rank=number, world_size=2)
        assert rank.start().startswith("ok")
    state = json.loads(ranks[0].does("state").split(" ", 1)[1])
    for rank in ranks:
        # The other one's last start was another.
        rank.does("load", state)
        assert rank.start().startswith("ok")


def test_a_job_that_was_killed_says_nothing_to_its_successor(ranks: Ranks, dataset: Dataset, tmp_path: Path) -> None:
    ranks[0].open(seed=1, rank=0, world_size=2)
    assert ranks[0].start().startswith("ok")
    ranks[0].child.kill()
    ranks[1].open(seed=2, rank=1, world_size=2)
    assert ranks[1].start().startswith("ok")


def test_jobs_of_one_folder_are_told_apart_by_their_launcher(dataset: Dataset, tmp_path: Path) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1"}
    cases: list[tuple[dict[str, str], dict[str, str], str]] = [
        ({**torchrun, "MASTER_PORT": "29500"}, {**torchrun, "MASTER_PORT": "29501"}, "ok"),
        ({**torchrun, "MASTER_PORT": "29500"}, {**torchrun, "MASTER_PORT": "29500"}, "refused"),
        ({"FOREBAY_JOB": "one"}, {"FOREBAY_JOB": "two"}, "ok"),
    ]
    for one, two, outcome in cases:
        arguments = RANK, tmp_path / "cache", *dataset.urls
        with Child(*arguments, environment=one) as first, Child(*arguments, environment=two) as second:
            for number, child in enumerate((first, second)):
                Rank(child).open(seed=number, rank=number, world_size=2)
            assert Rank(first).start().startswith("ok")
            assert Rank(second).start().startswith(outcome)


def test_shuffle_false_on_several_ranks_is_said(ranks: Ranks) -> None:
    ranks[0].open(shuffle=False, rank=0, world_size=2)
    ranks[0].start()
    assert "shuffle=False with several ranks: every rank reads every shard" in ranks[0].does("notes")


def test_the_order_hash_is_of_the_order_alone(dataset: Dataset, open_loader: OpenLoader) -> None:
    def order_hash(**arguments: Any) -> str:
        with open_loader(dataset.urls, **{"shuffle": True, "seed": 1, **arguments}) as loader:
            return str(loader.order_hash())

    mine = order_hash()
    assert len(bytes.fromhex(mine)) == 16
    assert order_hash(batch_size=3, drop_last=True, num_threads=1) == mine
    assert len({mine, order_hash(seed=2), order_hash(shuffle="global"), order_hash(canonical_ranks=3)}) == 4
