"""A small pre-norm causal transformer (Vaswani et al., 2017; pre-norm: Xiong et al., 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.tasks.losses import counts_per_block, require


class Attention(nn.Module):
    """Norm, causal multi-head attention, output projection; the residual is added by the block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, width)`` to the same shape."""
        batch, length, width = x.shape
        parts = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    """Norm, linear, GELU, linear; the residual is added by the block."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, ratio * width)
        self.act = nn.GELU()
        self.out = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, width)`` to the same shape."""
        out: Tensor = self.out(self.act(self.widen(self.norm(x))))
        return out


class TransformerBlock(nn.Module):
    """Attention and MLP, each on a residual path; then branches, which are the catalogue's ``mlp`` and zero at first.

    So a host with branches is a grown host from scratch.
    """

    def __init__(self, width: int, heads: int, ratio: int, branches: int = 0) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = MLP(width, ratio)
        self.branches = nn.ModuleList(MLP(width, 4) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, width)`` to the same shape."""
        x = x + self.attn(x)
        out: Tensor = x + self.mlp(x)
        for branch in self.branches:
            out = out + branch(out)
        return out


class Transformer(nn.Module):
    """Token and position embeddings, blocks, norm, linear read-out."""

    def __init__(
        self, symbols: int, width: int, depth: int, heads: int, ratio: int, context: int, branches: int | list[int] = 0
    ) -> None:
        """``branches`` per block. Raises ``TaskError`` for sizes that don't fit together."""
        require(1 <= width <= 4096, "width", width, "it must be from 1 to 4096")
        require(1 <= depth <= 64, "depth", depth, "it must be from 1 to 64")
        require(heads >= 1 and width % heads == 0, "heads", heads, f"it must divide the width ({width})")
        require(1 <= ratio <= 16, "mlp_ratio", ratio, "it must be from 1 to 16")
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.position = nn.Parameter(torch.empty(context, width))
        counts = counts_per_block(branches, depth, "branches")
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, ratio, count) for count in counts)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)
        for name, parameter in self.blocks.named_parameters():
            if parameter.ndim == 2:
                # Residual outputs are scaled down so that the variance at the last block does not grow with depth.
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if "out." in name else 0.02)
            if "branches." in name and "out." in name:
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, T)`` int64, ``T <= context``, to logits ``(B, T, symbols)``."""
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits
