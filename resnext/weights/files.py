"""Weights in files: what a file is, and how it becomes a state_dict."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnext.weights.messages import first_line

WRAPPERS = ("module.", "_orig_mod.")  # prefixes: of DataParallel, of torch.compile


class WeightsError(RuntimeError):
    """Weights that cannot be had or do not fit. Says which file, what was expected, what came and what to do."""


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state_dict in a `.pth`, `.safetensors` or Torch7 `.t7` file, told apart by content; float32.

    A state_dict inside a checkpoint (under `state_dict` or `model`) and the prefixes `module.` of DataParallel and
    `_orig_mod.` of torch.compile are unwrapped; BatchNorm counters, which ports from older PyTorch lack, are added as
    0. The tensors of a `.pth` are memory-mapped copy-on-write: replace the file, but do not write into it, while they
    are in use.

    Raises WeightsError that names the file, what was expected and what came.
    """
    shown = os.fspath(path)
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"{shown}: cannot be read: {error.strerror or error}") from None
    match find_format(head):
        case "pth":
            loaded = _read_pth(shown, mmap=head.startswith(b"PK"))
        case "safetensors":
            loaded = _read_safetensors(shown)
        case "t7":
            return _convert_t7(shown)
        case _:
            raise WeightsError(f"{shown}: expected a .pth, .safetensors or Torch7 .t7 file, got {describe(head)}")
    return _plain_state_dict(shown, loaded)


def _read_pth(path: str, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise WeightsError(
            f"{path}: expected a .pth with a plain state_dict (it is loaded with weights_only=True), but: "
            f"{first_line(error)}"
        ) from None


def _read_safetensors(path: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise WeightsError(f"{path}: reading it needs the safetensors package: pip install safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: expected a whole .safetensors file, but: {error}") from None


def find_format(head: bytes) -> str | None:
    """`pth`, `safetensors` or `t7`, by the first 64 bytes of a file; None for anything else."""
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "pth"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 10**8:  # the longest header that safetensors reads
        return "safetensors"
    # a table or an object as root: type 3 or 4 as int32 in either byte order, or as a line of text
    if head.startswith((b"\3\0\0\0", b"\4\0\0\0", b"\0\0\0\3", b"\0\0\0\4", b"3\n", b"4\n")):
        return "t7"
    return None


@contextmanager
def repository_on_path() -> Iterator[None]:
    """For imports of `conversion`, beside this package: torch.hub takes the repository off sys.path once it is done."""
    root = str(Path(__file__).resolve().parents[2])
    sys.path.append(root)
    try:
        yield
    finally:
        sys.path.remove(root)


def _convert_t7(path: str) -> dict[str, Tensor]:
    try:
        with repository_on_path():
            from conversion import mapping, t7
    except ImportError as error:
        raise WeightsError(f"{path}: converting it needs {error.name}: pip install torchfile numpy") from None
    try:
        conversion = mapping.convert(t7.load(path))
    except t7.T7Error as error:
        raise WeightsError(str(error)) from error
    if conversion.notes:
        warnings.warn(
            f"{path}: {'; '.join(conversion.notes)}", stacklevel=6
        )  # whoever called create or from_checkpoint
    return conversion.state_dict


def describe(head: bytes) -> str:
    """What a file that is none of weights is, as far as its first bytes tell."""
    return foreign(head) or (f"something that starts with {head[:8]!r}" if head else "an empty file")


def foreign(head: bytes) -> str | None:
    """What comes instead of weights when a download goes wrong, by its first bytes; None for anything else."""
    text = head[:256].removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself (git lfs pull)"
    if re.match(rb"<[!?a-zA-Z]", text):
        return "an HTML or XML page (a failed download?)"
    return None


def _plain_state_dict(path: str, loaded: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{path}: expected a state_dict, got {type(loaded).__name__}")
    state_dict: dict[str, Tensor] = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: expected a state_dict of tensors, got {type(value).__name__} under {name!r}")
        counter = name.endswith("num_batches_tracked") and not value.is_complex() and not value.is_floating_point()
        if value.layout != torch.strided or value.is_meta or not (value.is_floating_point() or counter):
            raise WeightsError(
                f"{path}: expected dense tensors of real numbers, got {value.dtype}, {value.layout} ({name})"
            )
        state_dict[name] = value.detach() if counter else value.detach().float()
    while prefix := next((wrapper for wrapper in WRAPPERS if all(name.startswith(wrapper) for name in state_dict)), ""):
        state_dict = {name.removeprefix(prefix): value for name, value in state_dict.items()}
    for name in [name for name in state_dict if name.endswith(".running_var")]:
        state_dict.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0, device="cpu"))
    return state_dict
