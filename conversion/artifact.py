"""Converted weights as a file with a checksum in its name and a sidecar that says where it came from; publishing it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from resnext.weights import records
from resnext.weights.atomic import replacing, replacing_all
from resnext.weights.download import check_url

from .mapping import Conversion
from .verify import Proof

FORMATS = ("pth", "safetensors")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Torch7File:
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


def make_record(conversion: Conversion, origin: Torch7File, proof: Proof | None, digest: str) -> dict[str, Any]:
    """The provenance of converted weights, without the file that they end up in. `digest` is that of the tensors."""
    architecture = conversion.architecture
    parameters = sum(
        value.numel() for name, value in conversion.state_dict.items() if name.rpartition(".")[2] not in _BUFFERS
    )
    return {
        "arch": architecture.name,
        "form": conversion.form,
        "architecture": {**asdict(architecture), "depth": architecture.depth, "parameters": parameters},
        "tensor_digest": digest,
        "source": {**asdict(origin), "form": conversion.source_form, "notes": conversion.notes},
        "license": origin.license,
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
    with replacing_all(directory) as hidden:
        with (hidden / "weights").open("xb") as file:
            hashing = _HashingFile(file)
            if file_format == "pth":
                # A file object, not a path: torch names the archive inside after the path, and the bytes would differ.
                torch.save(state_dict, hashing)  # type: ignore[arg-type]
            else:
                from safetensors.torch import save

                hashing.write(save(state_dict, metadata={"record": json.dumps(record)}))
        sha256 = hashing.digest.hexdigest()
        path = directory / f"{record['arch']}_type{record['form']}-{sha256[:8]}.{file_format}"
        sidecar = path.with_suffix(".json")
        record = {
            **record,
            "file": {"name": path.name, "format": file_format, "size": hashing.size, "sha256": sha256},
        }
        (hidden / "weights").rename(hidden / path.name)
        (hidden / sidecar.name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return Artifact(path, sidecar, record)


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


def publish(built: Artifact, base_url: str) -> str:
    """Enter a built `.pth` into the records of `resnext/weights.json`, where `pretrained=True` finds it.

    The file itself is for its maintainer to upload under `base_url`. Returns its URL. Raises ValueError where there is
    no record to write to, DownloadError for a base URL from which nothing would be fetched.
    """
    content = json.loads(records.RECORDS.read_text(encoding="utf-8"))
    arch, file, origin = built.record["arch"], built.record["file"], built.record["source"]
    if arch not in content or content[arch]["torch7"]["file"] != origin["name"]:
        known = ", ".join(f"{name} from {record['torch7']['file']}" for name, record in content.items())
        raise ValueError(f"no record for {arch} from {origin['name']}; there are: {known}")
    stated = content[arch]["torch7"]["sha256"]
    if stated not in (None, origin["sha256"]):
        raise ValueError(f"{origin['name']} has SHA-256 {origin['sha256']}, the record says {stated}")
    url = f"{base_url.rstrip('/')}/{quote(file['name'])}"
    check_url(url)
    content[arch]["torch7"]["sha256"] = origin["sha256"]
    content[arch]["hosted"] = {
        "file": file["name"],
        "urls": [url],
        "size": file["size"],
        "sha256": file["sha256"],
        "tensor_digest": built.record["tensor_digest"],
    }
    with replacing(records.RECORDS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    records.records.cache_clear()
    return url
