"""`python -m resnext inspect FILE`: what a file of weights holds, and how it would be read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from resnext.architecture import Architecture
from resnext.cli.command_line import Checkpoint, find_checkpoint, one_line, table
from resnext.forms import find_form
from resnext.weights.files import Contents, read_record, read_weights
from resnext.weights.loading import recognise
from resnext.weights.records import read_json

_FORMATS = {
    "pth": "PyTorch (torch.save)",
    "safetensors": "safetensors",
    "t7": "Torch7",
    "hdf5": "HDF5 (Keras)",
    "npz": "NumPy (.npz)",
}


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `inspect` to the commands of `python -m resnext`, or of `python -m resnext weights`."""
    parser = commands.add_parser("inspect", help="what a file of weights holds, and how it would be read")
    parser.add_argument("file", metavar="FILE", help="any file that --weights takes, or its URL")
    parser.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="of a training checkpoint: as predict and evaluate have it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    checkpoint = find_checkpoint(None, options.file, options.ema)
    contents = read_weights(checkpoint.path, ema=options.ema, prove=False)
    _, architecture, _ = recognise(str(checkpoint.path), contents)
    description = _describe(checkpoint, contents, architecture)
    print(json.dumps(description, indent=2) if options.json else table(_rows(description)))
    return 0


def _describe(checkpoint: Checkpoint, contents: Contents, architecture: Architecture) -> dict[str, Any]:
    return {
        "file": str(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "sha256": checkpoint.sha256,
        "format": contents.format,
        "recognised_by": contents.recognised,
        "architecture": architecture.name,
        "layers": list(architecture.layers),
        "cardinality": architecture.cardinality,
        "base_width": architecture.base_width,
        "stem": architecture.stem,
        "shortcut": architecture.shortcut,
        "form": find_form(contents.state_dict),
        "classes": architecture.num_classes,
        "in_channels": architecture.in_channels,
        "parameters": architecture.parameters,
        "remarks": list(contents.remarks),
        "record": _record(checkpoint.path, checkpoint.sha256),
    }


def _record(path: Path, sha256: str) -> dict[str, Any] | None:
    """What the file says of itself, else what `build_weights.py` wrote beside it, if it is about this file."""
    if record := read_record(path):
        return record
    sidecar = read_json(path.with_suffix(".json")) or {}
    file = sidecar.get("file")
    return sidecar if isinstance(file, dict) and file.get("sha256") == sha256 else None


def _rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("file", f"{data['file']} ({data['bytes']:,} bytes)"),
        ("SHA-256", data["sha256"]),
        ("format", _FORMATS[data["format"]]),
        ("recognised by", data["recognised_by"]),
        ("network", f"{data['architecture']}, form {data['form']}, shortcut {data['shortcut']}, {data['stem']} stem"),
        ("bottlenecks", " + ".join(map(str, data["layers"]))),
        ("paths", f"cardinality {data['cardinality']}, width {data['base_width']} in the first stage"),
        ("classes", str(data["classes"] or "none: there is no classifier")),
        ("input", f"{data['in_channels']} channels"),
        ("parameters", f"{data['parameters']:,}"),
        *(("remark", remark) for remark in data["remarks"]),
    ]
    for name, value in (data["record"] or {}).items():
        rows.append((f"record: {name}", value if isinstance(value, str) else json.dumps(value)))
    return [(name, one_line(value)) for name, value in rows]
