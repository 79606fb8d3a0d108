"""One Torch7 file to one artifact: read, recognise, take the values, prove, write."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnext.weights.download import sha256_of
from resnext.weights.files import tensor_digest
from resnext.weights.progress import track

from . import artifact, mapping, t7, verify


class ProofError(RuntimeError):
    """The converted network does not compute what the file's own graph computes. `proof` says where they differ."""

    exit_status = 1

    def __init__(self, path: str, proof: verify.Proof) -> None:
        super().__init__(f"{path}: the proof failed, nothing is written: {proof.reason}")
        self.proof = proof


def convert_and_prove(
    path: str | os.PathLike[str],
    *,
    form: str = "C",
    expected: str | None = None,
    prove: bool = True,
    progress: bool = False,
) -> tuple[mapping.Conversion, verify.Proof | None]:
    """Read a Torch7 ResNeXt checkpoint and compare what was read with the file's own graph.

    Writes nothing. Takes the same arguments as `build`. Returns the conversion in `form` and its proof, None without
    `prove`. Raises T7Error for a file that is not such a checkpoint, ProofError if the two compute different values.
    """
    return _convert_and_prove(t7.load(path), os.fspath(path), form, expected, prove, progress)


def _convert_and_prove(
    root: Any, path: str, form: str, expected: str | None, prove: bool, progress: bool
) -> tuple[mapping.Conversion, verify.Proof | None]:
    show = functools.partial(track, show=None if progress else False, leave=False)
    conversion = mapping.convert(root, functools.partial(show, desc="reading")).in_form(form)
    name = conversion.architecture.name
    if expected not in (None, name):
        raise t7.T7Error(f"expected {expected}, got {name}", path=path)
    proof = verify.verify(conversion, functools.partial(show, desc="proving")) if prove else None
    if proof is not None and not proof.passed:
        raise ProofError(path, proof)
    return conversion, proof


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
) -> artifact.Artifact:
    """Convert a Torch7 ResNeXt checkpoint and write it with its sidecar into `directory`.

    Args:
        path: the Torch7 file.
        directory: where to write; created if missing.
        license_: licence of the weights, for the sidecar.
        sha256: digest of the Torch7 file, if it is known already.
        expected: the architecture that the file must hold, such as `resnext50_32x4d`.
        form: the form to write, "A", "B" or "C"; the file's own may be another.
        file_format: "pth" or "safetensors".
        prove: compare with the file's own graph (`verify`).
        progress: show progress bars if stderr is a terminal.

    Raises T7Error for a file that is not such a checkpoint, ProofError, and OSError if `directory` cannot be written.
    """
    root = t7.load(path)  # no values yet; refuses other files before computing a digest
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # the digest takes as long as the conversion
        digest = pool.submit(lambda: sha256 or sha256_of(path))
        conversion, proof = _convert_and_prove(root, os.fspath(path), form, expected, prove, progress)
        tensors = tensor_digest(conversion.state_dict)
        origin = artifact.Torch7File(path.name, path.stat().st_size, digest.result(), license_)
    record = artifact.make_record(conversion, origin, proof, tensors)
    return replace(artifact.write_artifact(conversion.state_dict, record, directory, file_format), proof=proof)
