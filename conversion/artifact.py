"""A converted state_dict to a file with a checksum in its name, and a sidecar that says where it came from."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from conversion.mapping import Conversion
from conversion.verify import Proof

FORMATS = ("pth", "safetensors")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class SourceFile:
    """The Torch7 file that was converted. `license` is that of the weights in it."""

    name: str
    size: int
    sha256: str
    license: str


@dataclass(frozen=True)
class Artifact:
    """What was written: the weights, the sidecar beside them, and the sidecar's content."""

    path: Path
    sidecar: Path
    record: dict[str, Any]


def make_record(conversion: Conversion, source: SourceFile, proof: Proof | None, digest: str) -> dict[str, Any]:
    """The provenance of converted weights, all but the file that they end up in. `digest` is that of the tensors."""
    architecture = conversion.architecture
    parameters = sum(
        value.numel() for name, value in conversion.state_dict.items() if name.rpartition(".")[2] not in _BUFFERS
    )
    return {
        "arch": architecture.name,
        "form": conversion.form,
        "architecture": {**asdict(architecture), "depth": architecture.depth, "parameters": parameters},
        "tensor_digest": digest,
        "source": {**asdict(source), "form": conversion.source_form, "notes": conversion.notes},
        "license": source.license,
        "proof": proof.as_dict() if proof else None,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "torchfile": importlib.metadata.version("torchfile"),
        },
    }


def write_artifact(
    state_dict: dict[str, Tensor], record: dict[str, Any], directory: Path, file_format: str = "pth"
) -> Artifact:
    """Write `<arch>_type<F>-<first 8 hex of SHA-256>.<format>` and its `.json` into `directory`, made where missing.

    Both appear under their names whole or not at all. The same tensors and record give the same bytes. A `.pth` holds a
    plain state_dict for `torch.load(weights_only=True)`; a `.safetensors` file also holds the record in its header.

    Raises OSError, and leaves the directory as it was.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    temporary: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_stale(directory)
        save = _save_pth if file_format == "pth" else _save_safetensors
        weights = _write_temporary(directory, lambda file: save(state_dict, record, file), temporary)
        path = directory / f"{record['arch']}_type{record['form']}-{weights.sha256[:8]}.{file_format}"
        file = {"name": path.name, "format": file_format, "size": weights.size, "sha256": weights.sha256}
        record = {**record, "file": file}
        text = json.dumps(record, indent=2) + "\n"
        sidecar = _write_temporary(directory, lambda file: file.write(text.encode()), temporary)
        os.replace(weights.path, path)
        os.replace(sidecar.path, path.with_suffix(".json"))
        return Artifact(path, path.with_suffix(".json"), record)
    except BaseException:
        for leftover in temporary:
            leftover.unlink(missing_ok=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        raise


@dataclass(frozen=True)
class _Written:
    path: Path
    sha256: str
    size: int


class _HashingFile:
    """A file to write to that hashes what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _remove_stale(directory: Path) -> None:
    """Delete what a process that was killed left half-written, a day ago or earlier."""
    for path in directory.glob(".writing-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400:
                path.unlink()


def _write_temporary(directory: Path, save: Callable[[Any], Any], temporary: list[Path]) -> _Written:
    """A new hidden file in `directory`, on disk for good before anything is renamed."""
    path = directory / f".writing-{secrets.token_hex(8)}"
    with path.open("xb") as file:
        temporary.append(path)
        hashing = _HashingFile(file)
        save(hashing)
        file.flush()
        os.fsync(file.fileno())
    return _Written(path, hashing.digest.hexdigest(), hashing.size)


def _save_pth(state_dict: dict[str, Tensor], record: dict[str, Any], file: Any) -> None:
    # A file object, not a path: torch names the archive inside after the path, and the bytes would depend on it.
    torch.save(state_dict, file)


def _save_safetensors(state_dict: dict[str, Tensor], record: dict[str, Any], file: Any) -> None:
    from safetensors.torch import save

    file.write(save(state_dict, metadata={"record": json.dumps(record)}))
