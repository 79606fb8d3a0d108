"""Converted weights as a file with a checksum in its name and a sidecar with its provenance; publishing it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from resnext.weights import records
from resnext.weights.atomic import replacing, replacing_all
from resnext.weights.download import check_url, sha256_of

from .mapping import Conversion
from .verify import Proof

FORMATS = ("pth", "safetensors")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Torch7File:
    """The Torch7 file that was converted, and the licence of its weights."""

    name: str
    size: int
    sha256: str
    license: str


@dataclass(frozen=True)
class Artifact:
    """The files written: weights and sidecar; the sidecar's content; the proof, None if it was left out."""

    path: Path
    sidecar: Path
    record: dict[str, Any]
    proof: Proof | None = None


def make_record(conversion: Conversion, origin: Torch7File, proof: Proof | None, digest: str) -> dict[str, Any]:
    """The provenance of converted weights, except for the name and size of their file. `digest` covers the tensors."""
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
    """Write `<arch>_type<F>-<first 8 hex of SHA-256>.<format>` and its `.json` into `directory`, created if missing.

    Both files appear whole, or neither does. The same tensors and record give the same bytes. A `.pth` holds a plain
    state_dict for `torch.load(weights_only=True)`; a `.safetensors` file also holds the record in its header.

    Raises OSError and then leaves the directory as it was.
    """
    with replacing_all(directory) as hidden:
        written = hidden / "weights"
        if file_format == "pth":
            with written.open("xb") as file:  # from a path, torch takes a name for the archive: other bytes
                torch.save(state_dict, file)
        else:
            from safetensors.torch import save

            written.write_bytes(save(state_dict, metadata={"record": json.dumps(record)}))
        size, sha256 = written.stat().st_size, sha256_of(written)
        path = directory / f"{record['arch']}_type{record['form']}-{sha256[:8]}.{file_format}"
        sidecar = path.with_suffix(".json")
        record = {
            **record,
            "file": {"name": path.name, "format": file_format, "size": size, "sha256": sha256},
        }
        written.rename(hidden / path.name)
        (hidden / sidecar.name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return Artifact(path, sidecar, record)


def publish(built: Artifact, base_url: str) -> str:
    """Enter a built `.pth` into the records of `resnext/weights/weights.json`, where `pretrained=True` finds it.

    Returns the URL under which the maintainer must upload the file. Raises ValueError if there is no record for it,
    DownloadError for a base URL that downloads would refuse.
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
