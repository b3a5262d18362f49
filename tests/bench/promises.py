"""Writes the tables of ``docs/promises.md`` from the stored measurements and from the promises that tests hold.

A table stands between ``<!-- measured: NAME -->`` and ``<!-- end measured -->``; the text around it is a person's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import store
from tests.bench.common import ROOT
from tests.bench.registry import BENCHMARKS
from tests.bench.report import machine, measured, verdict

DOCUMENT = ROOT / "docs" / "promises.md"
_PART = re.compile(r"(<!-- measured: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(<!-- end measured -->)", re.DOTALL)
_QUICK = " (quick run)"


@dataclass(frozen=True)
class Held:
    """A promise that a test holds each time it runs.

    Attributes:
        promise, goal: in words.
        tried: what the test goes through.
        test: the file, and the test's name behind ``::``.
    """

    promise: str
    goal: str
    tried: str
    test: str


HELD = (
    Held(
        "A seed in isolation leaves no trace: the host's outputs, losses, gradients, buffers, optimizer state and "
        "random numbers are those of a run without it",
        "every bit of 200 steps",
        "MLP, CNN and Transformer under four objectives and two blends, 17 cases",
        "tests/integration/test_isolation.py::test_host_is_bit_identical_with_a_seed_in_isolation",
    ),
    Held(
        "A culled seed leaves the host that never had it, with its optimizer state and its losses",
        "every bit",
        "two slots, and a network with dropout and running statistics",
        "tests/integration/test_twin.py::test_a_culled_seed_leaves_the_host_that_never_had_it",
    ),
    Held(
        "The twin makes the same bits in this process and in another one",
        "every bit, and equal verdicts",
        "a seed that is kept and one that is culled",
        "tests/integration/test_twin.py::test_the_twin_makes_the_same_bits_in_another_process",
    ),
    Held(
        "A run repeats bit for bit",
        "every bit of the final state",
        "two runs with a seed that lives its whole life",
        "tests/integration/test_twin.py::test_a_run_repeats_bit_for_bit",
    ),
    Held(
        "A run killed with SIGKILL goes on and ends as if it had never been killed",
        "every bit of the final state",
        "20 runs, each killed at random moments until it gets through",
        "tests/integration/test_resume.py::test_kill_9_at_a_random_moment",
    ),
    Held(
        "A kill inside the writing of a checkpoint loses nothing that was committed",
        "every bit of the final state",
        "six places between the writes of a checkpoint",
        "tests/integration/test_resume.py::test_kill_9_inside_a_checkpoint",
    ),
    Held(
        "SIGTERM stops between two steps and the run goes on from exactly there",
        "every bit of the final state",
        "six steps, of the host and of the twin",
        "tests/integration/test_resume.py::test_a_polite_stop_inside_an_epoch_loses_no_step",
    ),
    Held(
        "A killed run whose checkpoints are in a bucket goes on on another machine and ends as if never killed",
        "every bit of the final state",
        "4 runs killed at random moments, each time gone on with in an empty directory, on a real S3 server",
        "tests/integration/test_checkpoints_in_a_bucket.py::test_kill_9_and_on_another_machine_the_same_bits",
    ),
    Held(
        "A kill before any one request of a commit to a bucket leaves the old checkpoint or the new one",
        "whole, with its journal and log",
        "each of the first eleven requests",
        "tests/contract/test_checkpoint_store.py::test_kill_9_before_any_one_request_to_the_bucket",
    ),
    Held(
        "Of two trainers of one run the earlier can commit no more",
        "none of its commits",
        "a directory and a bucket",
        "tests/contract/test_checkpoint_store.py::test_an_earlier_trainer_can_commit_no_more",
    ),
    Held(
        "Forged, stale and foreign commands to a run do nothing",
        "every bit of the final state",
        "eleven envelopes in the middle of a run, on the bus in memory and on a real broker",
        "tests/integration/test_commands.py::test_forged_stale_and_foreign_commands_do_nothing_and_are_counted",
    ),
    Held(
        "News of a run survive a bus that is away and the process that had to tell them",
        "none lost, in order, one id each",
        "300 commits while the bus takes nothing; a process that ends before it could tell",
        "tests/unit/tolaria/test_herald.py::test_a_bus_that_is_away_keeps_nobody_waiting_and_gets_everything_when_it_is_back",
    ),
    Held(
        "All ranks of a run hold the same bits through germination, grafting, culls, rollbacks and failed kernels",
        "every bit, after every epoch",
        "ten runs on two ranks under torchrun; NaN, broken kernels, lost kernels and damaged state on one of them",
        "tests/integration/test_ranks.py::test_both_ranks_hold_the_same_bits_after_every_epoch",
    ),
    Held(
        "A run whose rank is killed with SIGKILL ends with a clear error and goes on to the bits of an undisturbed one",
        "every bit of the final state",
        "either of two ranks killed inside an epoch, and one of them under torchrun",
        "tests/integration/test_ranks.py::test_a_killed_rank_ends_the_others_and_the_run_goes_on_to_the_same_bits",
    ),
    Held(
        "SIGTERM to one rank stops all before the same step with one checkpoint, and the run goes on from there",
        "every bit of the final state",
        "SIGTERM and SIGINT to one of two ranks inside an epoch, where their running statistics differ",
        "tests/integration/test_ranks.py::test_a_signal_to_one_rank_stops_both_at_the_same_step_with_one_checkpoint",
    ),
    Held(
        "A numerical fault returns the exact last good state and the run ends well",
        "every bit",
        "NaN, loss spike, a parameter that is not finite, a corrupted seed state",
        "tests/integration/test_rollback.py::test_nan_returns_the_exact_last_good_state_and_the_run_ends_well",
    ),
    Held(
        "A fault while a seed touches the host locks the seed and keeps the twin's host",
        "every bit",
        "NaN while a seed is being grafted",
        "tests/integration/test_rollback.py::test_a_fault_while_a_seed_touches_the_host_locks_the_seed_and_keeps_the_twin",
    ),
    Held(
        "A kernel that raises makes its step one without the seed",
        "every bit of the step",
        "forward failures in each stage that runs a kernel",
        "tests/unit/kasmina/test_faults.py::test_a_forward_failure_makes_the_same_step_one_without_the_seed",
    ),
    Held(
        "A saved model computes the same bits when it is loaded",
        "every bit of the outputs in evaluation mode",
        "every kind of grown host the test knows",
        "tests/unit/persist/test_models.py::test_outputs_in_evaluation_mode_are_the_same_bits",
    ),
    Held(
        "A saved model with a changed or missing byte is refused",
        "every byte",
        "generated cuts and changes of every file",
        "tests/unit/persist/test_damage.py::test_any_changed_or_cut_byte_is_noticed",
    ),
    Held(
        "No forged, replayed, stale, reordered or cross-topic command is accepted, and no honest one is refused",
        "none of 10,000",
        "more than 10,000 generated attacks of eleven kinds between some 1,500 honest envelopes",
        "tests/unit/leyline/test_envelope.py::test_ten_thousand_attacks_fail_and_no_honest_message_is_refused",
    ),
    Held(
        "Signatures are Ed25519 as published",
        "RFC 8032, section 7.1",
        "its first three vectors",
        "tests/unit/leyline/test_envelope.py::test_ed25519_agrees_with_rfc_8032",
    ),
    Held(
        "Message authentication is HMAC-SHA-256 as published",
        "RFC 4231",
        "cases 1, 3, 4, 6 and 7",
        "tests/unit/leyline/test_envelope.py::test_hmac_agrees_with_rfc_4231",
    ),
    Held(
        "A kernel that was changed, or lacks a signature, never reaches the network",
        "none",
        "tampered, unsigned and missing artifacts",
        "tests/unit/kasmina/test_loading.py::test_tampered_unsigned_and_missing_artifacts_are_culled_and_reported",
    ),
    Held(
        "The bus loses and doubles no message",
        "none",
        "many threads that publish and take at once",
        "tests/contract/test_bus_limits.py::test_many_threads_lose_and_duplicate_nothing",
    ),
    Held(
        "Writers of the library killed at any moment leave no row without its blobs",
        "none",
        "each write of a registration, and random moments",
        "tests/unit/urza/test_processes.py::test_a_writer_killed_at_any_moment_leaves_no_dangling_row",
    ),
    Held(
        "A broker that is killed and comes back loses no message, and none is handled twice",
        "none",
        "a real broker killed with SIGKILL once in the middle of 300 messages of work and reports",
        "tests/integration/test_broker_outages.py::test_a_broker_that_is_killed_and_comes_back_loses_nothing",
    ),
    Held(
        "Work that kills its workers ends as a dead letter with its cause",
        "after four deliveries",
        "worker processes that die over one message, on a real broker",
        "tests/integration/test_bus_between_processes.py::test_work_that_kills_every_worker_ends_as_a_dead_letter",
    ),
    Held(
        "Pools of two hardware targets share the topics and nothing else",
        "each kernel made once, by its own; no dead letter, no second delivery",
        "workers of two targets on both buses, work from before a target had a pool among it",
        "tests/integration/test_hardware.py::test_each_kernel_is_made_once_by_a_worker_of_its_hardware",
    ),
    Held(
        "The library's service and its writers killed at any moment lose no certified kernel and double none",
        "none",
        "service and writers killed with SIGKILL four times each on PostgreSQL and S3 (ESPER_KILLS for more)",
        "tests/integration/test_urza_killed.py::test_killed_at_random_moments_nothing_is_lost_dangling_or_doubled",
    ),
    Held(
        "The library's collector takes nothing that a run, a lease or a fresh upload needs",
        "nothing",
        "generated sequences of uploads, leases, sweeps and crashes against a model",
        "tests/unit/urza/test_collection_machine.py::test_the_collector_takes_nothing_that_is_needed",
    ),
    Held(
        "No known attack on a token gets in",
        "none",
        "no algorithm, swapped algorithm, wrong audience or issuer, expired, early, unknown key and others",
        "tests/unit/urza/test_tokens.py::test_classic_attacks_are_refused",
    ),
    Held(
        "While an issuer's keys can't be had nobody gets in",
        "503",
        "an issuer that is away and comes back",
        "tests/unit/urza/test_tokens.py::test_while_keys_cannot_be_had_nobody_gets_in_and_afterwards_they_do",
    ),
    Held(
        "Nothing that is sent to the library's service makes it fail",
        "no 5xx",
        "generated requests to every path of its OpenAPI document",
        "tests/unit/urza/test_service_fuzz.py::test_nothing_makes_the_service_fail",
    ),
    Held(
        "What its OpenAPI document allows and what it forbids does not make it fail either",
        "no 5xx",
        "Schemathesis, valid and broken requests to every operation",
        "tests/unit/urza/test_service_schemathesis.py::test_nothing_the_document_says_makes_the_service_fail",
    ),
    Held(
        "An installation whose programs are killed all the time loses and doubles nothing, and its runs end with "
        "the bits of an undisturbed one",
        "no kernel, report or file; every bit; memory flat",
        "five minutes of SIGKILL to broker, database, store, library, dispatcher, workers and trainers, and a broker "
        "that stands still for 30 s; `make soak` goes on for an hour ([figures](results/soak.md))",
        "tests/e2e/test_soak.py::test_five_minutes_of_kills_lose_nothing",
    ),
    Held(
        "A broken manifest is refused by a real API server and by `esper validate`, at the same field",
        "every one",
        "738 manifests, each with one field that its schema forbids",
        "tests/operator/test_broken_manifests.py::test_both_refuse_each_and_name_the_same_field",
    ),
    Held(
        "An operator killed with SIGKILL at any moment is followed by one that converges to the same objects",
        "each object made exactly once",
        "20 kills at random moments while six runs are made, suspended and resumed, on a real control plane",
        "tests/operator/test_killed.py::test_an_operator_killed_again_and_again_converges_to_the_same_objects",
    ),
    Held(
        "How a run on a cluster ended is known after its Job is gone, and it is not begun again",
        "every run",
        "a Job with no time to live, and one that ended while no operator ran, on a real node",
        "tests/operator/test_pods.py::test_an_operator_that_was_away_tells_what_happened_meanwhile",
    ),
    Held(
        "Memory of an operator that looks after one run",
        "< 150 MB",
        "a process of its own on a real control plane; 92 MB when this was written",
        "tests/operator/test_memory.py::test_an_idle_operator_is_small",
    ),
    Held(
        "A manifest that Helm's installation trains in pods gives the model it gives on a laptop with the same kernels",
        "every tensor; the status tells the summary's metric",
        "operator, library, pools and trainer in restricted pods of a real node, beside real servers",
        "tests/cluster/test_installation.py::test_the_same_manifest_on_this_machine_gives_the_same_model",
    ),
    Held(
        "A run in pods whose pod, operators, library and broker are killed ends as if nothing had been",
        "every tensor, one Job, one restart",
        "both operators twice, both pods of the library, the training pod, the broker",
        "tests/cluster/test_installation.py::test_a_run_whose_every_part_is_killed_ends_as_if_nothing_had_been",
    ),
    Held(
        "A run that is suspended while a seed is blended in goes on from there in another pod",
        "every tensor",
        "one run, on a real node",
        "tests/cluster/test_installation.py::test_a_run_suspended_while_it_grafts_goes_on_with_the_same_bits",
    ),
    Held(
        "An upgrade of the release leaves the pods of runs alone",
        "the same pods, every tensor",
        "new operators while a run trains",
        "tests/cluster/test_installation.py::test_an_upgrade_leaves_pods_of_runs_alone",
    ),
    Held(
        "A kernel that is compiled ahead of time is built, measured and grown by in restricted pods",
        "Validated, with digest, ratio and tags in its status; every seed of a run uses it",
        "a blueprint's target of the strategy Standard, a run that asks for that strategy, the images' own compiler",
        "tests/cluster/test_installation.py::test_a_compiled_kernel_goes_through_the_pools_and_a_run_grows_by_it",
    ),
    Held(
        "A blueprint that can't be certified holds up no other, and pools are gone when nothing waits",
        "each artifact Validated or Rejected, none handed out twice",
        "five blueprints for two targets each, the first of which overflows; pools from none to several pods and back. "
        "With a hundred blueprints, two cores that also did other work had decided on all 200 artifacts after 422 s: "
        "198 Validated, 2 Rejected, none handed out twice, three pods in each pool ([data](results/burst.json))",
        "tests/cluster/test_installation.py::test_a_burst_of_blueprints_is_worked_off_and_a_wrong_one_holds_up_nobody",
    ),
    Held(
        "`helm uninstall` leaves nothing that waits for somebody, and what is deleted afterwards is collected",
        "no finalizer but Kubernetes' own, no pod but a run's; the namespace goes",
        "a run that trains and kernels that are made, the operator gone with the release, then TrainingRun, Blueprint "
        "and namespace deleted, on a real node",
        "tests/cluster/test_installation.py::test_nothing_is_wedged_once_the_release_is_gone",
    ),
    Held(
        "`helm install` with `dev.enabled` and nothing else is a whole installation",
        "kernels are built and measured, and `helm test` trains a network",
        "PostgreSQL, S3 server and Pulsar in restricted pods of a real node, in an image of the tests' own",
        "tests/cluster/test_trial.py::test_helms_own_test_trains_a_network",
    ),
    Held(
        "On claims the data of a trial's servers outlives their pods",
        "what was built before is there, and what comes after is built",
        "all three pods deleted",
        "tests/cluster/test_trial.py::test_data_on_claims_outlives_the_pods",
    ),
    Held(
        "The operator needs no more rights than its table has",
        "no request forbidden",
        "everything it does, as a service account with these rights only",
        "tests/operator/test_permissions.py::test_the_table_of_permissions_is_enough_for_everything_it_does",
    ),
)


def update(document: Path = DOCUMENT, folder: Path = store.FOLDER) -> None:
    """Bring the document's tables up to date with the stored measurements."""
    fresh = rendered(document.read_text(encoding="utf-8"), store.read(folder))
    aside = document.with_name(document.name + ".tmp")
    aside.write_text(fresh, encoding="utf-8")
    os.replace(aside, document)


def rendered(text: str, answers: Mapping[str, Mapping[str, Any]]) -> str:
    """The document with every table made anew.

    Raises:
        ValueError: a table is missing, there twice, or nobody makes it.
    """
    found = [match["name"] for match in _PART.finditer(text)]
    if sorted(found) != sorted(PARTS):
        raise ValueError(f"the document has the tables {found}, expected {sorted(PARTS)}")
    return _PART.sub(lambda match: f"{match[1]}{PARTS[match['name']](answers)}{match[4]}", text)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n" for cells in lines)


def _shown_by(name: str) -> str:
    return f"[`{name}`](../tests/bench/{BENCHMARKS[name].module}.py) ([data](results/bench/{name}.json))"


def _promises(answers: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            row["promise"], row["goal"], measured(dict(row)) + (_QUICK if answer["quick"] else ""),
            verdict(dict(row)), _shown_by(name),
        )
        for name, answer in answers.items() for row in answer["rows"] if row["holds"] is not None
    ]  # fmt: skip
    for held in HELD:
        file, _, test = held.test.partition("::")
        rows.append((held.promise, held.goal, held.tried, "held by a test", f"[`{test}`](../{file})"))
    return _table(("promise", "goal", "measured (95 % interval, n), or what is tried", "", "shown by"), rows)


def _broken(answers: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"- {row['promise']}: goal {row['goal']}, measured {measured(dict(row))}. {row['note']}".rstrip() + "\n"
        for answer in answers.values() for row in answer["rows"] if row["holds"] is False
    ]  # fmt: skip
    return "".join(lines) or "- None of those measured below.\n"


def _figures(answers: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (row["promise"], measured(dict(row)) + (_QUICK if answer["quick"] else ""), row["note"] or "–", _shown_by(name))
        for name, answer in answers.items() for row in answer["rows"] if row["holds"] is None
    ]  # fmt: skip
    return _table(("figure", "measured (95 % interval, n)", "note", "shown by"), rows)


def _notes(answers: Mapping[str, Mapping[str, Any]]) -> str:
    return "".join(
        f"- {row['promise']}: {row['note']}\n"
        for answer in answers.values() for row in answer["rows"] if row["holds"] is not None and row["note"]
    )  # fmt: skip


def _machines(answers: Mapping[str, Mapping[str, Any]]) -> str:
    return "".join(f"- `{name}`: {machine(dict(answer))}\n" for name, answer in answers.items())


PARTS: Mapping[str, Callable[[Mapping[str, Mapping[str, Any]]], str]] = {
    "does-not-hold": _broken,
    "promises": _promises,
    "notes": _notes,
    "figures": _figures,
    "machines": _machines,
}
