"""Labelled images in class folders or in WebDataset shards, read so that each of them comes exactly once.

A data set is a fixed sequence of shards: `.tar` files, or the batches of a folder. Which images meet in a batch does
not depend on how many processes read them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from resnext.evaluation import DataError
from resnext.evaluation.batches import Batch, Sample, Transform, stack
from resnext.evaluation.counts import NO_CLASS
from resnext.evaluation.labels import Outputs, match_folders, match_label
from resnext.images import EXTENSIONS, open_file, reason, walk_images

TARS = (".tar", ".tar.gz", ".tgz")
_KINDS = ", ".join(name.removeprefix(".") for name in EXTENSIONS)


class Folder:
    """A folder of class folders. It holds the images of `walk_images`, in the order of torchvision's ImageFolder.

    Unlike there, what is hidden is left out, and a link back does not count its images again. A shard is a batch.
    Raises DataError where the class folders do not fit the network, hold no image, or cannot be read.
    """

    format = "ImageFolder"

    def __init__(self, path: str, folders: Sequence[str], outputs: Outputs, batch: int) -> None:
        self.path, self.batch = path, batch
        self.labels: dict[int, str] = {}
        self.samples: list[tuple[str, int]] = []
        listing = hashlib.sha256()
        for folder, target in zip(folders, match_folders(folders, outputs, path), strict=True):
            self.labels[target] = folder
            for image in walk_images(os.path.join(path, folder), _unreadable):
                shown = image.relative_to(path).as_posix()
                self.samples.append((shown, target))
                listing.update(f"{shown}\0{_size(image)}\0{target}\0".encode(errors="surrogateescape"))
        if not self.samples:
            raise DataError(f"{path}: no images in {len(folders)} class folders (expected {', '.join(EXTENSIONS)})")
        self.digest = listing.hexdigest()

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch)

    def images(self, shards: Sequence[int]) -> int:
        """How many images are in these shards."""
        return sum(min(self.batch, len(self.samples) - shard * self.batch) for shard in shards)

    def read(self, shard: int, transform: Transform) -> Iterator[Batch]:
        """The batch that is this shard."""
        samples = self.samples[shard * self.batch : (shard + 1) * self.batch]
        images = [Sample(name, target, functools.partial(open_file, Path(self.path, name))) for name, target in samples]
        yield from stack(shard, images, transform)
        yield Batch(shard, last=True)


class Tars:
    """WebDataset shards: samples of an image (`jpg`, `png`, …) and its label (`cls`).

    A sample that is not that, or has a label that the network does not know, counts as an image that cannot be read.
    Raises DataError where shards are not there or named twice.
    """

    format = "WebDataset"

    def __init__(self, path: str, urls: Sequence[str], outputs: Outputs, batch: int) -> None:
        self.path, self.urls, self.outputs, self.batch = path, urls, outputs, batch
        self.labels = dict(enumerate(outputs.ids or outputs.names))
        if missing := [url for url in urls if not _is_url(url) and not os.path.isfile(url)]:
            raise DataError(f"{path}: {len(missing)} of {len(urls)} shards are not there: {', '.join(missing[:3])}")
        if twice := sorted({url for url in urls if urls.count(url) > 1}):
            raise DataError(f"{path}: shards named twice: {', '.join(twice[:3])}; every image is to count once")
        known = [url if _is_url(url) else f"{os.path.basename(url)}\0{os.path.getsize(url)}" for url in urls]
        self.digest = hashlib.sha256("\0".join(known).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.urls)

    def images(self, shards: Sequence[int]) -> None:
        """How many images are in these shards: not known before they are read."""

    def read(self, shard: int, transform: Transform) -> Iterator[Batch]:
        """The batches of this shard."""
        url = self.urls[shard]
        waiting: list[Sample] = []
        try:
            for sample in _samples(url):
                waiting.append(self._image_and_label(url, sample))
                if len(waiting) == self.batch:
                    yield from stack(shard, waiting, transform)
                    waiting = []
        except Exception as error:  # whatever the library, tarfile or a command behind a pipe raises
            yield Batch(shard, problem=f"{url}: {reason(error)}")
        else:
            yield from stack(shard, waiting, transform)
            yield Batch(shard, last=True)

    def _image_and_label(self, url: str, sample: dict[str, Any]) -> Sample:
        key, names = sample["__key__"], [name for name in sample if not name.startswith("__")]
        kinds = [name for name in names if f".{name}" in EXTENSIONS]
        shard = os.path.basename(urlsplit(url).path)  # without the query, which may hold a signature
        shown = f"{shard}/{key}.{kinds[0]}" if kinds else f"{shard}/{key}"
        target = NO_CLASS
        try:
            if "cls" in sample:
                target = match_label(sample["cls"].decode(errors="replace").strip(), self.outputs)
            if len(kinds) != 1 or "cls" not in sample:
                raise ValueError(f"a sample of {', '.join(names)}; expected one image ({_KINDS}) and its label, cls")
        except ValueError as error:
            return Sample(shown, target, functools.partial(_refuse, str(error)))
        return Sample(shown, target, lambda: io.BytesIO(sample[kinds[0]]))


def open_data(path: str, outputs: Outputs, batch: int) -> Folder | Tars:
    """The data set at a path, to be read in batches of `batch`: class folders with images, or WebDataset shards.

    The shards are a folder of `.tar` files, a `.tar` file, or whatever `webdataset` opens: `shards-{000..003}.tar`,
    `https://…`, `pipe:…`. Raises DataError that says what was expected and what came.
    """
    if os.path.isdir(path):
        with os.scandir(path) as inside:
            entries = sorted(inside, key=lambda entry: entry.name)
        entries = [entry for entry in entries if not entry.name.startswith(".")]  # .cache, .ipynb_checkpoints
        folders = [entry.name for entry in entries if entry.is_dir()]
        tars = [entry.path for entry in entries if entry.is_file() and entry.name.endswith(TARS)]
        if folders:
            return Folder(path, folders, outputs, batch)
        if tars:
            _need_webdataset(path)
            return Tars(path, tars, outputs, batch)
        raise DataError(f"{path}: expected class folders with images, or .tar files; there are neither")
    if path.endswith(TARS) or _is_url(path):
        _need_webdataset(path)
        return Tars(path, _expand(path), outputs, batch)
    raise DataError(
        f"{path}: expected a folder of class folders, or WebDataset shards (a folder of .tar files, shards-{{000..003}}"
        f".tar, a URL, pipe:COMMAND); {'got another file' if os.path.exists(path) else 'there is nothing'}"
    )


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}; make it readable, or take it away")


def _refuse(problem: str) -> BinaryIO:
    raise ValueError(problem)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nowhere: an image that cannot be read
        return -1


def _need_webdataset(path: str) -> None:
    if importlib.util.find_spec("webdataset") is None:
        raise DataError(f"{path}: reading WebDataset shards needs the webdataset package: pip install webdataset")


def _is_url(path: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+:", path) is not None  # two letters at least: one is a drive


def _expand(pattern: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    try:
        return expand_urls(pattern)
    except (AssertionError, ValueError) as error:  # a variable that is not set, unbalanced braces
        raise DataError(f"{pattern}: not a pattern that webdataset can expand: {error}") from None


def _samples(url: str) -> Iterator[dict[str, Any]]:
    """What is in a shard, to its very end. Raises whatever goes wrong."""
    from webdataset import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        with gopen(url) as stream:
            yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]))
            while stream.read(2**20):  # a command must come to its own end, for its exit status to tell
                pass
    except OSError as error:
        if status := re.search(r"exit (-?\d+) \(read\)", str(error)):
            raise RuntimeError(f"the command failed with exit status {status[1]}") from None
        raise
