"""One Torch7 file to one artifact: read, map, prove, write. What the command line and `pretrained=True` share."""

from __future__ import annotations

import concurrent.futures
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion import artifact, mapping, t7, verify
from resnext.weights.digest import tensor_digest
from resnext.weights.download import sha256_of


class ProofError(RuntimeError):
    """The converted network does not do what the file's own graph does; nothing was written. `proof` says where."""

    def __init__(self, path: Path, proof: verify.Proof) -> None:
        super().__init__(f"{path}: the proof failed, nothing is written: {proof.reason}")
        self.proof = proof


def convert_and_prove(
    path: str | os.PathLike[str], *, form: str = "C", prove: bool = True, progress: bool = False
) -> tuple[mapping.Conversion, verify.Proof | None]:
    """Read a Torch7 ResNeXt checkpoint and compare what was read with the file's own graph, unless `prove` is false.

    Returns the conversion in `form`, and its proof. Writes nothing. Raises T7Error for a file that is not such a
    checkpoint, ProofError (a RuntimeError) where the converted network computes something else.
    """
    conversion = mapping.convert(t7.load(path), _bar("reading", progress)).in_form(form)
    proof = verify.verify(conversion, _bar("proving", progress)) if prove else None
    if proof is not None and not proof.passed:
        raise ProofError(Path(path), proof)
    return conversion, proof


@dataclass(frozen=True)
class Built:
    """What came out; `proof` is None where it was left out."""

    artifact: artifact.Artifact
    proof: verify.Proof | None


def build(
    path: Path,
    directory: Path,
    *,
    license_: str,
    sha256: str | None = None,
    expected: str | None = None,
    form: str = "C",
    file_format: str = "pth",
    prove: bool = True,
    progress: bool = True,
) -> Built:
    """Convert a Torch7 ResNeXt checkpoint and write it with its sidecar into `directory`.

    Args:
        path: the Torch7 file.
        directory: where to write; made where missing.
        license_: licence of the weights, for the sidecar.
        sha256: digest of the Torch7 file where it is known already.
        expected: the architecture that it must be, e.g. `resnext50_32x4d`.
        form: of what is written, "A", "B" or "C", whatever that of the file.
        file_format: "pth" or "safetensors".
        prove: compare with the file's own graph (`verify`).
        progress: show progress bars if stderr is a terminal.

    Raises T7Error for a file that is not such a checkpoint, ProofError, and OSError for trouble with `directory`.
    """
    root = t7.load(path)  # no values yet; refuses what is no Torch7 file before it is read for its digest
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # the digest takes as long as the conversion: side by side
        digest = pool.submit(_digest, path, sha256)
        conversion = mapping.convert(root, _bar("reading", progress)).in_form(form)
        name = conversion.architecture.name
        if expected not in (None, name):
            raise t7.T7Error(f"expected {expected}, got {name}", path=str(path))
        proof = verify.verify(conversion, _bar("proving", progress)) if prove else None
        if proof is not None and not proof.passed:
            raise ProofError(path, proof)
        tensors = tensor_digest(conversion.state_dict)  # without a proof, the other digest is still being taken
        source = artifact.SourceFile(path.name, path.stat().st_size, digest.result(), license_)
    record = artifact.make_record(conversion, source, proof, tensors)
    return Built(artifact.write_artifact(conversion.state_dict, record, directory, file_format), proof)


def _digest(path: Path, known: str | None) -> str:
    return known or sha256_of(path)


def _bar(what: str, progress: bool) -> Callable[[list[Any]], Iterable[Any]]:
    """A progress bar for loops, on a terminal alone."""

    def wrap(items: list[Any]) -> Iterable[Any]:
        if not progress or not sys.stderr.isatty():
            return items
        from torch.hub import tqdm  # type: ignore[attr-defined]  # tqdm, or a stand-in where it is not installed

        return tqdm(items, desc=what, leave=False)

    return wrap
