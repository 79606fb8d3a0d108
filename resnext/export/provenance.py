"""What is known of a network's weights: which file they came from, its digest, its licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnext.architecture import Architecture
from resnext.cli.command_line import DEFAULT, CommandError
from resnext.forms import convert_state_dict
from resnext.model import ResNeXt
from resnext.weights.digest import tensor_digest
from resnext.weights.download import sha256_of
from resnext.weights.files import WeightsError
from resnext.weights.pretrained import fetch, resolve_pretrained
from resnext.weights.records import Record, records
from resnext.zoo import get_architecture

UNKNOWN = "not stated"


def find_weights(arch: str | None, weights: str | None) -> Path:
    """The file on this machine that `--arch` and `--weights` of a command name; downloaded where it has to be.

    Raises CommandError for an unknown network, WeightsError where the file cannot be had.
    """
    if weights is None:
        try:
            architecture = get_architecture(arch or DEFAULT)
        except ValueError as error:
            raise CommandError(f"argument --arch: {error}") from None
        return resolve_pretrained(architecture.name)
    return fetch(weights) if "://" in weights else Path(weights)


def provenance(model: ResNeXt, weights: Path | None) -> dict[str, str]:
    """Architecture and origin of a network, as names and values of metadata.

    Args:
        model: the network.
        weights: the file that its weights were read from; None where there is none. The licence is that of the record
            or of the sidecar (`.json`) beside the file, each by the file's digest or the record's name of it.

    `tensor_digest` is that of the sidecar for a network of form C as it was converted. Raises WeightsError for a file
    that cannot be read.
    """
    result = {
        "architecture": _architecture(model),
        "form": model.form,
        "num_classes": str(model.num_classes),
        "preprocessing": model.preprocessing,
        "tensor_digest": tensor_digest(model.state_dict()),
        "source": UNKNOWN,
        "source_sha256": UNKNOWN,
        "license": UNKNOWN,
    }
    if weights is None:
        return result
    try:
        digest = sha256_of(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: cannot be read: {error.strerror or error}") from None
    return result | {"source": weights.name, "source_sha256": digest} | _license(weights, digest)


def _architecture(model: ResNeXt) -> str:
    """Its name, read off the shapes as for any checkpoint; a network without a classifier cannot be one."""
    try:
        state_dict = convert_state_dict(model.state_dict(), model.form, "C")
        return Architecture.from_shapes({name: tuple(value.shape) for name, value in state_dict.items()}).name
    except ValueError:
        return UNKNOWN


def _license(weights: Path, digest: str) -> dict[str, str]:
    for record in records().values():
        if _is_published(record, weights, digest):
            return {"license": record.license}
    sidecar = _sidecar(weights)
    if sidecar.get("file", {}).get("sha256") != digest:  # another file's
        return {}
    source = sidecar.get("source", {})
    known = {"license": sidecar.get("license"), "torch7": source.get("name"), "torch7_sha256": source.get("sha256")}
    return {name: value for name, value in known.items() if isinstance(value, str)}


def _is_published(record: Record, weights: Path, digest: str) -> bool:
    """By the digest; where the authors' file has none, by its name, as in `conversion/build_weights.py`."""
    if record.hosted is not None and record.hosted.sha256 == digest:
        return True
    return record.torch7.sha256 == digest or (record.torch7.sha256 is None and record.torch7.file == weights.name)


def _sidecar(weights: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
