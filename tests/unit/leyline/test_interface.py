"""Interfaces: what a slot offers, in every layout."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyline.errors import InterfaceError
from leyline.interface import DTYPES, MAX_ELEMENTS, MAX_WIDTH, Interface, Layout


@st.composite
def interfaces(draw: st.DrawFn) -> Interface:
    layout = draw(st.sampled_from(Layout))
    low = draw(st.integers(1, 64))
    return Interface(
        layout,
        draw(st.integers(1, 256)),
        tuple(draw(st.integers(1, 64)) for _ in range(layout.trailing_rank)),
        draw(st.sampled_from(DTYPES)),
        (low, draw(st.integers(low, 4096))),
    )


@given(interfaces())
def test_round_trip_through_plain_data(interface: Interface) -> None:
    again = Interface.from_dict(interface.to_dict())
    assert again == interface
    assert again.digest() == interface.digest()
    assert hash(again) == hash(interface)


@given(interfaces(), interfaces())
def test_digests_are_equal_exactly_when_interfaces_are(one: Interface, two: Interface) -> None:
    assert (one.digest() == two.digest()) == (one == two)


@given(interfaces(), st.integers(1, 64))
def test_a_tensor_of_the_shape_has_the_interface(interface: Interface, batch: int) -> None:
    shape = interface.shape(batch)
    found = Interface.of_shape(interface.layout, shape, interface.dtype)
    assert (found.width, found.trailing, found.dtype) == (interface.width, interface.trailing, interface.dtype)
    assert shape[0] == batch
    assert shape[interface.feature_dim] == interface.width
    assert shape[1:] == interface.sample_shape


@pytest.mark.parametrize(
    ("layout", "shape", "width", "trailing", "positions"),
    [
        (Layout.VECTOR, (3, 8), 8, (), 1),
        (Layout.SEQUENCE, (3, 5, 8), 8, (5,), 5),
        (Layout.IMAGE1D, (3, 8, 5), 8, (5,), 5),
        (Layout.IMAGE2D, (3, 8, 4, 5), 8, (4, 5), 20),
    ],
)
def test_layouts_place_features_and_positions(
    layout: Layout, shape: tuple[int, ...], width: int, trailing: tuple[int, ...], positions: int
) -> None:
    interface = Interface.of_shape(layout, shape)
    assert (interface.width, interface.trailing, interface.positions) == (width, trailing, positions)
    assert interface.shape(3) == shape


def test_names_of_layouts_are_accepted_as_text() -> None:
    assert Interface.from_dict({"layout": "vector", "width": 4}) == Interface(Layout.VECTOR, 4)


VALID: dict[str, Any] = {"layout": "sequence", "width": 8, "trailing": [5], "dtype": "float32", "batch": [1, 16]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layout", "Vector"),
        ("layout", 1),
        ("layout", None),
        ("layout", ["vector"]),
        ("width", 0),
        ("width", -1),
        ("width", MAX_WIDTH + 1),
        ("width", True),
        ("width", 8.0),
        ("width", "8"),
        pytest.param("width", 10**5000, id="width-huge"),
        ("trailing", []),
        ("trailing", [5, 5]),
        ("trailing", [0]),
        ("trailing", [True]),
        ("trailing", 5),
        ("trailing", "5"),
        ("trailing", [MAX_ELEMENTS]),
        ("dtype", "float8"),
        ("dtype", None),
        ("dtype", []),
        ("batch", [2, 1]),
        ("batch", [0, 1]),
        ("batch", [1]),
        ("batch", [1, 2**40]),
        ("batch", {"low": 1}),
    ],
)
def test_wrong_fields_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InterfaceError) as caught:
        Interface.from_dict({**VALID, field: value})
    assert str(caught.value).startswith(field)
    assert caught.value.allowed or "too many" in caught.value.problem


@pytest.mark.parametrize("data", [{**VALID, "height": 3}, {"width": 8}, {"layout": "vector"}, [], None, {1: 2}])
def test_other_documents_are_refused(data: Any) -> None:
    with pytest.raises(InterfaceError, match=r"^interface"):
        Interface.from_dict(data)


@pytest.mark.parametrize("shape", [(), (3,), (3, 8), (3, 8, 5, 5)])
def test_a_rank_that_is_not_the_layouts_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InterfaceError, match="rank"):
        Interface.of_shape(Layout.SEQUENCE, shape)
