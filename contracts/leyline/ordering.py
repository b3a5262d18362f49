"""Canonical order of a directed acyclic graph whose nodes carry labels and whose inputs may commute.

Colour refinement followed by individualisation, the scheme of McKay, "Practical graph isomorphism" (1981), on graphs
where a commutative node has exactly two inputs. Nodes are numbers from 0; the last argument of every function is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import groupby
from typing import Any

MAX_WORK = 4_000_000
"""Nodes visited before a graph counts as too symmetric; about a second."""


class TooSymmetric(ValueError):
    """The graph has so many interchangeable parts that no canonical order was found within `MAX_WORK`."""


@dataclass(frozen=True)
class Vertex:
    """A node: its label, its inputs, and whether their order means nothing."""

    label: str
    inputs: tuple[int, ...]
    commutes: bool


Encoding = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Found:
    encoding: Encoding
    order: tuple[int, ...]
    uniform: bool
    """Every way of breaking the remaining ties gives this encoding."""


def canonical_order(vertices: Sequence[Vertex]) -> list[int]:
    """Return the nodes in a topological order that depends only on labels and structure, not on their numbering.

    Raises:
        TooSymmetric: see there.
    """
    return list(_Search(vertices).run())


class _Search:
    """Breaks ties between interchangeable nodes in every way that could matter and keeps the smallest encoding.

    A colour is the number of nodes of smaller colour, so splitting one cell leaves the other colours alone.
    """

    def __init__(self, vertices: Sequence[Vertex]) -> None:
        self.vertices = vertices
        self.users: list[list[tuple[int, int]]] = [[] for _ in vertices]
        for number, vertex in enumerate(vertices):
            for place, source in enumerate(vertex.inputs):
                self.users[source].append((number, -1 if vertex.commutes else place))
        self.work = 0

    def run(self) -> tuple[int, ...]:
        everything = list(range(len(self.vertices)))
        colours = [0] * len(self.vertices)
        self._split(colours, everything, {n: self.vertices[n].label for n in everything})
        self._refine(colours, everything)
        return self._best(colours).order

    def _best(self, colours: list[int]) -> _Found:
        pair = self._tied_pair(colours)
        if pair is None:
            return self._leaf(colours)
        first, second = (self._individualised(colours, node) for node in pair)
        best = self._best(first)
        # If all of the first half is alike and any leaf of the second matches it, swapping the pair is a symmetry
        # of the graph, and the second half holds the same leaves.
        if best.uniform and self._any_leaf(second).encoding == best.encoding:
            return best
        other = self._best(second)
        uniform = best.uniform and other.uniform and best.encoding == other.encoding
        smaller = min(best, other, key=lambda found: found.encoding)
        return _Found(smaller.encoding, smaller.order, uniform)

    def _any_leaf(self, colours: list[int]) -> _Found:
        while (pair := self._tied_pair(colours)) is not None:
            colours = self._individualised(colours, pair[0])
        return self._leaf(colours)

    def _tied_pair(self, colours: list[int]) -> tuple[int, int] | None:
        """Return the tied nodes of smallest colour whose users are all told apart, or None without ties.

        Such a node shares its users with all nodes tied to it; a user that tells its inputs apart by place would
        tell them apart too, and a commutative one has two inputs: so there are exactly two of them.
        """
        self._count(len(colours))
        cells: dict[int, list[int]] = {}
        for node, colour in enumerate(colours):
            cells.setdefault(colour, []).append(node)
        tied = [colour for colour, cell in cells.items() if len(cell) > 1]
        for colour in sorted(tied):
            if all(len(cells[colours[user]]) == 1 for user, _ in self.users[cells[colour][0]]):
                first, second = cells[colour]
                return first, second
        return None

    def _individualised(self, colours: list[int], node: int) -> list[int]:
        colours = colours.copy()
        others = [n for n, colour in enumerate(colours) if colour == colours[node] and n != node]
        for other in others:
            colours[other] += 1
        self._refine(colours, others)
        return colours

    def _refine(self, colours: list[int], changed: list[int]) -> None:
        """Split cells until nodes of one colour have equally coloured inputs and users."""
        while changed:
            near: set[int] = set()
            for node in changed:
                near.update(self.vertices[node].inputs)
                near.update(user for user, _ in self.users[node])
            touched = {colours[node] for node in near}
            cells: dict[int, list[int]] = {}
            for node, colour in enumerate(colours):
                if colour in touched:
                    cells.setdefault(colour, []).append(node)
            members = [node for cell in cells.values() if len(cell) > 1 for node in cell]
            self._count(len(colours) + 4 * len(members))
            signatures = {node: self._signature(colours, node) for node in members}
            changed = []
            for cell in cells.values():
                if len(cell) > 1:
                    changed += self._split(colours, cell, signatures)

    def _signature(self, colours: list[int], node: int) -> tuple[list[int], list[tuple[int, int]]]:
        vertex = self.vertices[node]
        inputs = [colours[source] for source in vertex.inputs]
        if vertex.commutes:
            inputs.sort()
        return inputs, sorted((colours[user], place) for user, place in self.users[node])

    def _count(self, visits: int) -> None:
        self.work += visits
        if self.work > MAX_WORK:
            raise TooSymmetric

    @staticmethod
    def _split(colours: list[int], cell: list[int], signatures: Mapping[int, Any]) -> list[int]:
        """Recolour one cell by signature and return the nodes whose colour changed."""
        base, seen, changed = colours[cell[0]], 0, []
        for _, same in groupby(sorted(cell, key=signatures.__getitem__), key=signatures.__getitem__):
            part = list(same)
            if seen:
                for node in part:
                    colours[node] = base + seen
                changed += part
            seen += len(part)
        return changed

    def _leaf(self, colours: list[int]) -> _Found:
        """Number the nodes topologically, smallest colour first, when every colour is unique."""
        waiting = [len(vertex.inputs) for vertex in self.vertices]
        ready = [(colours[n], n) for n, count in enumerate(waiting) if count == 0]
        ready.sort()
        place: dict[int, int] = {}
        encoding = []
        while ready:
            _, node = heappop(ready)
            place[node] = len(place)
            vertex = self.vertices[node]
            inputs = [place[source] for source in vertex.inputs]
            if vertex.commutes:
                inputs.sort()
            encoding.append((vertex.label, tuple(inputs)))
            for user, _ in self.users[node]:
                waiting[user] -= 1
                if waiting[user] == 0:
                    heappush(ready, (colours[user], user))
        self._count(4 * len(self.vertices))
        return _Found(tuple(encoding), tuple(place), True)
