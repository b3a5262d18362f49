"""Random commands, legal or not, in any order: the lifecycle table holds and the state stays whole."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn

from esper.kasmina import Command, CommandKind, SeedSettings, wrap
from esper.kernel import PublicKeys, SigningKey, manifest_for, read_artifact, sign_built, sign_validated, write_artifact
from leyline.blueprint import BlueprintIR, node
from leyline.interface import Interface, Layout
from leyline.lifecycle import STAGES, Actor, Stage, allowed, check
from leyline.resources.enums import Blend, Objective

KEY = SigningKey.generate()
ROOT = Path(tempfile.mkdtemp(prefix="esper-stateful-"))
SLOTS = ("0", "2")
INTERFACE = Interface(Layout.VECTOR, 6)
AFFECTS = {stage for stage, info in STAGES.items() if info.affects_host}


class Source:
    keys = PublicKeys.of([KEY], [KEY])

    def path(self, artifact_id):
        return ROOT / artifact_id


def artifact(nodes) -> str:
    ir = BlueprintIR(nodes, "y", (Layout.VECTOR,))
    manifest = manifest_for(ir, INTERFACE, "fast", "eager", {}, saved_bytes_per_sample=0)
    made = read_artifact(write_artifact(ROOT, manifest, {}))
    sign_built(made, KEY)
    sign_validated(made, made.add_report({"risk": 0.0}), manifest.hardware, KEY)
    return manifest.id


ARTIFACTS = (
    artifact({"x": node("input"), "y": node("linear", "x", out="w")}),
    artifact({"x": node("input"), "y": node("act", "x", fn="tanh")}),
)
MISSING = ARTIFACTS[0][:-8] + "00000000"

seed_ids = st.sampled_from([f"{slot}/{n}" for slot in SLOTS for n in range(3)] + ["9/0", ""])
actors = st.sampled_from(list(Actor))


class Judged:
    def __init__(self, passed: bool) -> None:
        self.passed = passed

    def to_dict(self):
        return {"effect": 1.0 if self.passed else -1.0}


class Bank(RuleBasedStateMachine):
    @initialize(per_slot=st.integers(1, 2), active=st.integers(1, 2), judged=st.booleans())
    def start(self, per_slot, active, judged):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=True), nn.Linear(6, 6))
        options = SeedSettings(
            max_per_slot=per_slot, max_active=active, judged=judged, grafting_epochs=1, isolation_epochs=1
        )
        self.bank = wrap(self.model, list(SLOTS), torch.randn(4, 3), settings=options, source=Source())
        self.inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
        self.stages: dict[str, Stage] = {}
        self.epoch = 0

    def loss(self):
        return self.model(self.inputs).square().mean()

    def note(self):
        for event in self.bank.drain_events():
            known = self.stages.get(
                event.seed, Stage.GERMINATED if event.target is Stage.ROLLED_BACK else Stage.DORMANT
            )
            assert event.source is known
            assert event.target in allowed(event.source)
            fits = any(_checks(event, trainable) for trainable in (True, False))
            assert fits, event
            json.dumps(event.to_dict(), allow_nan=False)
            self.stages[event.seed] = event.target

    @rule(
        slot=st.sampled_from([*SLOTS, "7"]), name=st.sampled_from([*ARTIFACTS, MISSING, "nonsense", ""]),
        blend=st.sampled_from(Blend), objective=st.sampled_from(Objective), actor=actors,
    )  # fmt: skip
    def germinate(self, slot, name, blend, objective, actor):
        command = Command(
            CommandKind.GERMINATE, slot=slot, artifact_id=name, blend=blend, objective=objective, actor=actor
        )
        applied = self.bank.order(command)
        if applied.accepted:
            assert actor is Actor.TAMIYO
            assert applied.seed in self.bank.seeds
        else:
            assert applied.error
            assert applied.event is None
        self.note()

    @rule(
        kind=st.sampled_from([*CommandKind, *[CommandKind.ADVANCE] * 6]),
        seed=seed_ids,
        actor=actors,
        aim=st.none() | st.sampled_from(Stage),
    )
    def order(self, kind, seed, actor, aim):
        before = dict(self.stages)
        applied = self.bank.order(Command(kind, seed=seed, target=aim, actor=actor))
        self.note()
        if not applied.accepted and applied.event is None:
            assert self.stages == before
        if applied.accepted and kind is CommandKind.ADVANCE and aim is not None:
            assert self.stages[seed] is aim

    @rule()
    def advance_what_is_ready(self):
        for seed in list(self.bank.seeds.values()):
            if seed.ready:
                applied = self.bank.order(Command.advance(seed.id))
                assert applied.accepted or applied.event is not None or applied.error == "NoVerdict", applied
        self.note()

    @rule(epochs=st.integers(1, 6), slot=st.sampled_from(SLOTS), name=st.sampled_from(ARTIFACTS))
    def grow(self, epochs, slot, name):
        """What a run does most of the time: germinate where there is room, train, advance what is ready."""
        if self.bank.free(slot):
            self.bank.order(Command.germinate(slot, name))
        for _ in range(epochs):
            self.epoch_passes(2, True)
            self.advance_what_is_ready()
            self.judge(True)
            self.advance_what_is_ready()

    @rule(passed=st.booleans())
    def judge(self, passed):
        for seed in self.bank.seeds.values():
            if seed.stage is Stage.EVALUATING:
                self.bank.set_verdict(seed.id, Judged(passed))
                assert seed.ready

    @rule(steps=st.integers(0, 3), observe=st.booleans())
    def epoch_passes(self, steps, observe):
        for step in range(steps):
            self.bank.begin_step(step)
            self.model.zero_grad()
            self.loss().backward()
            self.bank.isolated_step(self.loss)
        if observe:
            with self.bank.observing(), torch.no_grad():
                self.loss()
        self.epoch += 1
        self.bank.boundary(self.epoch)
        self.note()

    @precondition(lambda self: any(seed.affects_host for seed in self.bank.seeds.values()))
    @rule(data=st.data())
    def a_kernel_fails(self, data):
        seed = data.draw(st.sampled_from([s for s in self.bank.seeds.values() if s.affects_host]), label="seed")
        kernel, name = seed.kernel, seed.artifact_id

        whole, fossil = kernel.forward, seed.stage is Stage.FOSSILIZED

        def broken(u):
            if fossil and not kernel.training:  # a fossil falls back on its reference path, which works
                return whole(u)
            raise RuntimeError("lost")

        known = seed.reference_only
        kernel.forward = broken
        self.bank.begin_step(0)
        self.loss().backward()
        del kernel.forward
        self.note()
        # a fossil that failed before runs its reference path: its artifact was evicted then
        assert known or name in self.bank.loader.cache.banned
        assert self.stages[seed.id] in (Stage.ERROR_RECOVERY, Stage.FOSSILIZED)
        # other examples use the same artifacts
        self.bank.loader.cache._banned.clear()

    @rule()
    def reset_what_is_culled(self):
        reference = {name: tensor.clone() for name, tensor in self.bank.host_tensors().items()}
        for seed in self.bank.seeds.values():
            if seed.stage in (Stage.CULLED, Stage.CANCELLED):
                assert self.bank.cull_into_dormant(seed.id, reference).passed
                assert seed.kernel is None
        self.note()

    @rule()
    def save_and_restore(self):
        tensors, meta = self.bank.export_state(host=True)
        meta = json.loads(json.dumps(meta, allow_nan=False))
        self.bank.import_state(tensors, meta)
        again, meta_again = self.bank.export_state(host=True)
        assert json.loads(json.dumps(meta_again)) == meta
        assert {n: t.numpy().tobytes() for n, t in again.items()} == {
            n: t.numpy().tobytes() for n, t in tensors.items()
        }

    @rule()
    def fork(self):
        model, bank = self.bank.fork()
        with torch.no_grad():
            assert torch.equal(model(self.inputs), self.model(self.inputs))
        assert bank.export_state()[1] == self.bank.export_state()[1]

    @invariant()
    def the_state_tensor_is_whole_and_says_what_the_seeds_say(self):
        if not hasattr(self, "bank"):
            return
        self.bank.state.verify()
        for seed in self.bank.seeds.values():
            assert self.stages[seed.id] is seed.stage
            if seed.stage is not Stage.DORMANT:
                row = self.bank.state.row(self.bank.row(seed))
                assert row["lifecycle"] == seed.stage
        occupied = int((self.bank.state.arrays["lifecycle"] != int(Stage.DORMANT)).sum())
        assert occupied == sum(len(self.bank.seeds_in(slot)) for slot in SLOTS)

    @invariant()
    def limits_hold(self):
        if not hasattr(self, "bank"):
            return
        assert sum(seed.active for seed in self.bank.seeds.values()) <= self.bank.settings.max_active
        for slot in SLOTS:
            assert len(self.bank.seeds_in(slot)) <= self.bank.settings.max_per_slot
        for seed in self.bank.seeds.values():
            if seed.stage in (Stage.DORMANT, Stage.ROLLED_BACK, Stage.GERMINATED, Stage.LOADING):
                assert seed.kernel is None
        assert set(self.bank.grafted_parameters()) == {
            seed.id for seed in self.bank.seeds.values() if seed.stage in AFFECTS and seed.trainable
        }


def _checks(event, trainable: bool) -> bool:
    try:
        check(event.source, event.target, event.actor, trainable)
    except Exception:  # noqa: BLE001  which of the two kinds of kernel it was is not in the event
        return False
    return True


TestBank = Bank.TestCase
TestBank.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
