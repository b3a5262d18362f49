"""Ranks: who a process is among others, and collectives that are exact, deterministic and fail on all ranks at once."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import torch

from esper.errors import BadInput, ManifestError, NumericalFault, RankLost, RanksDisagree
from esper.tolaria.evaluation import EVALUATION_BATCH, evaluate
from esper.tolaria.launch import expected
from esper.tolaria.meeting import Place
from esper.tolaria.ranks import ALONE, Ranks
from parts import free_port
from ranked_launch import on_ranks
from runs import manifest
from small_tasks import noisy


def test_without_a_launcher_a_process_is_alone():
    assert expected({}) == (0, 1)
    assert expected({"RANK": "", "WORLD_SIZE": ""}) == (0, 1)
    assert expected({"RANK": "3", "WORLD_SIZE": "4"}) == (3, 4)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("x", "2"), ("", "2"), ("0", "many"), ("0", "0")])
def test_an_environment_that_makes_no_sense_is_refused(rank, world):
    with pytest.raises(BadInput, match="RANK"):
        expected({"RANK": rank, "WORLD_SIZE": world})


@pytest.mark.parametrize("missing", [{"MASTER_ADDR": ""}, {"MASTER_PORT": "x"}])
def test_an_environment_that_does_not_say_where_is_refused(missing):
    whole = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(BadInput, match="torchrun"):
        Place.of({**whole, **missing}, manifest().spec)


def test_a_batch_must_divide():
    ALONE.check_batch(7)
    Ranks(1, 4).check_batch(8)
    with pytest.raises(ManifestError, match=r"spec.training.batchSize: 7 .*4 ranks.*use 4 or another multiple"):
        Ranks(1, 4).check_batch(7)


def test_one_rank_changes_nothing():
    value = torch.tensor([1.0])
    means, notes = ALONE.reduce([value, None], [value, value], [0.5])
    assert means[0] is value
    assert means[1] is None
    assert notes == [[0.5]]
    assert ALONE.gather({"a": 1}) == [{"a": 1}]
    assert ALONE.share(lambda: object) is object
    assert ALONE.invite("twin") is None
    stop = signal.getsignal
    assert ALONE.listen(stop) is stop


def test_means_are_exact_and_notes_arrive_as_they_were_sent(tmp_path):
    kinds = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]

    def work(ranks: Ranks) -> Any:
        like = [torch.zeros(2, 3, dtype=kind) for kind in kinds] + [torch.zeros(2), torch.zeros(()), torch.zeros(0)]
        mine: list[Any] = [torch.full((2, 3), 3.0 * ranks.rank, dtype=kind) for kind in kinds]
        # the fifth only the last rank has, the sixth nobody, the seventh has no elements
        mine += [torch.ones(2) * 3 if ranks.rank == 2 else None, None, torch.zeros(0)]
        note = [float("nan"), float("-inf"), 65535.0, ranks.rank + 0.5]
        means, notes = ranks.reduce(mine, like, note)
        assert [mean.dtype for mean in means[:4]] == kinds
        return [None if mean is None else torch.view_as_real(mean).tolist() if mean.is_complex() else mean.tolist()
                for mean in means], [str(notes)]  # fmt: skip

    answers = on_ranks(tmp_path, work, world=3)
    assert answers[0] == answers[1] == answers[2]
    means, (notes,) = answers[0]
    assert means[:3] == [[[3.0] * 3] * 2] * 3
    assert means[3] == [[[3.0, 0.0]] * 3] * 2
    assert means[4:] == [[1.0, 1.0], None, []]
    assert notes == str([[float("nan"), float("-inf"), 65535.0, rank + 0.5] for rank in range(3)])


def test_values_and_tensors_travel_exactly(tmp_path):
    def work(ranks: Ranks) -> Any:
        buffers = [
            torch.tensor(ranks.rank),
            torch.tensor([ranks.rank == 0]),
            torch.full((2, 2), 0.1 * ranks.rank).double(),
        ]
        ranks.spread(buffers)
        tensors = ranks.share_tensors({"a": torch.tensor([1 / 3], dtype=torch.float64)} if ranks.first else {})
        return [
            [buffer.tolist() for buffer in buffers], tensors["a"].item(), ranks.share(lambda: {"x": 0.1 + 0.2}),
            ranks.gather([ranks.rank] * ranks.rank), [len(data) for data in ranks.gather_bytes(b"x" * ranks.rank)],
            ranks.share(lambda: None), ranks.lead(lambda: "mine"), ranks.add(torch.ones(2)).tolist(),
        ]  # fmt: skip

    first, second = on_ranks(tmp_path, work)
    assert second[:6] + second[7:] == first[:6] + first[7:]
    assert first[:6] == [[0, [True], [[0.0] * 2] * 2], 1 / 3, {"x": 0.1 + 0.2}, [[], [1]], [0, 1], None]
    assert (first[6], second[6]) == ("mine", None)
    assert first[7] == [2.0, 2.0]


def _raised(call: Any) -> list[Any]:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - which one it is is what is looked at
        return [type(error).__name__, str(error), getattr(error, "told", None), getattr(error, "exit_code", None)]
    return []


def _fail(error: Exception) -> Any:
    raise error


def test_what_fails_on_one_rank_fails_on_all_and_one_tells(tmp_path):
    def work(ranks: Ranks) -> Any:
        def second(error: Exception) -> Any:
            return ranks.rank == 1 and _fail(error)

        return [
            _raised(lambda: ranks.together(lambda: second(NumericalFault("not finite")))),
            _raised(lambda: ranks.together(lambda: second(KeyError("k")))),
            _raised(lambda: ranks.share(lambda: _fail(BadInput("no such file")))),
            _raised(lambda: ranks.lead(lambda: _fail(ManifestError(["a: wrong"])))),
            _raised(lambda: ranks.check_same("the state", str(ranks.rank))),
            _raised(lambda: ranks.together(lambda: None)),
        ]

    first, second = on_ranks(tmp_path, work)
    assert first[0] == ["NumericalFault", "rank 1: not finite", False, 3]
    assert second[0] == ["NumericalFault", "rank 1: not finite", True, 3]
    assert first[1] == ["RankFailed", "rank 1: KeyError: 'k'", False, 3]
    assert [first[2], second[2]] == [["BadInput", "no such file", told, 2] for told in (False, True)]
    assert first[3][0] == "ManifestError"
    assert second[3] == ["RankFailed", first[3][1], True, 2]
    assert first[4][:2] == second[4][:2]
    assert first[4][0] == RanksDisagree.__name__
    assert "of rank 1 differs from rank 0's" in first[4][1]
    assert first[5] == second[5] == []


def test_a_collective_that_the_others_never_come_to_is_an_error(tmp_path):
    def work(ranks: Ranks) -> Any:
        return _raised(lambda: ranks.share(lambda: ranks.gather(1)))

    first, _ = on_ranks(tmp_path, work)
    assert first[0] == "RuntimeError"
    assert "never come" in first[1]


def test_the_first_rank_hears_that_another_was_asked_to_stop_while_it_works(tmp_path):
    def work(ranks: Ranks) -> Any:
        heard = ranks.asked_early(lambda: ranks.rank == 1)
        return ranks.lead(lambda: next(True for _ in iter(int, 1) if heard()))

    assert on_ranks(tmp_path, work) == [True, None]


def test_who_is_lost_is_named_among_three(tmp_path):
    def work(ranks: Ranks) -> Any:
        if ranks.rank == 1:
            (tmp_path / "answer1").write_text("null")
            os.kill(os.getpid(), signal.SIGKILL)
        found = _raised(lambda: ranks.gather(ranks.rank))
        if ranks.first:
            time.sleep(2.0)  # it keeps the meeting place, where the others look who is lost
        return found

    first, _, third = on_ranks(tmp_path, work, world=3)
    for found in (first, third):
        assert found[0] == RankLost.__name__
        assert found[1].startswith("rank 1 is gone or does not answer")
        assert "--resume" in found[1]


def test_a_rank_without_a_meeting_place_says_so(monkeypatch):
    monkeypatch.setattr("esper.tolaria.meeting.JOIN_SECONDS", 1.0)
    with pytest.raises(RankLost, match=r"rank 1 of 2 could not meet the others at 127.0.0.1"):
        Ranks.join(Place(1, 2, "127.0.0.1", free_port(), "test/0", "cpu", 1.0))


def test_an_evaluation_has_the_bits_of_one_rank(tmp_path):
    torch.set_num_threads(1)  # threads do not survive a fork
    task = noisy(0)
    data = task.train  # more than one batch of an evaluation
    assert len(data) > EVALUATION_BATCH
    alone = evaluate(task.model, task, data, torch.device("cpu"))

    def work(ranks: Ranks) -> Any:
        found = evaluate(task.model, task, data, torch.device("cpu"), ranks)
        return [found.loss, found.metrics, found.losses.tolist()]

    for answer in on_ranks(tmp_path, work, world=3):
        assert answer == [alone.loss, alone.metrics, alone.losses.tolist()]


def test_a_rank_that_never_comes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("esper.tolaria.meeting.JOIN_SECONDS", 1.5)
    with pytest.raises(RankLost, match=r"rank 1, 2 did not come to 127.0.0.1:\d+ within 1.5 s; all 3 ranks"):
        Ranks.join(Place(0, 3, "127.0.0.1", free_port(), "test/0", "cpu", 1.0))


def test_a_rank_started_again_does_not_meet_those_that_are_ending(tmp_path):
    port = free_port()

    def work(ranks: Ranks) -> Any:
        place = Place(ranks.rank, 2, "127.0.0.1", port, "test/0", "cpu", 1.0)
        found = _raised(lambda: Ranks.join(place))
        ranks.gather(None)
        return found

    for found in on_ranks(tmp_path, work, port=port):
        assert found[0] == RankLost.__name__
        assert "an earlier start of the run is still ending" in found[1]
