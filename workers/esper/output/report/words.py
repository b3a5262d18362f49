"""The report's verdict in plain words, and nothing that the numbers do not carry."""

from __future__ import annotations

from dataclasses import dataclass

from esper.output.readers import RunRecord
from esper.output.report.charts import number
from esper.output.summary import Summary


@dataclass(frozen=True)
class Verdict:
    """``tone`` is good, plain or bad: how the headline is coloured."""

    tone: str
    headline: str
    sentences: list[str]


def verdict(record: RunRecord) -> Verdict:
    """Say what came out of the run."""
    summary = record.summary
    if summary is None:
        epoch = record.last_epoch
        return Verdict(
            "plain",
            "This run has not ended" if not record.finished else "This run left no summary",
            [f"It is still going on, or it was killed: the last finished epoch is {epoch}. "
             "If it no longer runs, `esper run … --resume` goes on from its last checkpoint."],
        )  # fmt: skip
    if summary.phase == "Failed":
        return Verdict(
            "bad", "The run failed", [_sentence(summary.reason) or "No reason was recorded.", *_result(summary)]
        )
    if summary.phase in ("Interrupted", "Suspended"):
        verb = "interrupted" if summary.phase == "Interrupted" else "suspended"
        why = [_sentence(summary.reason)] if summary.reason else []
        return Verdict(
            "plain",
            f"The run was {verb} after {summary.epochs} epoch{'s' if summary.epochs != 1 else ''}",
            [*why, "`esper run … --resume` goes on from the last checkpoint and ends with the same bits."],
        )
    return _completed(summary)


def _completed(summary: Summary) -> Verdict:
    tried = len(summary.seeds)
    kept = sum(seed.stage == "FOSSILIZED" for seed in summary.seeds)
    open_ = sum(
        seed.stage not in ("FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK", "DORMANT") for seed in summary.seeds
    )
    ratio = summary.parameters / summary.host_parameters if summary.host_parameters else 1.0
    if not tried:
        headline = "The network was not grown"
        sentences = ["No seed was germinated: the result is the host network trained as it is."]
    elif not kept and not open_:
        headline = "No seed earned its place"
        sentences = [
            f"{_count(tried, 'seed was', 'seeds were')} tried and dropped; the result is the host network as if none "
            "had ever been there."
        ]
    elif not kept:
        headline = "No seed was judged to its end"
        sentences = [f"{_count(tried, 'seed was', 'seeds were')} tried; the run ended before a final verdict."]
    else:
        headline = f"{_count(kept, 'seed', 'seeds')} of {tried} earned {'its' if kept == 1 else 'their'} place"
        sentences = [
            f"The network grew from {number(summary.host_parameters)} to {number(summary.parameters)} parameters "
            f"({number(ratio, 3)}×)."
        ]
        if open_:
            sentences.append(f"{_count(open_, 'seed was', 'seeds were')} still on the way when the run ended.")
    return Verdict("good" if kept else "plain", headline, [*sentences, *_result(summary), *_overhead(summary)])


def _result(summary: Summary) -> list[str]:
    final = summary.report.final
    if final is None or final.metric is None:
        return []
    sentence = f"On the report split, which no decision ever saw, {summary.metric} is {number(final.metric)}"
    if final.loss is not None:
        sentence += f" (loss {number(final.loss)})"
    control = summary.control.report.final if summary.control else None
    if control is None or control.metric is None:
        return [sentence + "."]
    gain = (final.metric - control.metric) * (1 if summary.higher_is_better else -1)
    if gain == 0:
        compared = "the same as"
    else:
        compared = f"{number(abs(gain), 3)} {'better' if gain > 0 else 'worse'} than"
    return [
        f"{sentence}; that is {compared} the same network {summary.control.name if summary.control else ''} "
        f"({number(control.metric)}). One pair of runs shows a direction, not a proof: repeat it over several seeds."
    ]


def _overhead(summary: Summary) -> list[str]:
    spent = summary.flops_on_culled_seeds + summary.flops_on_twins + summary.flops_on_probes
    if not spent or not summary.training_flops:
        return []
    share = 100 * spent / summary.training_flops
    return [f"{number(share, 3)} % of the training FLOPs went to twins, dropped seeds and probes."]


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else text + "."
