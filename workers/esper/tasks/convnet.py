"""A small convolutional classifier whose size is a handful of numbers, for signals and for images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from esper.tasks.losses import require

_CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
_BATCH_NORMS: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
NORMS = ("batch", "group")


def _norm(kind: str, dimensions: int, channels: int) -> nn.Module:
    if kind == "batch":
        return _BATCH_NORMS[dimensions](channels)
    return nn.GroupNorm(1, channels)


class Branch(nn.Module):
    """``u -> s(u)``: convolution, GroupNorm, ReLU, convolution; the last is zero at first, so ``u + s(u)`` starts as u.

    With ``expansion`` 1 this is the catalogue's ``conv_block``, so a host with branches is a grown host from scratch.
    """

    def __init__(self, dimensions: int, channels: int, expansion: int) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[dimensions]
        inner = channels * expansion
        self.widen = convolution(channels, inner, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, inner)
        self.act = nn.ReLU()
        self.narrow = convolution(inner, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, u: Tensor) -> Tensor:
        """``(B, C, ...)`` to the same shape."""
        out: Tensor = self.narrow(self.act(self.norm(self.widen(u))))
        return out


class Block(nn.Module):
    """Convolution, norm, ReLU, then residual branches at the same width and length."""

    def __init__(
        self,
        dimensions: int,
        inputs: int,
        channels: int,
        kernel: int,
        stride: int,
        branches: int,
        expansion: int,
        norm: str,
    ) -> None:
        super().__init__()
        self.conv = _CONVOLUTIONS[dimensions](inputs, channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = _norm(norm, dimensions, channels)
        self.act = nn.ReLU()
        self.branches = nn.ModuleList(Branch(dimensions, channels, expansion) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, ...)`` to ``(B, channels, ...)``, each trailing size divided by the stride and rounded up."""
        u: Tensor = self.act(self.norm(self.conv(x)))
        for branch in self.branches:
            u = u + branch(u)
        return u


class ConvNet(nn.Module):
    """Blocks, mean over positions, one linear layer; ``blocks.*`` are the natural slots."""

    def __init__(
        self,
        dimensions: int,
        channels: int,
        strides: Sequence[int],
        branches: Sequence[int],
        *,
        first_kernel: int = 3,
        expansion: int = 1,
        norm: str = "group",
        classes: int = 10,
    ) -> None:
        """``dimensions`` 1 for signals or 2 for images, ``branches`` per block. Raises ``TaskError``."""
        require(1 <= channels <= 4096, "channels", channels, "it must be from 1 to 4096")
        require(1 <= expansion <= 16, "expansion", expansion, "it must be from 1 to 16")
        require(norm in NORMS, "norm", norm, f"it must be one of {', '.join(NORMS)}")
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                dimensions,
                1 if index == 0 else channels,
                channels,
                first_kernel if index == 0 else 3,
                stride,
                branches[index],
                expansion,
                norm,
            )
            for index, stride in enumerate(strides)
        )
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 1, ...)`` to logits ``(B, classes)``."""
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.flatten(2).mean(2))
        return logits
