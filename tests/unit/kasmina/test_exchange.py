"""State out and in: checkpoints, forks and adoption are exact to the last bit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from esper.errors import CheckpointMismatch, SlotError, StateCorruption
from esper.kasmina import Command, SeedSettings, bank_of, wrap
from leyline.lifecycle import Stage
from leyline.resources.enums import AlphaSchedule, Blend, Objective


def bits(tensors) -> dict[str, bytes]:
    return {name: tensor.detach().contiguous().numpy().tobytes() for name, tensor in tensors.items()}


class Restless(nn.Module):
    """A host with BatchNorm, dropout and a buffer outside its state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act1 = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU()
        self.second, self.act2, self.drop = nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.2)
        self.head = nn.Linear(16, 4)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.steps += 1
        return self.head(self.drop(self.act2(self.second(self.act1(self.norm(self.first(x)))))))


@pytest.fixture
def start(batch, shelf, run_of, blueprints):
    def build(objective=Objective.NONE, ir=None, **settings):
        torch.manual_seed(0)
        inputs, targets = batch
        model = Restless()
        options = {"run_seed": 3, "max_active": 2, "grafting_epochs": 3, "objective": objective, **settings}
        bank = wrap(model, ["act1", "act2"], inputs, settings=SeedSettings(**options), source=shelf)
        run = run_of(model, bank, inputs, targets)
        for slot in ("act1", "act2"):
            artifact = shelf.add(ir or blueprints["mlp"]("default"), bank.slots[slot].interface)
            bank.order(Command.germinate(slot, artifact, blueprint="mlp", schedule=AlphaSchedule.COSINE))
        return run

    return build


def optimizer_state(run):
    named = {id(p): name for name, p in run.bank.host_parameters()}
    named |= {id(p): f"{seed}:{n}" for seed, ps in run.bank.grafted_parameters().items() for n, p in ps}
    return {(named[id(p)], k): v.clone() for p, state in run.optimizer.state.items() for k, v in state.items()}


def continue_with(run, model, bank, run_of):
    """A run of another model and bank, with the same optimizer state and step."""
    other = run_of(model, bank, run.inputs, run.targets)
    other.step, other.epoch = run.step, run.epoch
    other.sync()
    saved = optimizer_state(run)
    named = dict(bank.host_parameters())
    named.update({f"{seed}:{n}": p for seed, ps in bank.grafted_parameters().items() for n, p in ps})
    for (name, key), value in saved.items():
        if name in named:
            other.optimizer.state[named[name]][key] = value.clone()
    return other


STAGES = [
    (Objective.RECONSTRUCTION, Stage.TRAINING), (Objective.SHADOW, Stage.TRAINING), (Objective.TASK, Stage.TRAINING),
    (Objective.NONE, Stage.GERMINATED), (Objective.NONE, Stage.LOADING), (Objective.NONE, Stage.GRAFTING),
    (Objective.NONE, Stage.STABILIZATION), (Objective.NONE, Stage.FINE_TUNING), (Objective.NONE, Stage.FOSSILIZED),
]  # fmt: skip


@pytest.mark.parametrize(("objective", "stage"), STAGES)
@pytest.mark.parametrize("way", ["resume", "fork", "rewind"])
def test_training_goes_on_with_the_same_bits(start, shelf, run_of, batch, objective, stage, way):
    run = start(objective)
    if stage is not Stage.GERMINATED:
        run.bring_to("act1/0", stage)
        run.sync()
        for _ in range(2):  # in the middle of an epoch, in the middle of a ramp
            run.train_step()
    tensors, meta = run.bank.export_state(host=True)
    tensors, meta = load(save(tensors)), json.loads(json.dumps(meta, allow_nan=False))
    optimizer = optimizer_state(run)
    step, epoch = run.step, run.epoch
    if way == "fork":
        model, bank = run.bank.fork()
        other = continue_with(run, model, bank, run_of)
        losses = [run.train_step() for _ in range(7)]
    else:
        losses = [run.train_step() for _ in range(7)]
        run.bank.boundary(run.epoch + 1)
        expected = bits(run.bank.export_state(host=True)[0])
        meta_after = run.bank.export_state()[1]
        if way == "resume":
            model = Restless()
            bank = wrap(model, ["act1", "act2"], batch[0], settings=run.bank.settings)
        else:
            model, bank = run.model, run.bank
        host = {n: tensors[f"host/{n}"] for n in bank.host_tensors()}
        with torch.no_grad():
            for name, tensor in bank.host_tensors().items():
                tensor.copy_(host[name])
        bank.import_state(tensors, meta, shelf)
        assert bits(bank.export_state(host=True)[0]) == bits(tensors)
        assert json.loads(json.dumps(bank.export_state()[1])) == {**meta}
        other = run_of(model, bank, *batch)
        other.step, other.epoch = step, epoch
        other.sync()
        named = dict(bank.host_parameters())
        named.update({f"{seed}:{n}": p for seed, ps in bank.grafted_parameters().items() for n, p in ps})
        for (name, key), value in optimizer.items():
            other.optimizer.state[named[name]][key] = value.clone()
    assert [other.train_step() for _ in range(7)] == losses
    other.bank.boundary(other.epoch + 1)
    if way == "fork":
        run.bank.boundary(run.epoch + 1)
        expected, meta_after = bits(run.bank.export_state(host=True)[0]), run.bank.export_state()[1]
    assert bits(other.bank.export_state(host=True)[0]) == expected
    assert other.bank.export_state()[1] == meta_after


def test_a_fork_shares_no_tensor_and_has_its_own_hooks(start, run_of):
    run = start()
    run.bring_to("act1/0", Stage.STABILIZATION)
    run.model.act1.register_forward_hook(lambda module, args, output: None)
    model, bank = run.bank.fork()
    assert bank_of(model) is bank
    assert bank is not run.bank

    def storages(one):
        tensors = [*one.host_tensors().values(), *one.state.arrays.values()]
        for seed in one.seeds.values():
            tensors += [seed.alpha_buffer, *(seed.kernel.parameters() if seed.kernel is not None else ())]
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}

    assert not storages(run.bank) & storages(bank)
    assert len(model.act1._forward_hooks) == 2
    assert len(run.model.act1._forward_hooks) == 2
    run.model.eval()
    model.eval()
    assert torch.equal(model(run.inputs), run.model(run.inputs))
    with torch.no_grad():
        for parameter in run.bank.seeds["act1/0"].kernel.parameters():
            parameter.add_(1.0)
    assert not torch.equal(model(run.inputs), run.model(run.inputs))
    # what happens to one is not told to the other
    bank.order(Command.cull("act1/0"))
    assert run.bank.seeds["act1/0"].stage is Stage.STABILIZATION
    assert run.bank.drain_events()[-1].target is Stage.STABILIZATION


def test_the_twin_is_the_run_that_never_had_the_seed(start, run_of):
    run, plain = start(), start()
    for one in (run, plain):
        one.bring_to("act1/0", Stage.TRAINING)
    assert run.bank.order(Command.advance("act1/0")).accepted
    model, bank = run.bank.fork(without="act1/0")
    assert "act1/0" not in bank.seeds
    assert bank.state.row(0)["lifecycle"] == Stage.DORMANT
    bank.state.verify()
    twin = continue_with(run, model, bank, run_of)
    plain.bank.order(Command.cancel("act1/0"))
    plain.bank.cull_into_dormant("act1/0")
    for _ in range(2):
        losses = []
        for one in (run, twin, plain):
            one.train_epoch()
            losses.append(one.train_step())
        assert losses[1] == losses[2]
        assert losses[0] != losses[1]
    assert bits(twin.bank.host_tensors()) == bits(plain.bank.host_tensors())


def test_a_culled_seed_leaves_the_twin_as_the_host(start, run_of):
    run = start()
    for seed in ("act1/0", "act2/0"):
        run.bring_to(seed, Stage.TRAINING)
    run.bring_to("act2/0", Stage.FOSSILIZED)
    run.bank.order(Command.advance("act1/0"))
    model, bank = run.bank.fork(without="act1/0")
    twin = continue_with(run, model, bank, run_of)
    for one in (run, twin):
        one.train_epoch()
    assert bits(run.bank.host_tensors()) != bits(twin.bank.host_tensors())
    run.bank.order(Command.cull("act1/0", reason="lost"))
    objects = {name: id(tensor) for name, tensor in run.bank.host_tensors().items()}
    kept = run.bank.seeds["act2/0"].kernel
    tensors, meta = twin.bank.export_state(host=True)
    run.bank.adopt((load(save(tensors)), json.loads(json.dumps(meta))))
    assert bits(run.bank.host_tensors()) == bits(twin.bank.host_tensors())
    assert {name: id(tensor) for name, tensor in run.bank.host_tensors().items()} == objects
    assert run.bank.seeds["act2/0"].kernel is kept
    assert bits(dict(kept.named_parameters())) == bits(dict(twin.bank.seeds["act2/0"].kernel.named_parameters()))
    run.leave("act1/0")
    gate = run.bank.cull_into_dormant("act1/0", bank.host_tensors(), run.optimizer)
    assert gate.passed, gate.reason
    run.model.eval()
    model.eval()
    assert torch.equal(run.model(run.inputs), model(run.inputs))
    run.bank.state.verify()
    assert [seed.stage for seed in run.bank.seeds.values()] == [Stage.DORMANT, Stage.FOSSILIZED]


def test_adopting_a_bank_directly_and_what_does_not_fit(start, run_of, batch):
    run = start()
    run.bring_to("act1/0", Stage.GRAFTING)
    model, bank = run.bank.fork(without="act1/0")
    with torch.no_grad():
        model.head.bias.add_(1.0)
    run.bank.order(Command.cull("act1/0"))
    run.bank.adopt(bank)
    assert torch.equal(run.model.head.bias, model.head.bias)
    another = nn.Sequential(nn.Linear(8, 16))
    other = wrap(another, "0", batch[0])
    before = bits(run.bank.host_tensors())
    with pytest.raises(CheckpointMismatch, match="differs from this one"):
        run.bank.adopt(other)
    copied, with_seed = run.bank.fork()
    second = start()
    second.bring_to("act1/0", Stage.GRAFTING)
    with pytest.raises(CheckpointMismatch, match="act1/0"):
        with_seed.adopt(second.bank)
    assert bank_of(copied) is with_seed
    assert bits(run.bank.host_tensors()) == before


def test_forks_of_what_can_not_be_copied_are_explained(start, batch):
    run = start()
    with pytest.raises(SlotError, match="no seed 'act9/0'"):
        run.bank.fork(without="act9/0")
    run.bring_to("act1/0", Stage.GRAFTING)
    run.model.lock = __import__("threading").Lock()
    with pytest.raises(SlotError, match="can't be copied"):
        run.bank.fork()
    assert len(run.model.act1._forward_hooks) == 1


def test_a_state_of_other_slots_or_damaged_is_refused_and_changes_nothing(start, batch, shelf):
    run = start()
    run.bring_to("act1/0", Stage.GRAFTING)
    tensors, meta = run.bank.export_state()
    models = Restless(), Restless()
    fresh = wrap(models[0], ["act1", "act2"], batch[0], source=shelf, settings=run.bank.settings)
    narrow = wrap(models[1], ["act1"], batch[0], source=shelf, settings=run.bank.settings)
    with pytest.raises(CheckpointMismatch, match="2 slots of 1 places, this model has 1 of 1"):
        narrow.import_state(tensors, meta)
    with pytest.raises(CheckpointMismatch, match="schema 99"):
        fresh.import_state(tensors, {**meta, "schema": 99})
    with pytest.raises(StateCorruption):
        fresh.import_state({**tensors, "state/alpha": tensors["state/alpha"] + 1}, meta)
    with pytest.raises(StateCorruption):
        fresh.import_state({k: v for k, v in tensors.items() if k != "state/health"}, meta)
    lost = {k: v for k, v in tensors.items() if not k.endswith("/alpha") or k.startswith("state")}
    with pytest.raises(CheckpointMismatch, match="damaged"):
        fresh.import_state(lost, meta)
    with pytest.raises(CheckpointMismatch, match="damaged"):
        fresh.import_state(tensors, {**meta, "seeds": [{**meta["seeds"][0], "stage": "BLOOMING"}]})
    assert fresh.seeds == {}
    fresh.state.verify()
    assert not any(module._forward_hooks for module in fresh.model.modules())
    fresh.source = None
    with pytest.raises(CheckpointMismatch, match="no kernel source"):
        fresh.import_state(tensors, meta)


def test_going_back_to_a_state_in_which_an_evicted_kernel_ran_is_exact(start):
    run = start()
    run.bring_to("act1/0", Stage.GRAFTING)
    tensors, meta = run.bank.export_state(host=True)
    seed = run.bank.seeds["act1/0"]
    run.bank.fault(seed, RuntimeError("boom"))
    run.bank.boundary(run.epoch + 1)
    assert run.bank.seeds["act1/0"].stage is Stage.CULLED
    run.bank.import_state(tensors, meta)
    assert run.bank.seeds["act1/0"].stage is Stage.GRAFTING
    assert bits(run.bank.export_state(host=True)[0]) == bits(tensors)
    # the eviction outlives the rollback
    applied = run.bank.order(Command.germinate("act2", seed.artifact_id))
    assert applied.error in ("Evicted", "SlotFull")
    assert seed.artifact_id in run.bank.loader.cache.banned


def test_verdicts_and_odd_numbers_survive(start, shelf):
    run = start()
    run.bring_to("act1/0", Stage.EVALUATING)

    class Judged:
        passed = True

        def to_dict(self):
            return {"t": float("inf"), "effect": 0.1, "passed": True, "words": "yes"}

    run.bank.set_verdict("act1/0", Judged())
    run.bank.order(Command.advance("act1/0"))
    tensors, meta = run.bank.export_state()
    run.bank.import_state(tensors, json.loads(json.dumps(meta, allow_nan=False)))
    seed = run.bank.seeds["act1/0"]
    assert seed.verdict.passed
    assert seed.verdict.to_dict() == Judged().to_dict()
    assert seed.history[-1].numbers["g4_t"] == float("inf")
    assert run.bank.export_state()[1] == meta


def test_the_plan_for_saving_names_kernels_in_order(start, blueprints):
    run = start()
    assert run.bank.deploy_plan() == []
    run.bring_to("act2/0", Stage.FOSSILIZED)
    (slot,) = run.bank.deploy_plan()
    assert (slot.id, slot.module_path, slot.chunk, slot.chunks) == ("act2", "act2", 0, 1)
    (kernel,) = slot.kernels
    assert kernel.alpha == 1.0
    assert kernel.blend is Blend.RESIDUAL
    assert kernel.kernel is run.bank.seeds["act2/0"].kernel
    assert kernel.blueprint == "mlp"
