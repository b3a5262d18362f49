"""Artifact ids: the same kernel has the same name everywhere, and a name is never a path."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyline.errors import IdentityError
from leyline.identity import MAX_HARDWARE, STRATEGIES, ArtifactId, kernel_number
from leyline.interface import Interface, Layout

INTERFACE = Interface(Layout.VECTOR, 16)
HARDWARE = st.from_regex(r"[a-z][a-z0-9_]{0,9}(-[a-z0-9_]{1,9}){0,3}", fullmatch=True)
HEX64 = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(HEX64, HARDWARE, st.sampled_from(STRATEGIES), HEX64)
@example("a" * 64, "x-fast-deadbeef", "fast", "b" * 64)
def test_round_trip_through_text(digest: str, hardware: str, strategy: str, toolchain: str) -> None:
    made = ArtifactId.make(digest, INTERFACE, hardware, strategy, toolchain)
    assert ArtifactId.parse(str(made)) == made
    assert (made.hardware, made.strategy, made.toolchain) == (hardware, strategy, toolchain[:8])
    assert kernel_number(made) == kernel_number(str(made))
    assert 0 < kernel_number(made) < 2**64


def test_the_text_form() -> None:
    made = ArtifactId.make("a" * 64, INTERFACE, "x86_64-avx512", "standard", "b" * 64)
    design, rest = str(made).split("-", 1)
    assert len(design) == 16
    assert rest == "x86_64-avx512-standard-bbbbbbbb"


def test_every_part_tells_kernels_apart() -> None:
    def name(digest: str = "a" * 64, width: int = 16, hardware: str = "x", strategy: str = "fast", tool: str = "b" * 8):
        return str(ArtifactId.make(digest, Interface(Layout.VECTOR, width), hardware, strategy, tool))

    names = [name(), name("c" * 64), name(width=32), name(hardware="y"), name(strategy="standard"), name(tool="d" * 8)]
    assert len(set(names)) == len({kernel_number(n) for n in names}) == 6


GOOD = "0123456789abcdef-x86_64-avx512-fast-deadbeef"


def test_the_example_is_valid() -> None:
    assert str(ArtifactId.parse(GOOD)) == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD + "\n",
        "\n" + GOOD,
        " " + GOOD,
        GOOD + "/",
        "../" + GOOD,
        GOOD.replace("x86_64", ".."),
        GOOD.replace("x86_64", "a/b"),
        GOOD.replace("x86_64", "a\\b"),
        GOOD.replace("x86_64", "x86\x0064"),
        GOOD.replace("x86_64", "X86"),
        GOOD.replace("x86_64", "１"),
        GOOD.replace("-x86_64-avx512", ""),
        GOOD.replace("-x86_64", "--x86_64"),
        GOOD.replace("fast", "Fast"),
        GOOD.replace("fast", "turbo"),
        GOOD.upper(),
        GOOD.replace("deadbeef", "deadbeeg"),
        GOOD.replace("deadbeef", "deadbee"),
        GOOD.replace("deadbeef", "deadbeef0"),
        GOOD[1:],
        "0" + GOOD,
        GOOD.replace("avx512", "a" * (MAX_HARDWARE + 1)),
        "a-" * 500_000,
        "0123456789abcdef-" + "a-" * 500_000 + "fast-deadbeef",
        None,
        7,
        GOOD.encode(),
        ["a"],
    ],
    ids=lambda text: repr(text)[:24],
)
def test_hostile_text_is_refused(text: Any) -> None:
    with pytest.raises(IdentityError) as caught:
        ArtifactId.parse(text)
    message = str(caught.value)
    assert len(message) < 300
    assert len(message.splitlines()) == 1
    with pytest.raises(IdentityError):
        kernel_number(text)


@given(st.text(max_size=80))
def test_only_ids_are_parsed(text: str) -> None:
    try:
        parsed = ArtifactId.parse(text)
    except IdentityError:
        return
    assert str(parsed) == text


@pytest.mark.parametrize(
    "change",
    [
        {"ir_digest": "a" * 63},
        {"ir_digest": "A" * 64},
        {"ir_digest": None},
        {"hardware": ""},
        {"hardware": "../x"},
        {"hardware": "x" * (MAX_HARDWARE + 1)},
        {"hardware": "x86_64\n"},
        {"strategy": "Fast"},
        {"strategy": ["fast"]},
        {"toolchain": "abc"},
        {"toolchain": "g" * 8},
        {"toolchain": 12345678},
    ],
)
def test_parts_that_are_not_well_formed_are_refused(change: dict[str, Any]) -> None:
    parts = {"ir_digest": "a" * 64, "hardware": "x86_64", "strategy": "fast", "toolchain": "b" * 8, **change}
    with pytest.raises(IdentityError, match=next(iter(change))):
        ArtifactId.make(interface=INTERFACE, **parts)
