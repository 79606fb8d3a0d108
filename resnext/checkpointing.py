"""Activation checkpointing that leaves batch statistics as they are without it."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class CheckpointedSequential(nn.Sequential):
    """A Sequential that, where `checkpointed` is set, keeps only the inputs of its modules for the backward pass.

    The backward pass then runs each module once more, on copies of its buffers: running statistics are updated once.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.checkpointed = False

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            if not torch.jit.is_scripting() and self.checkpointed:  # type: ignore[attr-defined]
                x = _checkpoint(module, x)
            else:
                x = module(x)
        return x


def _checkpoint(module: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # torch.compile takes no contexts of one's own
        return checkpoint(module, x, use_reentrant=False)
    return checkpoint(
        module, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _CopiedBuffers(module))
    )


class _CopiedBuffers:
    """A context in which a module has copies of its buffers; may be entered again, by another backward pass."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.kept = [(owner, owner._buffers) for owner in self.module.modules() if owner._buffers]
        for owner, buffers in self.kept:
            owner._buffers = {name: None if value is None else value.clone() for name, value in buffers.items()}

    def __exit__(self, *_: object) -> None:
        for owner, buffers in self.kept:
            owner._buffers = buffers
