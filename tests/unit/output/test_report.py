from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from esper.output import EventLog, Score, SplitResult, Summary
from esper.output.readers import read_run
from esper.output.report import render, write_report
from esper.output.summary import CurvePoint

MakeRun = Callable[..., Path]
Make = Callable[..., Summary]
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects tags, attributes, ids and text, and checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style",):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_the_page_says_what_came_out_and_why(run_directory: MakeRun) -> None:
    directory = run_directory()
    text = parse(write_report(directory).read_text()).text
    for words in (
        "1 seed of 4 earned its place",
        "The network grew from 586 to 1,002 parameters",
        "accuracy is 0.946 (loss 0.281)",
        "0.012 better than the same network never grown",
        "18.5 % of the training FLOPs went to twins, dropped seeds and probes",
        "blocks.2/0 (2)",
        "0.061 [0.041, 0.081]",
        "p 0.31 against 0.005",
        "the artifact's digest does not fit its manifest",
        "gradient of 3.weight differs from fp64 by 0.02",
        "plateau for 4 epochs",
        "esper.tasks.mnist1d:cnn",
        "2.13.0",
    ):
        assert words in text, words


def test_the_page_loads_nothing_and_runs_nothing(run_directory: MakeRun) -> None:
    html = write_report(run_directory()).read_text()
    page = parse(html)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not {name for _, attributes in page.tags for name in attributes} & {"src", "href", "srcset", "action"}
    assert not re.search(r"url\(|@import|https?:", html)
    assert len(html) < 1_000_000


def test_every_drawing_is_named_and_has_a_table_beside_it(run_directory: MakeRun) -> None:
    page = parse(write_report(run_directory()).read_text())
    drawings = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(drawings) == 6
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    for attributes in drawings:
        for name in str(attributes["aria-labelledby"]).split():
            assert name in identities
    assert all(
        attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
        for tag, attributes in page.tags
        if tag == "svg"
    )
    assert sum(tag == "table" for tag, _ in page.tags) == 5


@pytest.mark.parametrize(
    "hostile", ["</style><script>alert(1)</script>", '"><svg onload=x>', "{{ 7 * 7 }}", "a\x00b\u202e"]
)
def test_hostile_names_stay_text(run_directory: MakeRun, summary: Make, hostile: str) -> None:
    directory = run_directory(
        summary(name=hostile, metric=hostile, reason=hostile, versions={hostile: hostile}),
        name=hostile,
        blueprint=hostile,
        reason=hostile,
        cause=hostile,
    )
    html = render(read_run(directory))
    page = parse(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert " 49 " not in page.text.partition("Training")[0]


def test_a_run_still_going_on_has_a_page(run_directory: MakeRun) -> None:
    text = parse(write_report(run_directory(finished=False)).read_text()).text
    assert "--resume" in text
    assert "the last finished epoch is 40" in text


def test_a_summary_alone_has_a_page(tmp_path: Path, summary: Make) -> None:
    summary().write(tmp_path)
    text = parse(write_report(tmp_path).read_text()).text
    assert "1 seed of 4 earned its place" in text
    assert "dropped seeds: 1.3 GFLOPs" in text


@pytest.mark.parametrize("phase", ["Interrupted", "Suspended"])
def test_a_stopped_run_says_how_to_go_on(tmp_path: Path, summary: Make, phase: str) -> None:
    summary(phase=phase, epochs=7).write(tmp_path)
    text = parse(write_report(tmp_path).read_text()).text
    assert f"The run was {phase.lower()} after 7 epochs" in text
    assert "--resume" in text


def test_a_failed_run_says_why(tmp_path: Path, summary: Make) -> None:
    summary(phase="Failed", reason="the loss was not finite four times").write(tmp_path)
    text = parse(write_report(tmp_path).read_text()).text
    assert "The run failed" in text
    assert "the loss was not finite four times." in text


def test_worse_than_the_control_is_said_as_plainly(tmp_path: Path, summary: Make) -> None:
    worse = SplitResult(final=Score(epoch=40, loss=0.5, metric=0.9))
    summary(report=worse).write(tmp_path)
    assert "0.034 worse than the same network never grown" in parse(write_report(tmp_path).read_text()).text


def test_lower_is_better_turns_the_comparison_round(tmp_path: Path, summary: Make) -> None:
    summary(higher_is_better=False).write(tmp_path)
    assert "0.012 worse than the same network" in parse(write_report(tmp_path).read_text()).text


def test_a_longer_control_does_not_lengthen_the_seeds_lives(run_directory: MakeRun, summary: Make) -> None:
    directory = run_directory()
    longer = summary().control.model_copy(
        update={
            "curve": [CurvePoint(epoch=epoch, controller_loss=0.3, controller_metric=0.9) for epoch in range(1, 91)]
        }
    )
    summary(control=longer).write(directory)
    page = write_report(directory).read_text()
    assert "FOSSILIZED: epoch 12 to 40." in page
    assert "to 90." not in page


def test_no_seed_at_all_is_said(tmp_path: Path, summary: Make) -> None:
    summary(seeds=[], control=None).write(tmp_path)
    text = parse(write_report(tmp_path).read_text()).text
    assert "The network was not grown" in text
    assert "never grown" not in text


def test_a_strategy_that_was_not_available_is_named(tmp_path: Path, summary: Make) -> None:
    summary(strategies_unavailable={"standard": "no C++ compiler"}).write(tmp_path)
    assert "Strategy standard was not available: no C++ compiler" in parse(write_report(tmp_path).read_text()).text


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for epoch in range(1, 3001):
            log.epoch(
                epoch=epoch, step=epoch, train_loss=1 / epoch, controller_loss=None, controller_metric=0.5,
                learning_rate=0.1, seconds=1.0, parameters=10, flops={"host": epoch}, seeds_by_stage={},
            )  # fmt: skip
            log.decision(epoch=epoch, step=epoch, action="none", reason="x" * 2000, numbers={"y": "z" * 2000})
            log.seed(
                epoch=epoch, step=epoch, seed=f"s{epoch}/0", slot="s", source="DORMANT", target="GERMINATED",
                reason="r" * 2000,
            )  # fmt: skip
            log.gate(epoch=epoch, step=epoch, seed=f"s{epoch}/0", gate="G0", passed=True, reason="q" * 2000)
    path = write_report(tmp_path)
    assert path.stat().st_size < 1_000_000
    assert "2,800 more decisions in events.jsonl" in parse(path.read_text()).text.replace("2800", "2,800")


def test_a_run_of_no_epoch_has_a_page(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl").close()
    assert "the last finished epoch is 0" in parse(write_report(tmp_path).read_text()).text
