"""What is published: the records of `weights.json`, with the source of every figure."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.weights.files import WeightsError

RECORDS = Path(__file__).with_name("weights.json")
_LARGEST = 2**26  # bytes of JSON that are read


@dataclass(frozen=True)
class Hosted:
    """A `.pth` that can be downloaded as it is."""

    file: str
    urls: tuple[str, ...]
    size: int
    sha256: str
    tensor_digest: str


@dataclass(frozen=True)
class Torch7Source:
    """The authors' Torch7 file. `size` as they state it; `sha256` is None where nobody has stated any."""

    file: str
    urls: tuple[str, ...]
    size: str
    sha256: str | None

    @property
    def limit(self) -> int:
        """The most bytes of a download: the stated size is rounded, and may mean either kind of megabyte."""
        return (int(self.size.split()[0]) + 1) * 2**20


@dataclass(frozen=True)
class Record:
    """What is published of one architecture.

    Errors are in percent, and `top5_error` is None where the authors reported none; `multiply_adds` are for one image.
    `preprocessing` is the name that `resnext.preprocess.get_preprocess` takes.
    """

    architecture: str
    hosted: Hosted | None
    torch7: Torch7Source
    top1_error: float
    top5_error: float | None
    parameters: int
    multiply_adds: int
    preprocessing: str
    license: str
    license_url: str


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file, or anything else is in it."""
    try:
        if not path.is_file():
            return None  # a pipe would keep us waiting
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        content = json.loads(data.decode("utf-8")) if len(data) <= _LARGEST else None
    except (OSError, ValueError, RecursionError):  # a ValueError: not UTF-8, no JSON, or a path with a null character
        return None
    return content if isinstance(content, dict) else None


@functools.cache
def records() -> Mapping[str, Record]:
    """The records by architecture, e.g. `resnext50_32x4d`."""
    return {name: _record(data) for name, data in json.loads(RECORDS.read_text(encoding="utf-8")).items()}


def _record(data: dict[str, Any]) -> Record:
    hosted, torch7 = data["hosted"], data["torch7"]
    return Record(
        data["architecture"],
        Hosted(**{**hosted, "urls": tuple(hosted["urls"])}) if hosted else None,
        Torch7Source(torch7["file"], tuple(torch7["urls"]), torch7["size"], torch7["sha256"]),
        data["top1_error"],
        data["top5_error"],
        data["parameters"],
        data["multiply_adds"],
        data["preprocessing"],
        data["license"],
        data["license_url"],
    )


def get_record(architecture: str) -> Record:
    """The record of an architecture. Raises WeightsError that says which there are."""
    try:
        return records()[architecture]
    except KeyError:
        raise WeightsError(
            f"no weights were published for {architecture}; pretrained=True works for {', '.join(records())}. "
            "Load a checkpoint of your own with weights=PATH"
        ) from None
