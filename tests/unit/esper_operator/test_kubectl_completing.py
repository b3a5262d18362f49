"""What ``kubectl esper <tab>`` offers."""

from __future__ import annotations

import pytest

from esper_operator.kubectl.completing import candidates

COMMANDS = [("status", "Show"), ("seeds", "List"), ("suspend", "Stop"), ("kernels", "List")]


def runs(namespace: str | None) -> list[tuple[str, str]]:
    return {None: [("grow", "Running"), ("big", "Failed")], "team": [("theirs", "Pending")]}[namespace]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ([], ["kernels", "seeds", "status", "suspend"]),
        (["s"], ["seeds", "status", "suspend"]),
        (["status", ""], ["big", "grow"]),
        (["status", "g"], ["grow"]),
        (["-n", "team", "status", ""], ["theirs"]),
        (["status", "--namespace=team", ""], ["theirs"]),
        (["status", "-n", ""], []),
        (["status", "grow", ""], []),
        (["kernels", ""], []),
        (["status", "grow", "-o", "j"], ["json"]),
        (["-n", "status", ""], ["kernels", "seeds", "status", "suspend"]),
    ],
)
def test_offers(typed: list[str], offered: list[str]) -> None:
    assert [word for word, _ in candidates(typed, COMMANDS, runs)] == offered


def test_each_offer_says_what_it_means() -> None:
    assert candidates(["status", "b"], COMMANDS, runs) == [("big", "Failed")]
