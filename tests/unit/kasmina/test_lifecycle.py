"""Seeds go through their stages, are stopped by gates, and leave an event for every move."""

from __future__ import annotations

import pytest
import torch

from esper.kasmina import Command, CommandKind, SeedSettings, wrap
from esper.kasmina.boundary import promote
from esper.kasmina.ending import conclude
from leyline.errors import LifecycleError
from leyline.identity import kernel_number
from leyline.lifecycle import Actor, Stage, check
from leyline.resources.enums import AlphaSchedule, Blend, Freeze, Objective

LIFE = [
    Stage.GERMINATED, Stage.LOADING, Stage.TRAINING, Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING,
    Stage.FINE_TUNING, Stage.FOSSILIZED,
]  # fmt: skip


def test_a_seed_lives_the_whole_table(start, blueprints):
    run, seed = start(blueprints["mlp"](), isolation_epochs=1, objective="Reconstruction")
    run.bring_to(seed, Stage.FOSSILIZED)
    events = run.bank.drain_events()
    assert [event.target for event in events] == LIFE
    assert run.bank.drain_events() == []
    for event in events:
        transition = check(event.source, event.target, event.actor)
        assert [result.gate for result in event.gates] == list(transition.gates)
        assert event.reason
        assert all(result.passed for result in event.gates)
    assert events[0].reason == "plateau"
    assert events[0].blueprint == "mlp"
    assert run.bank.seeds[seed].history == events
    assert "g4_effect" in events[-1].numbers
    row = run.bank.state.row(0)
    assert row["lifecycle"] == Stage.FOSSILIZED
    assert row["kernel_id"] == kernel_number(run.bank.seeds[seed].artifact_id)
    assert row["alpha"] == 1.0
    assert run.bank.stage_counts() == {"FOSSILIZED": 1}


def test_a_fixed_function_skips_isolation_and_fine_tuning(start, blueprints):
    run, seed = start(blueprints["squash"]())
    run.bring_to(seed, Stage.FOSSILIZED)
    stages = [event.target for event in run.bank.drain_events()]
    assert stages == [s for s in LIFE if s not in (Stage.TRAINING, Stage.FINE_TUNING)]
    assert run.bank.grafted_parameters() == {}


def test_a_seed_never_moves_by_itself(start, blueprints):
    run, seed = start(blueprints["mlp"]())
    for _ in range(5):
        run.train_epoch()
    mine = run.bank.seeds[seed]
    assert mine.stage is Stage.TRAINING
    assert mine.ready


def test_alpha_rises_by_the_schedule_over_the_stated_epochs(start, blueprints):
    run, seed = start(blueprints["mlp"](), grafting_epochs=2, alpha_schedule=AlphaSchedule.LINEAR)
    run.bring_to(seed, Stage.GRAFTING)
    mine = run.bank.seeds[seed]
    assert mine.alpha == 0.0
    assert mine.alpha_buffer.shape == ()
    seen = []
    for _ in range(10):
        run.train_step()
        seen.append(mine.alpha)
    assert seen == pytest.approx([step / 10 for step in range(1, 11)])
    run.bank.boundary(run.epoch + 1)
    assert mine.ready


def test_the_ramp_takes_the_manifests_epoch_length_if_there_is_one(start, blueprints):
    run, seed = start(blueprints["mlp"](), grafting_epochs=1, steps_per_epoch=8)
    run.bring_to(seed, Stage.GRAFTING)
    assert run.bank.seeds[seed].ramp_steps == 8


def test_convex_blend_at_full_alpha_is_the_branch(start, blueprints):
    run, seed = start(blueprints["mlp"]("default"), command={"blend": Blend.CONVEX})
    run.bring_to(seed, Stage.STABILIZATION)
    run.model.eval()
    mine = run.bank.seeds[seed]
    with torch.no_grad():
        u = torch.relu(run.model.first(run.inputs))
        expected = run.model.head(torch.relu(run.model.second(mine.kernel(u))))
        assert torch.equal(run.model(run.inputs), expected)
        mine.full = False
        assert torch.equal(run.model(run.inputs), expected)


def test_parameters_train_in_their_stages_only(start, blueprints):
    run, seed = start(blueprints["mlp"](), fine_tuning_epochs=1)
    mine = run.bank.seeds[seed]

    def moves() -> bool:
        before = [p.detach().clone() for p in mine.kernel.parameters()]
        run.train_epoch()
        return any(not torch.equal(a, b) for a, b in zip(before, mine.kernel.parameters(), strict=True))

    run.bring_to(seed, Stage.TRAINING)
    assert run.bank.grafted_parameters() == {}
    assert not moves()
    run.bring_to(seed, Stage.GRAFTING)
    assert [name for name, _ in run.bank.grafted_parameters()[seed]] == [n for n, _ in mine.kernel.named_parameters()]
    assert moves()
    for stage in (Stage.STABILIZATION, Stage.EVALUATING):
        run.bring_to(seed, stage)
        assert seed in run.bank.grafted_parameters()
        assert not moves()
    run.bring_to(seed, Stage.FINE_TUNING)
    assert moves()
    run.bring_to(seed, Stage.FOSSILIZED)
    assert moves()
    run.bank.freeze_all()
    assert not moves()


def test_immediate_freezing_takes_a_fossil_out_of_the_optimizer(start, blueprints):
    run, seed = start(blueprints["mlp"](), freeze=Freeze.IMMEDIATELY)
    run.bring_to(seed, Stage.FOSSILIZED)
    assert run.bank.grafted_parameters() == {}
    assert not any(p.requires_grad for p in run.bank.seeds[seed].kernel.parameters())


def test_dormant_and_waiting_seeds_install_no_hook(start, blueprints):
    run, seed = start(blueprints["mlp"]())
    hooks = lambda: sum(len(m._forward_hooks) for m in run.model.modules())  # noqa: E731
    assert hooks() == 0
    run.bring_to(seed, Stage.TRAINING)
    assert hooks() == 0
    with run.bank.observing():
        assert hooks() == 2
        with pytest.raises(RuntimeError, match="already"), run.bank.observing():
            pass
    assert hooks() == 0
    run.bring_to(seed, Stage.GRAFTING)
    assert hooks() == 1
    run.bank.order(Command.cull(seed))
    assert hooks() == 0


def test_the_same_seed_gets_the_same_parameters_and_global_randomness_is_left_alone(host, batch, shelf, blueprints):
    first = None
    for offset in (0, 1):
        torch.manual_seed(offset)
        model = type(host)()
        bank = wrap(model, "act1", batch[0], settings=SeedSettings(run_seed=4, max_per_slot=2), source=shelf)
        artifact = shelf.add(blueprints["mlp"]("default"), bank.slots["act1"].interface)
        rng = torch.get_rng_state()
        bank.order(Command.germinate("act1", artifact))
        bank.boundary(1)
        bank.boundary(2)
        assert torch.equal(torch.get_rng_state(), rng)
        values = torch.cat([p.detach().flatten() for p in bank.seeds["act1/0"].kernel.parameters()])
        assert first is None or torch.equal(first, values)
        first = values
    bank.order(Command.cull("act1/0"))
    bank.cull_into_dormant("act1/0")
    bank.order(Command.germinate("act1", artifact))
    bank.boundary(3)
    bank.boundary(4)
    other = torch.cat([p.detach().flatten() for p in bank.seeds["act1/1"].kernel.parameters()])
    assert not torch.equal(first, other)


# -- gates stop seeds ----------------------------------------------------------------------------------------------


def test_a_failed_isolation_culls_with_its_numbers(start, blueprints):
    run, seed = start(blueprints["mlp"]("default"), objective=Objective.SHADOW)
    run.bring_to(seed, Stage.TRAINING)
    run.train_epoch()
    run.bank.seeds[seed].learner.trace.recent = (1e6,)
    applied = run.bank.order(Command.advance(seed))
    assert not applied.accepted
    assert applied.error == "GateFailed"
    assert applied.event.target is Stage.CULLED
    assert applied.event.numbers["g2_last_loss"] == 1e6
    assert "gate G2 failed" in applied.reason
    run.train_epoch()
    assert run.bank.seeds[seed].stage is Stage.DORMANT


def test_an_output_that_grows_too_large_does_not_get_past_grafting(start, blueprints):
    run, seed = start(blueprints["mlp"]("default"), output_scale_limit=1e-6)
    run.bring_to(seed, Stage.GRAFTING)
    while not run.bank.seeds[seed].ready:
        run.train_epoch()
    applied = run.bank.order(Command.advance(seed))
    assert applied.error == "GateFailed"
    assert applied.event.gates[0].numbers["output_scale"] > 1e-6
    assert run.bank.seeds[seed].stage is Stage.CULLED


def test_a_negative_verdict_culls_and_a_missing_one_refuses(start, blueprints, verdict):
    run, seed = start(blueprints["mlp"]())
    run.bring_to(seed, Stage.EVALUATING)
    assert run.bank.order(Command.advance(seed)).error == "NotReady"
    run.bank.set_verdict(seed, verdict(False))
    applied = run.bank.order(Command.advance(seed, target=Stage.FINE_TUNING))
    assert applied.event.target is Stage.CULLED
    assert "no improvement" in applied.reason


def test_a_second_look_needs_a_second_verdict(start, blueprints, verdict):
    run, seed = start(blueprints["mlp"](), judged_twice=True)
    run.bring_to(seed, Stage.FINE_TUNING)
    while not run.bank.seeds[seed].ready:
        run.train_epoch()
    assert run.bank.order(Command.advance(seed)).error == "NoVerdict"
    run.bank.seeds[seed].verdict = verdict(True)
    assert run.bank.order(Command.advance(seed)).accepted


def test_without_a_judge_the_fourth_gate_says_so(start, blueprints):
    run, seed = start(blueprints["mlp"](), judged=False)
    for _ in range(30):
        if run.bank.seeds[seed].stage is Stage.FOSSILIZED:
            break
        if run.bank.seeds[seed].ready:
            assert run.bank.order(Command.advance(seed)).accepted
        else:
            run.train_epoch()
    gates = [g for event in run.bank.drain_events() for g in event.gates if g.gate == "G4"]
    assert len(gates) == 2
    assert all("off" in gate.reason for gate in gates)


def test_the_budget_and_the_risk_are_checked_when_the_kernel_is_known(host, batch, shelf, blueprints):
    inputs, _ = batch
    own = sum(p.numel() for p in host.parameters())
    bank = wrap(
        host, ["act1"], inputs, source=shelf,
        settings=SeedSettings(parameters_limit=own + 1072, max_active=2, max_per_slot=4, approved=frozenset({"wild"})),
    )  # fmt: skip
    interface = bank.slots["act1"].interface
    fits = shelf.add(blueprints["mlp"](), interface)
    risky = shelf.add(blueprints["squash"](), interface, risk=0.9)
    reports = []
    bank.reports.append(reports.append)
    bank.order(Command.germinate("act1", fits))
    bank.order(Command.germinate("act1", risky, blueprint="tame"))
    bank.order(Command.germinate("act1", risky, blueprint="wild"))
    bank.order(Command.germinate("act1", fits))
    for epoch in range(1, 8):
        bank.boundary(epoch)
        for seed in bank.seeds.values():
            if seed.stage is Stage.CULLED:
                bank.cull_into_dormant(seed.id)
    stages = {seed.id: seed.stage for seed in bank.seeds.values()}
    assert stages["act1/0"] is Stage.TRAINING
    assert stages["act1/1"] is Stage.DORMANT
    assert stages["act1/2"] is Stage.GRAFTING
    assert bank.seeds["act1/1"].history[-2].reason.startswith("gate G0 failed: risk 0.90")
    assert stages["act1/3"] is Stage.GERMINATED
    bank.order(Command.cull("act1/2"))
    bank.boundary(8)
    bank.boundary(9)
    assert "1072 parameters exceed the budget" in bank.seeds["act1/3"].history[-1].reason
    assert [report.seed for report in reports] == ["act1/1", "act1/3"]


def test_a_kernel_for_another_interface_is_culled(start, blueprints, shelf):
    run, seed = start(blueprints["mlp"]())
    run.bank.order(Command.cancel(seed))
    narrow = wrap(torch.nn.Sequential(torch.nn.Linear(8, 4)), "0", run.inputs).slots["0"].interface
    other = shelf.add(blueprints["mlp"](), narrow)
    run.bank.cull_into_dormant(seed)
    applied = run.bank.order(Command.germinate("act1", other))
    run.train_epoch()
    run.train_epoch()
    assert "another interface" in run.bank.seeds[applied.seed].history[-1].reason


# -- commands --------------------------------------------------------------------------------------------------------


def test_the_queue_is_first_come_first_served(host, batch, shelf, blueprints):
    bank = wrap(host, ["act1", "act2"], batch[0], settings=SeedSettings(max_active=1), source=shelf)
    for slot in ("act2", "act1"):
        bank.order(Command.germinate(slot, shelf.add(blueprints["mlp"](), bank.slots[slot].interface)))
    bank.boundary(1)
    assert bank.stage_counts() == {"GERMINATED": 1, "LOADING": 1}
    assert bank.seeds["act2/0"].stage is Stage.LOADING
    promote(bank)
    assert bank.seeds["act1/0"].stage is Stage.GERMINATED
    bank.boundary(2)
    bank.order(Command.cancel("act2/0"))
    bank.boundary(3)
    assert bank.seeds["act1/0"].stage is Stage.LOADING


def test_what_can_not_be_ordered_is_refused_with_a_reason(start, blueprints, shelf):
    run, seed = start(blueprints["mlp"](), max_total=1)
    bank = run.bank
    artifact = bank.seeds[seed].artifact_id
    before = bank.export_state()[1]
    cases = [
        (Command.germinate("nowhere", artifact), "UnknownSlot"),
        (Command.germinate("act2", ""), "NoArtifact"),
        (Command.germinate("act2", "../../etc"), "BadArtifactId"),
        (Command.germinate("act1", artifact), "SlotFull"),
        (Command.germinate("act2", artifact), "TooManySeeds"),
        (Command.advance("act9/0"), "UnknownSeed"),
        (Command.advance(seed), "LifecycleError"),
        (Command.cull(seed), "LifecycleError"),
        (Command(CommandKind.CULL, seed=None), "UnknownSeed"),
        (Command(CommandKind.CANCEL, seed=seed, actor=Actor.TOLARIA), "LifecycleError"),
        (Command.rollback("act7/0"), "UnknownSeed"),
        (Command.rollback("act1/1"), "UnknownSeed"),
        (Command.rollback("act2/x"), "UnknownSeed"),
        (Command(CommandKind.GERMINATE, slot="act2", artifact_id=artifact, actor=Actor.TOLARIA), "TooManySeeds"),
    ]
    for command, error in cases:
        applied = bank.order(command)
        assert not applied.accepted
        assert applied.error == error
        assert applied.reason
    assert bank.export_state()[1] == before
    run.bring_to(seed, Stage.TRAINING)
    assert bank.order(Command.advance(seed, target=Stage.FOSSILIZED)).error == "LifecycleError"
    bank.order(Command.cancel(seed))
    bank.cull_into_dormant(seed)
    command = Command(CommandKind.GERMINATE, slot="act2", artifact_id=artifact, actor=Actor.TOLARIA)
    assert bank.order(command).error == "LifecycleError"


def test_a_rolled_back_seed_is_locked_with_its_place(start, blueprints):
    run, seed = start(blueprints["mlp"]())
    run.bring_to(seed, Stage.GRAFTING)
    artifact = run.bank.seeds[seed].artifact_id
    assert run.bank.order(Command.rollback(seed, reason="diverged")).accepted
    assert run.bank.seeds[seed].kernel is None
    assert not run.bank.free("act1")
    assert run.bank.order(Command.germinate("act1", artifact)).error == "SlotFull"
    assert run.bank.state.row(0)["lifecycle"] == Stage.ROLLED_BACK
    # a seed that the restored checkpoint does not know is locked by its name
    assert run.bank.order(Command.rollback("act2/3", reason="diverged")).accepted
    assert run.bank.seeds["act2/3"].stage is Stage.ROLLED_BACK
    assert not run.bank.free("act2")
    run.train_epoch()
    assert run.bank.stage_counts() == {"ROLLED_BACK": 2}


def test_the_end_of_a_run_concludes_a_seed_without_asking_gates(start, blueprints):
    run, seed = start(blueprints["mlp"](), grafting_epochs=4)
    run.bring_to(seed, Stage.TRAINING)
    with pytest.raises(LifecycleError):
        conclude(run.bank, run.bank.seeds[seed], "the end")
    run.bring_to(seed, Stage.GRAFTING)
    run.train_epoch()
    mine = run.bank.seeds[seed]
    alpha = mine.alpha
    assert 0.0 < alpha < 1.0
    run.model.eval()
    with torch.no_grad():
        before = run.model(run.inputs)
    conclude(run.bank, mine, "the end")
    assert mine.stage is Stage.FOSSILIZED
    assert mine.alpha == alpha
    with torch.no_grad():
        assert torch.equal(run.model(run.inputs), before)
    assert all("skipped" in gate.reason for event in mine.history[-4:] for gate in event.gates)


# -- reset -----------------------------------------------------------------------------------------------------------


def test_a_reset_needs_the_host_without_the_seed_and_a_clean_optimizer(start, blueprints):
    run, seed = start(blueprints["mlp"]())
    run.bring_to(seed, Stage.GRAFTING)
    run.train_epoch()
    run.bank.order(Command.cull(seed))
    held = run.bank.cull_into_dormant(seed, run.bank.host_tensors(), run.optimizer)
    assert not held.passed
    assert "optimizer" in held.reason
    run.leave(seed)
    assert not run.bank.cull_into_dormant(seed, None, run.optimizer).passed
    other = {name: tensor + 1 for name, tensor in run.bank.host_tensors().items()}
    assert not run.bank.cull_into_dormant(seed, other, run.optimizer).passed
    assert run.bank.seeds[seed].stage is Stage.CULLED
    assert run.bank.cull_into_dormant(seed, run.bank.host_tensors(), run.optimizer).passed
    assert run.bank.seeds[seed].stage is Stage.DORMANT
    assert run.bank.seeds[seed].kernel is None
    assert run.bank.free("act1")
    assert run.bank.state.row(0)["lifecycle"] == Stage.DORMANT
    assert run.bank.state.row(0)["kernel_id"] == 0
    assert run.bank.cull_into_dormant(seed, run.bank.host_tensors(), run.optimizer).passed


def test_corruption_is_found_at_the_boundary(start, blueprints):
    from esper.errors import StateCorruption

    run, seed = start(blueprints["mlp"]())
    run.bring_to(seed, Stage.GRAFTING)
    run.bank.state.arrays["alpha"][0] = 0.5
    run.train_step()
    with pytest.raises(StateCorruption):
        run.bank.boundary(run.epoch + 1)
