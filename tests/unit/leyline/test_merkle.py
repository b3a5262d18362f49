from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyline.merkle import leaf, root_of, tree

# The inputs and roots that the logs of RFC 6962 are tested with, for the first one, two, ... of them.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_are_those_of_rfc_6962(count: int) -> None:
    assert tree([leaf(each) for each in INPUTS[:count]])[0].hex() == ROOTS[count - 1]


@given(st.integers(1, 70), st.data())
def test_a_path_leads_from_its_own_leaf_at_its_own_place_and_from_no_other(count: int, data: st.DataObject) -> None:
    leaves = [leaf(b"%d" % number) for number in range(count)]
    root, paths = tree(leaves)
    index, other = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count - 1))
    assert root_of(leaves[index], index, count, paths[index]) == root
    if other != index:
        assert root_of(leaves[other], index, count, paths[index]) != root
        assert root_of(leaves[index], other, count, paths[index]) != root
        assert root_of(leaves[index], index, count, paths[other]) != root
    assert root_of(leaves[index], index, count, paths[index] + bytes(32)) is None
    if paths[index]:
        assert root_of(leaves[index], index, count, paths[index][:-32]) is None
        assert root_of(leaves[index], index, count, b"") is None


def test_an_inner_node_does_not_pass_for_a_message() -> None:
    """Without different first bytes a message of 64 bytes could be the two hashes below a node."""
    leaves = [leaf(each) for each in INPUTS[:4]]
    root, paths = tree(leaves)
    node = leaves[0] + leaves[1]
    assert root_of(leaf(node), 0, 2, paths[0][32:]) != root
    assert root_of(sha256(b"\1" + node).digest(), 0, 2, paths[0][32:]) == root, "the path itself would fit"


def test_no_two_lists_have_the_same_root() -> None:
    """A tree that doubled its last leaf would not tell three leaves from four with the last one twice."""
    leaves = [leaf(each) for each in INPUTS]
    lists = [leaves[:3], [*leaves[:3], leaves[2]], leaves[:4], leaves[:5], [*leaves[:5], leaves[4]], leaves[:2][::-1]]
    assert len({tree(each)[0] for each in lists}) == len(lists)
