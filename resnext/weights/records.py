"""What is known of weights: the records of `weights.json`, with the source of every figure, and what a file says."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from resnext.architecture import Architecture
from resnext.weights.files import WeightsError, first_line, read_record, warn

if TYPE_CHECKING:
    from resnext.preprocess import Preprocessing

RECORDS = Path(__file__).with_name("weights.json")
_LARGEST = 2**26  # bytes of JSON that are read
_LONGEST = 1000  # characters of a name of a class, or of a licence
OPTIONS = ("replace_stride_with_dilation", "global_pool")  # of a network, that are kept with its weights


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


@dataclass(frozen=True)
class Kept:
    """What a file says of the network in it: its own `classes`, `preprocessing`, `license`; None for what it does not.

    `options` are those arguments of `ResNeXt` that change what it computes and that no weights tell.
    """

    classes: list[str] | None = None
    preprocessing: str | Preprocessing | None = None
    license: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def read_kept(path: str, architecture: Architecture) -> Kept:
    """What is kept with the weights in a file (see `resnext.save`), whose shapes are those of `architecture`.

    A file may come from a stranger: each value is checked, and a warning names those that are passed over. Raises
    WeightsError where the file cannot be read.
    """
    record, wrong = read_record(path), []
    kept: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        if record.get(name) is None:
            continue
        try:
            kept[name] = check(record[name], architecture)
        except (TypeError, ValueError, OverflowError) as error:
            wrong.append(f"{name} ({shorten(first_line(error), 200)})")
    if wrong:
        warn(f"{path}: passed over of what is kept with the weights: {'; '.join(wrong)}")
    return Kept(options=kept.pop("architecture", {}), **kept)


def _check_classes(value: Any, architecture: Architecture) -> list[str]:
    if not isinstance(value, list) or len(value) != architecture.num_classes:
        got = f"{len(value)}" if isinstance(value, list) else type(value).__name__
        raise ValueError(f"expected a list of {architecture.num_classes} names, got {got}")
    return [_check_text(name, architecture) for name in value]


def _check_text(value: Any, _: Architecture) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST:
        raise ValueError(f"expected a text of 1 to {_LONGEST} characters")
    value.encode()  # half a character of UTF-16 raises a ValueError
    return value


def _check_preprocessing(value: Any, _: Architecture) -> str | Preprocessing:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    from resnext.preprocess import Preprocessing  # which most files do without

    settings = Preprocessing.of(value)
    return settings.name or settings


def _check_options(value: Any, architecture: Architecture) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    options = {name: value[name] for name in OPTIONS if value.get(name) is not None}
    # What cannot be built is found out with one bottleneck for each stage.
    replace(architecture, layers=(1,) * len(architecture.layers)).build_empty(**options)
    return options


_CHECKS = {
    "classes": _check_classes,
    "preprocessing": _check_preprocessing,
    "license": _check_text,
    "architecture": _check_options,
}


def get_record(architecture: str) -> Record:
    """The record of an architecture. Raises WeightsError that says which there are."""
    try:
        return records()[architecture]
    except KeyError:
        raise WeightsError(
            f"no weights were published for {architecture}; pretrained=True works for {', '.join(records())}. "
            "Load a checkpoint of your own with weights=PATH"
        ) from None
