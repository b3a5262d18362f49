"""People's commands to a run, and what the run tells: on the bus in memory, and on a broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import buses
from esper.oona import Bus, InProcessBus
from esper.tolaria.line import Stopped
from esper.tolaria.state import tensors_digest
from esper.tolaria.trainer import Trainer
from faults import FaultyBus
from forks import die, forked
from leyline.envelope import FRESHNESS, seal
from leyline.lifecycle import Stage
from leyline.messages import AdaptationCommand, encode, type_of
from leyline.resources import TrainingRun
from leyline.topics import COMMANDS
from leyline.v1 import control_pb2
from people import RUN, Audience, Keys, Person
from runs import fixed, trainer
from shelves import Shelf

GROWS = fixed("blocks.0", "conv_block", judge={"cooldownSteps": 8})
SEED = "blocks.0/0"
When = Callable[[Trainer], bool]


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return trainer(GROWS).shelf


@pytest.fixture(params=["in-process", "pulsar"])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    opened = buses.open_with_topics_of_runs(request.param)
    yield opened
    opened.close()


@pytest.fixture
def keys() -> Keys:
    return Keys()


def go_on(of: TrainingRun, out: Path, shelf: Shelf, bus: Bus | None, keys: Keys, instance: str = "one") -> Trainer:
    out.mkdir(exist_ok=True)
    one = trainer(of, out, shelf=shelf)
    if bus is not None:
        keys.attach(one, bus, instance)
    shelf._new = sorted(shelf._paths)
    offset = one.resume()
    one.recorder.open(one.task.metric, offset, one.line.step)
    if bus is not None:
        one.outside.begin()
    return one


def leave(one: Trainer) -> None:
    outside = one.outside
    if outside.desk is not None:
        outside.desk.close()
    if outside.herald is not None:
        outside.herald.close()
    one.recorder.close()


def at(one: Trainer, when: When, say: Callable[[], Any], arrives: bool = True) -> None:
    """Say something the first time it holds at the end of an epoch, and have it arrive before the boundary goes on."""
    observe, said = one.observe, []

    def observed(epoch: int, stats: Any) -> None:
        observe(epoch, stats)
        if not said and when(one):
            said.append(say())
            deadline = time.monotonic() + 30
            while arrives and one.outside.desk is not None and not one.outside.desk.waiting:
                assert time.monotonic() < deadline, "the command did not arrive"
                time.sleep(0.01)

    one.observe = observed  # type: ignore[method-assign]


def in_stage(*stages: Stage) -> When:
    return lambda one: any(seed.stage in stages for seed in one.bank.seeds.values())


def after(epoch: int) -> When:
    return lambda one: one.epoch == epoch


def digest(one: Trainer) -> str:
    return tensors_digest(one.state().tensors)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> str:
    one = go_on(GROWS, tmp_path_factory.mktemp("undisturbed"), shelf, None, Keys())
    one.train()
    leave(one)
    return digest(one)


def test_news_of_every_epoch_and_seed_and_the_bits_of_a_run_that_tells_nobody(
    tmp_path: Path, shelf: Shelf, bus: Bus, keys: Keys, undisturbed: str
) -> None:
    audience = Audience(bus, keys)
    one = go_on(GROWS, tmp_path, shelf, bus, keys)
    one.outside.hardware = "here"
    one.controller._on_report = one.outside.report  # type: ignore[attr-defined]
    one.train()
    assert one.outside.herald is not None
    assert one.outside.herald.finish(30) == 0
    audience.listen()
    assert audience.epochs == list(range(1, 13))
    assert [report.seed_id for report in audience.reports] == [SEED]
    assert audience.reports[0].hardware == "here"
    last = [packet for _, packet in audience.heard["system.events.epoch"]][-1]
    assert last.run == RUN
    assert last.budget.flops_used > 0
    assert [seed.seed_id for seed in last.seeds] == [SEED]
    leave(one)
    assert digest(one) == undisturbed


def test_who_follows_a_run_hears_how_its_last_seeds_were_settled(
    tmp_path: Path, shelf: Shelf, bus: Bus, keys: Keys
) -> None:
    """The last epoch leaves a seed on trial; the verdict comes after it."""
    audience = Audience(bus, keys)
    late = fixed("blocks.0", "conv_block", epoch=7, judge={"cooldownSteps": 8})
    one = go_on(late, tmp_path, shelf, bus, keys)
    one.train()
    assert one.outside.herald is not None
    assert one.outside.herald.finish(30) == 0
    audience.listen()
    assert audience.epochs == [*range(1, 13), 12]
    packets = [payload for _, payload in audience.heard["system.events.epoch"]]
    before, last = ([Stage(seed.stage) for seed in packet.seeds] for packet in packets[-2:])
    assert before != last == [seed.stage for seed in one.bank.seeds.values()]
    assert len(set(audience.ids)) == len(audience.ids)
    leave(one)


def test_pause_waits_without_a_step_and_outlives_the_process(
    tmp_path: Path, shelf: Shelf, bus: Bus, keys: Keys, undisturbed: str
) -> None:
    audience, person = Audience(bus, keys), Person(bus, keys)
    one = go_on(GROWS, tmp_path, shelf, bus, keys)
    at(one, after(3), lambda: person.say("pause"))
    began, seen = time.monotonic(), []

    def stop() -> bool:  # SIGTERM, while it is paused
        if one.outside.paused:
            seen.append(one.line.step)
        return len(seen) > 3 and time.monotonic() - began > 1.0

    with pytest.raises(Stopped):
        one.train(stop)
    assert set(seen) == {3 * 8}, "no step was trained"
    leave(one)
    two = go_on(GROWS, tmp_path, shelf, bus, keys, "two")
    assert two.outside.paused
    person.say("checkpoint")
    resumed = []

    def asked() -> bool:
        if not resumed and two.outside.desk is not None and two.outside.desk.results[-1].asked.action == "checkpoint":
            resumed.append(person.say("resume"))
        return False

    two.train(asked)
    assert two.outside.herald is not None
    two.outside.herald.finish(30)
    audience.listen()
    assert [answer.reason for answer in audience.answers.values()] == [
        "the run is paused", f"checkpoint step-{24:012d}", "the run is running",
    ]  # fmt: skip
    assert all(answer.applied for answer in audience.answers.values())
    leave(two)
    assert digest(two) == undisturbed


@pytest.mark.parametrize(
    ("stage", "action", "ends"),
    [
        (Stage.TRAINING, "cancel", Stage.DORMANT),
        (Stage.TRAINING, "cull", Stage.DORMANT),
        (Stage.GRAFTING, "cull", Stage.DORMANT),
        (Stage.STABILIZATION, "cull", Stage.DORMANT),
    ],
)
def test_a_seed_is_given_up_through_the_lifecycle_and_a_resume_gives_the_same_bits(
    stage: Stage, action: str, ends: Stage, tmp_path: Path, shelf: Shelf, keys: Keys, undisturbed: str
) -> None:
    """The same command at the same boundary, once with a kill -9 two epochs later."""
    found = {}
    for name in ("whole", "killed"):
        out = tmp_path / name

        def first(out: Path = out, name: str = name) -> None:
            bus = InProcessBus()
            person = Person(bus, keys)
            one = go_on(GROWS, out, shelf, bus, keys)
            at(one, in_stage(stage), lambda: person.say(action, SEED))
            if name == "killed":
                commit = one.commit

                def deadly(*given: Any, **more: Any) -> None:
                    commit(*given, **more)
                    results = one.outside.desk.results if one.outside.desk else ()
                    if results and one.epoch >= results[0].epoch + 2:
                        die()

                one.commit = deadly  # type: ignore[method-assign]
            one.train()
            leave(one)

        assert forked(first) == (0 if name == "whole" else -9)
        two = go_on(GROWS, out, shelf, InProcessBus(), keys, "two")
        two.train()
        assert two.bank.seeds[SEED].stage is ends
        entries = two.commits.store.journal.entries() if two.commits else []
        ((order),) = [order for entry in entries for order in entry["orders"] if order.get("actor") == "person"]
        assert (order["kind"], order["seed"], order["accepted"]) == (action, SEED, True)
        assert two.outside.desk is not None
        assert [(result.asked.action, result.applied) for result in two.outside.desk.results] == [(action, True)]
        leave(two)
        found[name] = digest(two)
    assert found["whole"] == found["killed"]
    assert found["whole"] != undisturbed


def test_what_the_lifecycle_does_not_allow_is_refused_with_the_reason(
    tmp_path: Path, shelf: Shelf, bus: Bus, keys: Keys, undisturbed: str
) -> None:
    audience, person = Audience(bus, keys), Person(bus, keys)
    one = go_on(GROWS, tmp_path, shelf, bus, keys)
    said: list[AdaptationCommand] = []
    at(
        one,
        in_stage(Stage.GRAFTING),
        lambda: said.extend([person.say("cancel", SEED), person.say("cull", "blocks.9/9")]),
    )
    one.train()
    assert one.outside.herald is not None
    one.outside.herald.finish(30)
    audience.listen()
    late, unknown = (audience.answers[each.command_id] for each in said)
    assert (late.applied, late.error) == (False, "LifecycleError")
    assert "GRAFTING to CANCELLED" in late.reason
    assert (unknown.applied, unknown.error) == (False, "UnknownSeed")
    assert f"seeds: {SEED}" in unknown.reason
    leave(one)
    assert digest(one) == undisturbed


def test_checkpoint_now_is_durable_though_none_is_due(tmp_path: Path, shelf: Shelf, keys: Keys) -> None:
    rare = fixed("blocks.0", "conv_block", judge={"cooldownSteps": 8}, checkpoints={"everyEpochs": 1000})

    def doomed() -> None:
        bus = InProcessBus()
        person = Person(bus, keys)
        one = go_on(rare, tmp_path, shelf, bus, keys)
        at(one, after(5), lambda: person.say("checkpoint"))
        advance = one.advance

        def deadly(epoch: int, *given: Any) -> Any:
            if epoch == 8:
                die()
            return advance(epoch, *given)

        one.advance = deadly  # type: ignore[method-assign]
        one.train()

    assert forked(doomed) == -9
    bus = InProcessBus()
    audience = Audience(bus, keys)
    two = go_on(rare, tmp_path, shelf, bus, keys, "two")
    assert two.epoch == 5
    assert two.outside.herald is not None
    two.outside.herald.finish(30)
    audience.listen()
    assert audience.epochs == [1, 2, 3, 4, 5], "told by the resumed process: nobody had confirmed it"
    leave(two)


# -- forged, replayed, stale -------------------------------------------------------------------------------------------


def hostile(person: Person, keys: Keys) -> dict[str, list[bytes]]:
    """Commands that must have no effect, by the name of what refuses them."""
    pause = control_pb2.Pause()

    def made(**change: Any) -> AdaptationCommand:
        given: dict[str, Any] = {
            "command_id": "x", "run": RUN, "actor": control_pb2.ACTOR_PERSON, "pause": pause
        } | change  # fmt: skip
        return AdaptationCommand(**given)

    good = person.sealed(made(command_id="good", checkpoint=control_pb2.Checkpoint(), pause=None))
    middle = len(good) // 2
    return {
        "UnknownKey": [person.sealed(made(), signer=keys.stranger)],
        "ForgedEnvelope": [good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]],
        "StaleEnvelope": [
            person.sealed(made(), now=time.time() - 2 * FRESHNESS), person.sealed(made(), now=time.time() + 3600)
        ],
        "OutOfSequence": [person.sealed(made(), sequence=0)],
        "failed": [
            person.sealed(made(run="other"), run="other"),
            person.sealed(made(), run="other"),
            person.sealed(made(actor=control_pb2.ACTOR_TAMIYO)),
            person.sealed(made(pause=None, advance=control_pb2.Advance(seed_id=SEED, target=9))),  # type: ignore[arg-type]
            person.sealed(made(pause=None, rollback=control_pb2.Rollback())),
            seal(
                encode(made()), type_of(made()), COMMANDS, "tolaria/thief", 1, keys.trainer, time.time(), FRESHNESS,
                run=RUN,
            ),
        ],
    }  # fmt: skip


def test_forged_stale_and_foreign_commands_do_nothing_and_are_counted(
    tmp_path: Path, shelf: Shelf, bus: Bus, keys: Keys, undisturbed: str
) -> None:
    person = Person(bus, keys)
    one = go_on(GROWS, tmp_path, shelf, bus, keys)
    envelopes = hostile(person, keys)
    desk = one.outside.desk
    assert desk is not None

    def attack() -> None:
        person.say("checkpoint")  # an honest one, so that a lower sequence is out of order
        for kind in envelopes.values():
            for envelope in kind:
                bus.publish(COMMANDS, envelope, key=RUN)
        bus.flush(10)
        deadline = time.monotonic() + 30
        while sum(desk.refused().values()) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)

    at(one, after(2), attack)
    one.train()
    for name in ("UnknownKey", "StaleEnvelope", "OutOfSequence"):
        assert desk.refused().get(name), (name, desk.refused())
    assert desk.refused().get("ForgedEnvelope") or desk.refused().get("MalformedEnvelope")
    assert {result.asked.action for result in desk.results} <= {"checkpoint"}
    assert not one.outside.paused
    leave(one)
    assert digest(one) == undisturbed


def test_a_recorded_command_is_not_done_twice_not_even_by_the_next_process(
    tmp_path: Path, shelf: Shelf, keys: Keys
) -> None:
    bus = InProcessBus()
    person = Person(bus, keys)
    recorded = person.sealed(
        AdaptationCommand(command_id="c", run=RUN, actor=control_pb2.ACTOR_PERSON, pause=control_pb2.Pause())
    )
    one = go_on(GROWS, tmp_path, shelf, bus, keys)

    def said() -> None:
        bus.publish(COMMANDS, recorded, key=RUN)
        person.say("resume")

    at(one, after(3), said)
    again = []

    def stop() -> bool:
        if one.epoch == 5 and not again:
            again.append(bus.publish(COMMANDS, recorded, key=RUN))
        return one.epoch >= 7

    with pytest.raises(Stopped):
        one.train(stop)
    desk = one.outside.desk
    assert desk is not None
    assert [result.asked.action for result in desk.results] == ["pause", "resume"]
    assert desk.refused().keys() == {"ReplayedEnvelope"}
    leave(one)
    two = go_on(GROWS, tmp_path, shelf, bus, keys, "two")
    bus.publish(COMMANDS, recorded, key=RUN)  # still fresh, but this process has never seen it
    two.train(lambda: two.epoch >= 20)
    assert two.outside.desk is not None
    assert two.outside.desk.refused().keys() == {"OutOfSequence"}
    assert not two.outside.paused
    leave(two)


def test_on_a_bus_that_does_everything_wrong_a_command_is_done_once(
    tmp_path: Path, shelf: Shelf, keys: Keys, undisturbed: str
) -> None:
    bus = FaultyBus(InProcessBus(), seed=3)
    person = Person(bus, keys)  # type: ignore[arg-type]
    one = go_on(GROWS, tmp_path, shelf, bus, keys)  # type: ignore[arg-type]
    said: list[str] = []

    def say() -> None:
        for action in ("pause", "resume", "checkpoint") * 5:
            said.append(person.say(action).command_id)
        bus.settle()

    at(one, after(2), say)
    last: list[float] = []

    def help_on() -> bool:  # whatever was lost on the way: a person would resume it
        if one.outside.paused and (not last or time.monotonic() - last[-1] > 0.3):
            last.append(time.monotonic())
            person.say("resume")
            bus.settle()
        return False

    one.train(help_on)
    assert one.outside.desk is not None
    done = [result.asked.command_id for result in one.outside.desk.results]
    assert len(done) == len(set(done)), "each at most once"
    leave(one)
    assert digest(one) == undisturbed
