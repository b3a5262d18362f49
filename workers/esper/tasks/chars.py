"""Characters of Python's own help text (``pydoc_data.topics``); a pre-norm causal transformer as host.

Repeated lines are removed before the split, so that no split holds text of another. The text differs a little between
Python versions; figures are comparable within one version.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import torch
from torch import Tensor

from esper.tasks.data import TokenData
from esper.tasks.losses import bits_per_token, require, token_accuracy, token_cross_entropy
from esper.tasks.task import Task
from esper.tasks.transformer import Transformer

_DATA_SEED = 1991
_SHARES = (0.7, 0.1)
_RARE = 100
_CHUNK = 40


@lru_cache(maxsize=1)
def _corpus() -> tuple[tuple[Tensor, Tensor, Tensor], int]:
    """Token streams of the three splits, and the number of symbols (rare characters share symbol 0)."""
    from pydoc_data.topics import topics

    lines = list(dict.fromkeys(line.strip() for name in sorted(topics) for line in topics[name].splitlines()))
    # Pieces of neighbouring lines stay together, so that windows hold connected text.
    pieces = ["\n".join(lines[start : start + _CHUNK]) + "\n" for start in range(0, len(lines), _CHUNK)]
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(_DATA_SEED)).tolist()
    counted = Counter("".join(pieces))
    symbols = {char: index for index, char in enumerate(sorted(c for c, n in counted.items() if n >= _RARE), start=1)}
    first, second = int(len(order) * _SHARES[0]), int(len(order) * sum(_SHARES))
    train, controller, report = (
        torch.tensor([symbols.get(char, 0) for piece in part for char in pieces[piece]], dtype=torch.int64)
        for part in (order[:first], order[first:second], order[second:])
    )
    return (train, controller, report), len(symbols) + 1


def _first(tokens: Tensor, context: int, windows: int | None, name: str) -> TokenData:
    if windows is None:
        return TokenData(tokens, context)
    require(windows >= 2, name, windows, "it must be at least 2")
    return TokenData(tokens[: windows * context + 1], context)


def task(
    seed: int,
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
    mlp_ratio: int = 4,
    context: int = 64,
    branches: int | list[int] = 0,
    controller_examples: int | None = None,
    report_examples: int | None = None,
) -> Task:
    """``depth`` blocks, interface sequence ``(B, context, width)``; logits ``(B, context, symbols)``.

    Slots: whole blocks (``blocks.*``), or the outputs of their halves (``blocks.*.attn``, ``blocks.*.mlp``).
    ``branches`` is the number of residual branches after each block (one number, or a list). The two splits that are
    not trained on can be shortened to their first windows. Raises ``TaskError``.
    """
    require(1 <= context <= 1024, "context", context, "it must be from 1 to 1024")
    (train, controller, report), symbols = _corpus()
    return Task(
        model=Transformer(symbols, width, depth, heads, mlp_ratio, context, branches),
        train=TokenData(train, context),
        controller=_first(controller, context, controller_examples, "controller_examples"),
        report=_first(report, context, report_examples, "report_examples"),
        loss=token_cross_entropy,
        metrics={"bits_per_character": bits_per_token, "accuracy": token_accuracy, "loss": token_cross_entropy},
        metric="bits_per_character",
        higher_is_better=False,
    )
