"""Rules that bind several fields of a resource: one table for both validators.

``leyline.resources.base.Model`` checks them in Python, ``leyline.resources.crd`` writes them as
``x-kubernetes-validations``. A rule belongs to a model (by class name) and reports at one of its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leyline.resources.expressions import Condition, Field, Not


@dataclass(frozen=True)
class Rule:
    """What must hold between the fields of ``model``; ``field`` is where a breach is reported."""

    model: str
    field: str
    condition: Condition
    problem: str
    allowed: str

    @property
    def message(self) -> str:
        """The text the API server shows."""
        return f"{self.problem}; {self.allowed}"


F = Field

RULES: tuple[Rule, ...] = (
    Rule(
        "OptimizerSpec",
        "momentum",
        F("momentum").equals(0.0) | F("name").equals("SGD"),
        "momentum is only known to SGD",
        "leave momentum out, or set name: SGD",
    ),
    Rule(
        "SeedsSpec",
        "max_total",
        Not(F("max_total").is_set()) | F("max_active").at_most(F("max_total")),
        "more seeds may be active than may exist",
        "maxTotal must be at least maxActive",
    ),
    Rule(
        "SeedsSpec",
        "isolation_epochs",
        F("objective").equals("None") | F("isolation_epochs").at_least(1),
        "a seed with an objective needs time in isolation",
        "use isolationEpochs of at least 1, or objective: None",
    ),
    Rule(
        "SeedsSpec",
        "blend",
        Not(F("objective").equals("None")) | F("blend").equals("Residual"),
        "a convex blend would replace the activations by those of an untrained branch",
        "use blend: Residual, or an objective other than None",
    ),
    Rule(
        "ControllerSpec",
        "fixed",
        Not(F("policy").equals("Fixed")) | Not(F("fixed").empty()),
        "policy Fixed has nothing to do",
        "list at least one {epoch, slot, blueprint}",
    ),
    Rule(
        "ControllerSpec",
        "fixed",
        F("policy").equals("Fixed") | F("fixed").empty(),
        "this list is only read by policy Fixed",
        "set policy: Fixed, or leave fixed out",
    ),
    Rule(
        "TrainingRunSpec",
        "controller.fixed",
        F("controller.fixed").all_items("f", F("epoch", "f").at_most(F("training.epochs"))),
        "an entry names an epoch after the last",
        "every epoch must be at most training.epochs",
    ),
    Rule(
        "TrainingRunSpec",
        "controller.fixed",
        F("kernels.blueprints").empty()
        | F("controller.fixed").all_items("f", F("kernels.blueprints").contains(F("blueprint", "f"))),
        "an entry names a blueprint the run does not prepare",
        "add it to kernels.blueprints, or leave that list empty for all that fit",
    ),
    Rule(
        "TrainingRunSpec",
        "training.batch_size",
        F("training.batch_size").multiple_of(F("parallelism")),
        "a batch can't be shared evenly by the training pods",
        "batchSize must be a multiple of parallelism",
    ),
    Rule(
        "TrainingRunSpec",
        "seeds.fine_tuning_epochs",
        Not(F("judge.mode").equals("Twice")) | F("seeds.fine_tuning_epochs").at_least(1),
        "judge.mode Twice judges again after fine-tuning, of which there is none",
        "use fineTuningEpochs of at least 1, or judge.mode: Once",
    ),
    Rule(
        "InterfaceSpec",
        "trailing",
        (F("layout").equals("vector") & F("trailing").empty())
        | ((F("layout").equals("sequence") | F("layout").equals("image1d")) & F("trailing").has_items(1))
        | (F("layout").equals("image2d") & F("trailing").has_items(2)),
        "does not fit the layout",
        "nothing for vector, [T] for sequence, [L] for image1d, [H, W] for image2d",
    ),
    Rule(
        "InterfaceSpec",
        "batch_max",
        F("batch_min").at_most(F("batch_max")),
        "the largest batch is smaller than the smallest",
        "batchMax must be at least batchMin",
    ),
    Rule(
        "TolerationSpec",
        "value",
        Not(F("operator").equals("Exists")) | Not(F("value").is_set()),
        "operator Exists takes no value",
        "leave value out, or use operator: Equal",
    ),
    Rule(
        "TolerationSpec",
        "key",
        F("key").is_set() | F("operator").equals("Exists"),
        "a toleration without key tolerates everything, which only Exists may say",
        "name the key, or use operator: Exists",
    ),
)


def rules_of(model: str) -> tuple[Rule, ...]:
    """The rules that belong to the model of this class name."""
    return tuple(rule for rule in RULES if rule.model == model)


def breaches(model: Any) -> list[Rule]:
    """The rules ``model`` breaks, in the table's order."""
    return [rule for rule in rules_of(type(model).__name__) if not rule.condition.holds({"self": model})]
