from __future__ import annotations

import pytest
import torch
from tests.bench.growth.arms import TUNING_SEED, Job, growth_spec, manifest, report_jobs, tuning_jobs
from tests.bench.growth.suites import ARMS, EFFORTS, FIXED, GROWTH, SUITES, Effort, Suite

from esper.karn.catalogue import CATALOGUE
from esper.kasmina import wrap
from esper.tasks import load_task
from leyline.resources import load

SMALL = {"mnist1d": {"train_examples": 40, "controller_examples": 20, "report_examples": 20}}


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_valid_manifest_within_the_budget(suite: Suite, arm: str):
    run = load(manifest(suite, Job(suite.name, arm, suite.budgets[0], 0.01, 3)))
    assert run.spec.seed == 3
    assert run.spec.budget.training_flops == suite.budgets[0]
    assert (str(run.spec.controller.policy) == "Never") == (arm in FIXED)
    assert dict(run.spec.task.params) == {**suite.params, **(suite.sizes[arm] if arm in FIXED else {})}
    assert run.spec.training.optimizer.learning_rate == 0.01


def test_the_growth_arms_differ_from_each_other():
    suite = SUITES["mnist1d"]
    specs = [str(manifest(suite, Job("mnist1d", arm, 1e9, 0.01, 0))["spec"]) for arm in GROWTH]
    assert len(set(specs)) == len(GROWTH)
    with pytest.raises(ValueError, match="no growth arm 'never'"):
        growth_spec(suite, "never")


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_flops_bind_and_not_epochs(suite: Suite):
    data = load_task(suite.ref, suite.params).train
    assert set(suite.tuned) < set(suite.budgets)
    for budget in suite.budgets:
        steps = suite.steps_per_epoch(budget)
        assert steps * suite.batch_size <= len(data)
        spent = 3 * suite.host_flops * suite.batch_size * steps * suite.epochs(budget)
        assert spent >= 1.5 * budget


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_a_suite_says_the_truth_about_its_host(suite: Suite):
    flops, sizes = {}, {}
    for arm in FIXED:
        task = load_task(suite.ref, {**suite.params, **SMALL.get(suite.name, {}), **suite.sizes[arm]})
        sample = task.train.batch(torch.arange(2))[0]
        sizes[arm] = sum(parameter.numel() for parameter in task.model.parameters())
        bank = wrap(task.model, "blocks.*", sample)
        flops[arm] = bank.host_flops
        assert suite.first_slot in bank.slots
        assert all(CATALOGUE[suite.blueprint].fits(slot.interface) for slot in bank.slots.values())
    assert flops["never"] == suite.host_flops
    assert flops["never"] < min(flops["between-1"], flops["between-2"]) <= flops["between-2"] < flops["final"]
    # one kernel after every block is the "final" architecture, parameter for parameter
    task = load_task(suite.ref, {**suite.params, **SMALL.get(suite.name, {})})
    bank = wrap(task.model, "blocks.*", task.train.batch(torch.arange(2))[0])
    grown = sum(CATALOGUE[suite.blueprint].ir.parameter_count(slot.interface) for slot in bank.slots.values())
    assert sizes["final"] == sizes["never"] + grown
    work = sum(CATALOGUE[suite.blueprint].ir.flops(slot.interface) for slot in bank.slots.values())
    assert flops["final"] == flops["never"] + work


def test_tuning_uses_other_seeds_than_the_report():
    suite = SUITES["mnist1d"]
    effort = EFFORTS["full"]
    tuning = list(tuning_jobs(suite, effort, ARMS))
    tuned = len(ARMS) - 1  # all but the random slot, which takes the heuristic's rates
    assert len(tuning) == tuned * len(suite.tuned) * len(suite.rates) * effort.tuning_seeds
    assert min(job.seed for job in tuning) == TUNING_SEED
    rates = {(arm, budget): 0.02 for arm in ARMS for budget in suite.budgets}
    report = list(report_jobs(suite, effort, ARMS, rates))
    assert {job.seed for job in report} == set(range(effort.seeds))
    assert not any(job.tuning for job in report)
    assert effort.seeds >= 10


def test_all_arms_of_a_seed_come_before_the_next_seed():
    suite = SUITES["mnist1d"]
    rates = {(arm, budget): 0.02 for arm in ARMS for budget in suite.budgets}
    jobs = list(report_jobs(suite, Effort(3, 1, 3, 1), ARMS, rates))
    seeds = [job.seed for job in jobs]
    assert seeds == sorted(seeds)
    assert len(seeds) == 3 * (3 * (len(ARMS) - 1) + 1)
    assert {job.budget for job in jobs if job.arm == "random-slot"} == {suite.budgets[-1]}


def test_a_single_learning_rate_needs_no_tuning():
    assert list(tuning_jobs(SUITES["mnist1d"], EFFORTS["quick"], ARMS)) == []
