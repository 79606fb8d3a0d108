"""Labelled images in class folders or in WebDataset shards; each image is read exactly once.

A data set is a fixed sequence of shards: tar archives, or the batches of a folder. Which images share a batch does not
depend on how many processes read them.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import importlib.util
import io
import lzma
import os
import re
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from resnext.classes import class_names, output_ids
from resnext.evaluation import DataError
from resnext.evaluation.counts import NO_CLASS, Unreadable
from resnext.images import EXTENSIONS, MAX_IMAGE_FILE, decode, open_file, reason, walk_images
from resnext.weights.download import DownloadError, check_url, open_url

Transform = Callable[[Any], Tensor]  # from a PIL image
Data: TypeAlias = "Folder | Tars"

_WORDNET_ID = re.compile(r"n\d{8}")
_TARS = (".tar", ".tar.gz", ".tgz")
_BLOCK = tarfile.BLOCKSIZE
# What tarfile reads whole before it yields a member, such as long names. They take a few kilobytes.
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_EXTENDED = 2**20  # bytes
_KINDS = ", ".join(name.removeprefix(".") for name in EXTENSIONS)


# Which output of the network a class folder or a label stands for


@dataclass(frozen=True)
class Outputs:
    """The labels of a network's outputs: WordNet `ids` and class `names`, one for each output, or empty."""

    count: int
    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, data_set: str, num_classes: int, classes: Sequence[str] | None = None) -> Outputs:
        """Those of a network with `num_classes` outputs for the data set "imagenet", "cifar10" or "cifar100".

        A network's own `classes` come first.
        """
        names = class_names(data_set) if classes is None else tuple(classes)
        ids = tuple(filter(None, output_ids(data_set, num_classes, classes)))
        return cls(num_classes, ids if len(ids) == num_classes else (), names if len(names) == num_classes else ())


def match_folders(folders: Sequence[str], outputs: Outputs, where: str) -> list[int]:
    """The output that each class folder stands for.

    For a network of ImageNet's 1,000 classes, folders named by WordNet id are matched by id, so there may be fewer of
    them; the same holds for folders that have the names of the network's classes. All other folders stand for the
    outputs in sorted order, as in torchvision's ImageFolder, and there must be one for each output. Raises DataError
    with both counts, or with the names that do not fit.
    """
    wordnet = [name for name in folders if _WORDNET_ID.fullmatch(name)]
    if outputs.ids and wordnet:
        if len(wordnet) < len(folders):
            other = [name for name in folders if name not in wordnet]
            raise DataError(
                f"{where}: {len(wordnet)} class folders are named by WordNet id and {len(other)} are not "
                f"({_some(other)}); expected one or the other"
            )
        index = {wordnet_id: output for output, wordnet_id in enumerate(outputs.ids)}
        if unknown := [name for name in folders if name not in index]:
            raise DataError(
                f"{where}: {len(unknown)} of {len(folders)} class folders are WordNet ids that are not among the "
                f"network's {outputs.count:,} ({_some(unknown)})"
            )
        return [index[name] for name in folders]
    times = Counter(outputs.names)  # some lists of classes have a name twice
    named = {name: output for output, name in enumerate(outputs.names) if times[name] == 1}
    if other := [name for name in folders if name not in named]:
        if len(other) < len(folders):
            raise DataError(
                f"{where}: {len(folders) - len(other)} class folders have the name of a class of the network, and "
                f"{len(other)} have not ({_some(other)}); expected one or the other"
            )
    else:
        return [named[name] for name in folders]
    if len(folders) != outputs.count:
        fewer = ", or folders named by WordNet id (n01440764, …), which may be fewer" if outputs.ids else ""
        fewer = fewer or (", or folders with the names of its classes, which may be fewer" if outputs.names else "")
        raise DataError(
            f"{where}: {len(folders):,} class folder{'s' * (len(folders) != 1)} ({_some(folders)}), and the network "
            f"has {outputs.count:,} classes; expected as many (empty ones count){fewer}"
        )
    order = {name: output for output, name in enumerate(sorted(folders))}
    return [order[name] for name in folders]


def match_label(label: str, outputs: Outputs) -> int:
    """The output that the label of a sample stands for: its number, a WordNet id, or the name of a class.

    Raises ValueError that says what was expected.
    """
    if re.fullmatch(r"\d{1,9}", label):
        if int(label) < outputs.count:
            return int(label)
    elif label in outputs.ids:
        return outputs.ids.index(label)
    elif label in outputs.names:
        return outputs.names.index(label)
    other = ", or a WordNet id or name of its classes" if outputs.ids else ""
    other = other or (", or the name of one of its classes" if outputs.names else "")
    raise ValueError(f"label {label[:40]!r}; the network takes 0 to {outputs.count - 1}{other}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


# From samples to batches


class Sample(NamedTuple):
    """An image to be read: its name in the report, its class, and what opens its file."""

    name: str
    target: int
    open: Callable[[], BinaryIO]


class Batch(NamedTuple):
    """Images of one shard, (N, C, H, W) or (N, crops, C, H, W), with their classes (N,); and those that are unreadable.

    `last`: the shard ends with it. `problem`: why the shard cannot be read to its end.
    """

    shard: int
    images: Tensor = torch.empty(0)
    targets: Tensor = torch.empty(0, dtype=torch.int64)
    unreadable: Sequence[Unreadable] = ()
    last: bool = False
    problem: str = ""


def stack(shard: int, samples: Sequence[Sample], transform: Transform) -> Iterator[Batch]:
    """Samples read, transformed and stacked: one batch, or several where the transform leaves images of several sizes.

    Those that cannot be read come in a batch without images.
    """
    by_size: dict[torch.Size, list[tuple[Tensor, int]]] = {}
    unreadable: list[Unreadable] = []
    for name, target, open_ in samples:
        try:
            with open_() as file:
                image = transform(decode(file))
        except Exception as error:  # a transform may raise what it likes
            unreadable.append(Unreadable(name, target, reason(error)))
        else:
            by_size.setdefault(image.shape, []).append((image, target))
    for group in by_size.values():
        images, targets = zip(*group, strict=True)
        yield Batch(shard, torch.stack(images), torch.tensor(targets))
    if unreadable:
        yield Batch(shard, unreadable=unreadable)


class _Shards(IterableDataset[Batch]):
    """The batches of some shards; each shard is read by one worker."""

    def __init__(self, data: Data, shards: Sequence[int], transform: Transform) -> None:
        self.data, self.shards, self.transform = data, shards, transform

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        for shard in self.shards[worker.id :: worker.num_workers] if worker else self.shards:
            yield from self.data.read(shard, self.transform)


def load(data: Data, shards: Sequence[int], transform: Transform, *, workers: int, pin: bool) -> Iterator[Batch]:
    """The batches of some shards, read by `workers` processes (0: by this one), in pinned memory for a GPU.

    Raises DataError where a shard cannot be read to its end, or a worker dies.
    """
    loader = DataLoader(
        _Shards(data, shards, transform),
        batch_size=None,
        num_workers=min(workers, len(shards)),
        pin_memory=pin,
    )
    try:
        for batch in loader:
            if batch.problem:
                raise DataError(batch.problem)
            yield batch
    except RuntimeError as error:
        raise DataError(f"reading images failed: {reason(error)}; try --workers 0, or a smaller --batch") from error


# The two kinds of data sets


def open_data(path: str, outputs: Outputs, batch: int) -> Data:
    """The data set at a path, to be read in batches of `batch`: class folders with images, or WebDataset shards.

    The shards are a folder of `.tar` files, or what a pattern such as `shards-{000..003}.tar` stands for: files, URLs,
    and commands (`pipe:COMMAND`) that write an archive to their standard output. Raises DataError.
    """
    if os.path.isdir(path):
        with os.scandir(path) as inside:
            entries = sorted(inside, key=lambda entry: entry.name)
        entries = [entry for entry in entries if not entry.name.startswith(".")]  # .cache, .ipynb_checkpoints
        folders = [entry.name for entry in entries if entry.is_dir()]
        tars = [entry.path for entry in entries if entry.name.endswith(_TARS)]
        if folders:
            return Folder(path, folders, outputs, batch)
        if not tars:
            raise DataError(f"{path}: expected class folders with images, or .tar files; there are neither")
        return Tars(path, tars, outputs, batch)
    if path.endswith(_TARS) or _is_url(path):
        return Tars(path, _expand(path), outputs, batch)
    raise DataError(
        f"{path}: expected a folder of class folders, or WebDataset shards (a folder of .tar files, shards-{{000..003}}"
        f".tar, a URL, pipe:COMMAND); {'got another file' if os.path.exists(path) else 'there is nothing'}"
    )


class Folder:
    """A folder of class folders. It holds the images of `walk_images`, in the order of torchvision's ImageFolder.

    A shard is a batch. `digest` covers the names, sizes and classes of the images, `modified` the times of their last
    change. Raises DataError where the class folders do not fit the network, hold no image, or cannot be read.
    """

    format = "ImageFolder"

    def __init__(self, path: str, folders: Sequence[str], outputs: Outputs, batch: int) -> None:
        self.path, self.batch = path, batch
        self.labels: dict[int, str] = {}
        self.samples: list[tuple[str, int]] = []
        content, times = hashlib.sha256(), hashlib.sha256()
        for folder, target in zip(folders, match_folders(folders, outputs, path), strict=True):
            self.labels[target] = folder
            for image in walk_images(os.path.join(path, folder), _unreadable_folder):
                shown = image.relative_to(path).as_posix()
                self.samples.append((shown, target))
                size, time = _size_and_time(image)
                content.update(f"{shown}\0{size}\0{target}\0".encode(errors="surrogateescape"))
                times.update(f"{time}\0".encode())
        if not self.samples:
            raise DataError(f"{path}: no images in {len(folders)} class folders (expected {', '.join(EXTENSIONS)})")
        self.digest, self.modified = content.hexdigest(), times.hexdigest()

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
    """WebDataset shards: tar archives whose samples are an image (`jpg`, `png`, …) and its label (`cls`).

    A sample that is anything else, or has a label that the network does not know, counts as an unreadable image.
    `digest` and `modified` are as in `Folder`, of the archives; for URLs and commands they cover only the text. Raises
    DataError where shards are missing or named twice, and for a URL that may not be fetched.
    """

    format = "WebDataset"

    def __init__(self, path: str, shards: Sequence[str], outputs: Outputs, batch: int) -> None:
        if importlib.util.find_spec("webdataset") is None:
            raise DataError(f"{path}: reading WebDataset shards needs the webdataset package: pip install webdataset")
        self.path, self.shards, self.outputs, self.batch = path, shards, outputs, batch
        self.labels = dict(enumerate(outputs.ids or outputs.names))
        try:
            for shard in shards:
                if _is_url(shard) and not shard.startswith("pipe:"):
                    check_url(shard)
        except DownloadError as error:
            raise DataError(f"{error}; pipe:COMMAND reads what a command writes") from None
        files = [shard for shard in shards if not _is_url(shard)]
        if missing := [file for file in files if not os.path.isfile(file)]:
            raise DataError(
                f"{path}: {len(missing)} of {len(shards)} shards are missing or not regular files: {_some(missing)}"
            )
        if twice := sorted({shard for shard in shards if shards.count(shard) > 1}):
            raise DataError(f"{path}: shards named twice: {_some(twice)}; every image must count once")
        known = [s if _is_url(s) else f"{os.path.basename(s)}\0{_size_and_time(s)[0]}" for s in shards]
        self.digest = hashlib.sha256("\0".join(known).encode(errors="surrogateescape")).hexdigest()
        self.modified = hashlib.sha256(str([_size_and_time(file)[1] for file in files]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.shards)

    def images(self, shards: Sequence[int]) -> None:
        """How many images are in these shards: not known before they are read."""

    def read(self, shard: int, transform: Transform) -> Iterator[Batch]:
        """The batches of this shard."""
        name = self.shards[shard]
        waiting: list[Sample] = []
        try:
            with _open_shard(name) as stream:
                for sample in _samples(read_tar(stream)):
                    waiting.append(self._image_and_label(name, sample))
                    if len(waiting) == self.batch:
                        yield from stack(shard, waiting, transform)
                        waiting = []
        except Exception as error:  # of tarfile, a decompressor or a connection
            yield Batch(shard, problem=f"{name}: {reason(error)}")
        else:
            yield from stack(shard, waiting, transform)
            yield Batch(shard, last=True)

    def _image_and_label(self, name: str, sample: dict[str, Any]) -> Sample:
        key, names = sample["__key__"], [name for name in sample if not name.startswith("__")]
        kinds = [name for name in names if f".{name}" in EXTENSIONS]
        shard = os.path.basename(urlsplit(name).path)  # without the query, which may hold a signature
        shown = f"{shard}/{key}.{kinds[0]}" if kinds else f"{shard}/{key}"
        target = NO_CLASS
        try:
            if "cls" in sample:
                label = _content(sample["cls"]).read().decode(errors="replace").strip()
                target = match_label(label, self.outputs)
            if len(kinds) != 1 or "cls" not in sample:
                raise ValueError(f"a sample of {', '.join(names)}; expected one image ({_KINDS}) and its label, cls")
        except ValueError as error:
            return Sample(shown, target, functools.partial(_content, error))
        return Sample(shown, target, functools.partial(_content, sample[kinds[0]]))


def _unreadable_folder(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}; make it readable, or remove it")


def _size_and_time(path: str | Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # a link to nowhere: an image that cannot be read
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _content(member: bytes | ValueError) -> BinaryIO:
    if isinstance(member, ValueError):
        raise member
    return io.BytesIO(member)


def _is_url(shard: str) -> bool:
    """Whether a shard is a URL or a command, not a file."""
    return re.match(r"[a-z][a-z0-9+.-]+:", shard) is not None  # at least two letters: one is a drive of Windows


def _expand(pattern: str) -> list[str]:
    if importlib.util.find_spec("webdataset") is None:
        return [pattern]  # `Tars` refuses it
    from webdataset.shardlists import expand_urls

    try:
        shards: list[str] = expand_urls(pattern)
    except (AssertionError, ValueError) as error:  # a variable that is not set, unbalanced braces
        raise DataError(f"{pattern}: not a pattern that webdataset can expand: {error}") from None
    return [_without_file_scheme(shard) for shard in shards]


def _without_file_scheme(shard: str) -> str:
    parts = urlsplit(shard)
    return url2pathname(parts.path) if parts.scheme == "file" and parts.netloc in ("", "localhost") else shard


# Tar archives


@contextmanager
def _open_shard(shard: str) -> Iterator[BinaryIO]:
    if shard.startswith("pipe:"):
        with _run_command(shard.removeprefix("pipe:")) as stream:
            yield stream
    elif _is_url(shard):
        with open_url(shard) as response:
            response.raw.auto_close = False  # BufferedReader asks once more after the end
            yield cast("BinaryIO", io.BufferedReader(response.raw))
    else:
        with open_file(shard) as file:
            yield file


@contextmanager
def _run_command(command: str) -> Iterator[BinaryIO]:
    """What a shell command writes. Raises ValueError where it fails, however much was read before."""
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        stream = cast("BinaryIO", process.stdout)
        try:
            yield stream
        except BaseException:
            if stream.read(1):  # the command is still writing
                process.kill()
                raise
            if process.wait() == 0:
                raise
    if process.returncode:
        raise ValueError(f"the command failed with exit status {process.returncode}")


class _Header(tarfile.TarInfo):
    """The header of a member. tarfile takes a damaged or missing header for the archive's end; this class raises."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == _BLOCK:  # the first of the two that end an archive
                raise
            raise tarfile.ReadError(f"the archive is damaged or cut off: {error}") from None
        if header.type in _EXTENDED and header.size > _MAX_EXTENDED:
            raise tarfile.ReadError(f"the archive is damaged: an extended header of {header.size:,} bytes")
        return header


def read_tar(stream: BinaryIO) -> Iterator[tuple[str, bytes | ValueError]]:
    """The names and contents of the files in a tar archive, plain or compressed (gzip, bzip2, xz).

    Only images and labels have content; that of other files is left empty. For a sparse file or one that is too large
    the content is a ValueError that says so. Raises an error of tarfile or of the decompressor, EOFError or ValueError
    where the archive is damaged, or does not end with two blocks of zeros.
    """
    with tarfile.open(fileobj=_decompressed(stream), mode="r|", tarinfo=_Header) as archive:
        for member in archive:
            if member.isreg() and not re.match(r"__[^/]*__($|/)", member.name):  # a shard's metadata
                yield member.name, _member(archive, member)
        rest = cast("BinaryIO", archive.fileobj)
        if rest.read(_BLOCK) != bytes(_BLOCK):
            raise ValueError("the archive is cut off: expected two blocks of zeros at its end")
        while padding := rest.read(2**16):  # to the end: a compressed file's checksum stands there
            if padding.strip(b"\0"):
                raise ValueError("there is something after the archive's end; expected one archive in each shard")


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | ValueError:
    if not member.name.lower().endswith((*EXTENSIONS, ".cls")):
        return b""
    if member.issparse():
        return ValueError("a sparse file in the archive; expected a plain one")
    if member.size > MAX_IMAGE_FILE:
        return ValueError(f"{member.size:,} bytes; expected an image of at most {MAX_IMAGE_FILE >> 20} MiB")
    return cast("BinaryIO", archive.extractfile(member)).read()


def _decompressed(stream: BinaryIO) -> BinaryIO:
    head = cast("io.BufferedReader", stream).peek(6)
    for magic, library in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\0", lzma)):
        if head.startswith(magic):
            return cast("BinaryIO", library.open(stream))
    return stream


def _samples(members: Iterable[tuple[str, bytes | ValueError]]) -> Iterator[dict[str, Any]]:
    """Members grouped by their name up to the first dot, as WebDataset does; the rest is a key."""
    from webdataset.tariterators import group_by_keys

    try:
        yield from group_by_keys({"__url__": "", "fname": name, "data": content} for name, content in members)
    except ValueError as error:
        raise ValueError(error.args[0]) from None  # webdataset adds arguments of its own
