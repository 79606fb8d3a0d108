"""Files of weights: which format a file has, and how it becomes a state_dict."""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import pickle
import re
import stat
import struct
import sys
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from resnext.weights import printable
from resnext.weights.door import conversion
from resnext.weights.layouts import LayoutError, Weights, find_weights, read_layout, recognise_ours

_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors", ".t7", ".h5", ".hdf5", ".npz")
# Tensors may take four times the size of their file (float8 becomes float32), and this much more where they overlap.
_EXPANDED_BYTES = 2**26
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_REFUSED_CLASS = re.compile(r"(?:GLOBAL|class|function) ([\w.]+)")  # in what torch says under weights_only
_ITEM_BYTES = {  # of a value, by the class of its storage
    f"{name}Storage": size
    for size, names in {
        1: "Untyped Bool Byte Char",
        2: "Short Half BFloat16",
        4: "Int Float",
        8: "Long Double ComplexFloat",
        16: "ComplexDouble",
    }.items()
    for name in names.split()
}
_mapping = threading.Lock()
_allowing = threading.Lock()
_ARRAYS = re.compile(r"numpy\.\S*_reconstruct")  # how pickles begin an array
_NO_CODE = "In the program that wrote it, save only the weights: torch.save(model.state_dict(), 'weights.pth')"
RECORD = "provenance.json"  # what is kept with the weights: an entry of a .pth, beside its data.pkl
LARGEST_RECORD = 2**24  # bytes; the names of 21,841 classes take one million


class WeightsError(RuntimeError):
    """Weights that cannot be obtained or do not fit. Says which file, what was expected, what came and what to do.

    In one line, whatever the names in a file are.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class WeightsWarning(UserWarning):
    """What a user of weights should know: how a file was read, and what was left out of it or is new."""


@dataclass(frozen=True)
class Contents:
    """What a file of weights holds.

    Attributes:
        state_dict: float32, on the CPU, under the names of a ResNeXt of any form.
        format: "pth", "safetensors", "t7", "hdf5" or "npz".
        recognised: by what the network was recognised: "torchvision's names", "the names of mmpretrain", …
        remarks: what was chosen or passed over in the file, and what such files do not tell; for people.
    """

    state_dict: dict[str, Tensor]
    format: str
    recognised: str
    remarks: tuple[str, ...] = ()


def read_state_dict(
    path: str | os.PathLike[str], *, published: bool = False, ema: bool | None = None
) -> dict[str, Tensor]:
    """The state_dict of `read_weights`; its remarks become one warning."""
    contents = read_weights(path, published=published, ema=ema)
    if contents.remarks:
        warn(f"{os.fspath(path)}: {'; '.join(contents.remarks)}")
    return contents.state_dict


def read_weights(
    path: str | os.PathLike[str], *, published: bool = False, ema: bool | None = None, prove: bool = True
) -> Contents:
    """The weights in a `.pth`, `.safetensors`, Torch7 `.t7`, HDF5 or `.npz` file, told apart by content.

    The network is found in a training checkpoint, and the names of other ports of ResNeXt become our own (see
    `resnext.weights.layouts`). BatchNorm counters, which ports from older PyTorch lack, are added as 0. A Torch7 file
    is converted and, unless `prove` is False, the conversion proved.

    Every tensor has memory of its own, so the file may be overwritten while they are in use. `published` is only for
    files that `resolve_pretrained` returns: their digest was checked when they were put into the cache, and they are
    only ever replaced whole. Such a file is mapped into memory, copy-on-write, and its values are not checked again.

    `ema` says which weights are meant where a file has their moving average as well; None: the average.

    Raises WeightsError that names the file, what was expected and what came.
    """
    shown = os.fspath(path)
    head, size = _look(path)
    format = find_format(head)
    with on_cpu():
        match format:
            case "pth":
                format, loaded = _read_pickled(shown, size, is_zip=head.startswith(b"PK"), published=published)
            case "safetensors":
                loaded = _read_safetensors(shown)
            case "hdf5":
                loaded = _read_hdf5(shown, size)
            case "t7":
                if ema:
                    raise WeightsError(f"{shown}: ema=True, but a Torch7 file has no moving average of the weights")
                return _convert_t7(shown, prove)
            case _:
                raise WeightsError(
                    f"{shown}: expected a .pth, .safetensors or Torch7 .t7 file, or arrays in HDF5 or .npz, "
                    f"got {describe(head)}"
                )
        try:
            found = find_weights(loaded, ema)
            _check_tensors(shown, found.tensors, size)
            tensors, recognised, remarks = _as_ours(found)
        except LayoutError as error:
            raise WeightsError(f"{shown}: {error}") from None
        state_dict = _plain_state_dict(tensors)
        if not published:
            _check_values(shown, state_dict)
        return Contents(state_dict, format, recognised, remarks)


def _as_ours(found: Weights) -> tuple[Mapping[str, Tensor], str, tuple[str, ...]]:
    """The tensors by the names of a ResNeXt, what they were recognised by, and remarks. Raises LayoutError."""
    if recognised := recognise_ours(found.tensors):
        return found.tensors, recognised, found.remarks
    tensors, reading = read_layout(found.tensors)
    remarks = [*found.remarks, f"recognised by {reading.recognised}"]
    if reading.left_out:
        shown = ", ".join(reading.left_out[:3])
        more = f" and {len(reading.left_out) - 3} more" if len(reading.left_out) > 3 else ""
        remarks.append(f"left out {len(reading.left_out)} entries that are not the network's: {shown}{more}")
    if reading.remark:
        remarks.append(reading.remark)
    return tensors, reading.recognised, tuple(remarks)


def on_cpu() -> AbstractContextManager[Any]:
    """For new tensors on the CPU, whatever the default device is. It costs nothing where that is the CPU already."""
    cpu = torch.device("cpu")
    return nullcontext() if torch.get_default_device() == cpu else cpu


def _look(path: str | os.PathLike[str]) -> tuple[bytes, int]:
    """The first bytes of a file and its size. Raises WeightsError for what is no file that can be read."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise WeightsError(f"{path}: expected a file, got a folder{_files_in(Path(path))}")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for whoever writes into it
            raise WeightsError(f"{path}: expected a file, got a pipe or a device")
        with open(path, "rb") as file:
            return file.read(64), status.st_size
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise WeightsError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _files_in(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _SUFFIXES)
    return f"; give one of the files in it: {', '.join(names[:5])}" if names else " without weights in it"


def _read_pickled(path: str, size: int, *, is_zip: bool, published: bool) -> tuple[str, Any]:
    """The format, "pth" or "npz", and what is in the file."""
    try:
        if published and is_zip:
            with _private_mapping():
                return "pth", torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if is_zip:
            if _is_npz(path):
                return "npz", _read_npz(path, size)
            _check_archive(path, size)
        return "pth", _load(path)
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise WeightsError(f"{path}: expected a .pth with a plain state_dict, {_refusal(error)}") from None


def _load(path: str) -> Any:
    """What torch.load returns; the options of a training script (argparse.Namespace) may be among it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        if "argparse.Namespace" not in str(error):
            raise
        # It holds plain attributes and runs no code. It is allowed for as long as this file is being read.
        with _allowing, torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)


def _refusal(error: Exception) -> str:
    """Why torch.load refused a file, in one line of ours."""
    if _ARRAYS.search(str(error)):
        return (
            "got a pickle of arrays, as .pdparams and .pkl files are, and loading that could run code from the file. "
            "Where its framework is installed, write a .npz: numpy.savez('weights.npz', **{name: array, …})"
        )
    if isinstance(error, pickle.UnpicklingError) and (refused := _REFUSED_CLASS.search(str(error))):
        return f"got a file that holds {refused[1]}, and loading that could run code from the file. {_NO_CODE}"
    return f"but: {first_line(error).rpartition('WeightsUnpickler error: ')[2]}"


def _is_npz(path: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(path: str, size: int) -> dict[str, Tensor]:
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        _check_expansion(path, size, sum(entry.file_size for entry in archive.infolist()) // 4)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _from_array(path, name, arrays[name]) for name in arrays.files}
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise WeightsError(
            f"{path}: expected an .npz with an array of numbers for each weight, got arrays of Python objects, which "
            "are pickles, and loading those could run code from the file; where you trust it, write the arrays one by "
            "one: numpy.savez('weights.npz', **dict(zip(names, values)))"
        ) from None


def _read_hdf5(path: str, size: int) -> dict[str, Tensor]:
    """The weights of a Keras file by their paths, in the order of its layers; an optimizer's are left out."""
    try:
        import h5py
    except ImportError:
        raise WeightsError(f"{path}: reading HDF5 needs the h5py package: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            root = file["model_weights"] if isinstance(file.get("model_weights"), h5py.Group) else file
            found: dict[str, Any] = {}  # links to other files are not followed
            root.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
            if any(data.external or data.is_virtual for data in found.values()):
                raise WeightsError(f"{path}: expected the weights themselves, got references to other files")
            _check_expansion(path, size, sum(data.size for data in found.values()))
            layers = [name.decode() if isinstance(name, bytes) else name for name in root.attrs.get("layer_names", ())]
            place = {name: index for index, name in enumerate(layers)}
            names = sorted(found, key=lambda name: place.get(name.partition("/")[0], len(place)))  # stable
            return {name: _from_array(path, name, found[name][()]) for name in names}
    except WeightsError:
        raise
    except Exception as error:  # a damaged file raises whatever it likes
        raise WeightsError(f"{path}: expected a whole HDF5 file, but: {first_line(error)}") from None


def _from_array(path: str, name: str, array: Any) -> Tensor:
    import numpy as np

    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise WeightsError(f"{path}: expected arrays of real numbers, got {array.dtype} under {name!r}")
    return torch.from_numpy(np.array(array, np.float32 if array.dtype.kind == "f" else np.int64, order="C"))


def _check_expansion(path: str, size: int, values: int) -> None:
    """Raise WeightsError where a file would take far more memory than it has bytes."""
    if 4 * values > 4 * size + _EXPANDED_BYTES:
        raise WeightsError(f"{path}: expected the values of every tensor, got {size} bytes for {values} values")


@contextmanager
def _private_mapping() -> Iterator[None]:
    """Within it, torch.load maps files so that nothing is written back to them, whatever default the user has set."""
    if sys.platform == "win32":  # has no such default
        yield
        return
    with _mapping, torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE):
        yield


def _check_archive(path: str, size: int) -> None:
    """Raise WeightsError for a zip archive that torch.load must not read.

    Older releases of torch read past the end of a record that is shorter than its tensor. Records that are compressed
    or overlap can take far more memory than the file has bytes; torch.save writes neither.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    records = {entry.filename.partition("/")[2].lower(): entry for entry in entries}  # torch ignores case
    if "constants.pkl" in records:
        raise WeightsError(f"{path}: expected a state_dict, got a TorchScript archive; save the model's state_dict")
    if "data.pkl" not in records:
        raise WeightsError(f"{path}: expected a .pth, got a zip archive that torch.save did not write")
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or len(records) < len(entries) or sum(entry.file_size for entry in entries) > size:
        raise WeightsError(f"{path}: expected records as torch.save writes them, got some compressed or overlapping")
    with open(path, "rb") as file:
        pickled = _PickledStorages(_open_record(file, records["data.pkl"]))
        pickled.load()
    for key, expected in pickled.sizes.items():
        record = records.get(f"data/{key}".lower())
        if record is None or record.file_size < expected:
            got = f"{record.file_size} bytes" if record else "none"
            raise WeightsError(f"{path}: truncated: expected {expected} bytes in record data/{key}, got {got}")


def _open_record(file: BinaryIO, record: zipfile.ZipInfo) -> BinaryIO:
    # not with zipfile, which checks the CRC-32 that torch.save may be told to leave out
    file.seek(record.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    file.seek(name + extra, os.SEEK_CUR)
    return file


class _Placeholder:
    """Stands for each object of a pickle, so that nothing from it is imported or run."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> _Placeholder:
        return self

    __setstate__ = __setitem__ = append = extend = add = __call__


class _PickledStorages(pickle.Unpickler):
    """How many bytes each storage of a checkpoint must have, by its key; `load` finds out."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Placeholder,), {})

    def persistent_load(self, pid: Any) -> _Placeholder:
        kind, storage, key, _, length = pid
        item = _ITEM_BYTES.get(getattr(storage, "__name__", ""))
        if kind != "storage" or item is None or type(key) is not str or type(length) is not int:
            raise ValueError(f"unknown reference {pid!r}")
        self.sizes[key] = max(self.sizes.get(key, 0), length * item)
        return _Placeholder()


def _read_safetensors(path: str) -> dict[str, Tensor]:
    try:
        from safetensors import safe_open
    except ImportError:
        raise WeightsError(f"{path}: reading it needs the safetensors package: pip install safetensors") from None
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except Exception as error:  # a damaged header raises more than SafetensorError
        raise WeightsError(f"{path}: expected a whole .safetensors file, but: {first_line(error)}") from None


def _convert_t7(path: str, prove: bool) -> Contents:
    try:
        build, graph, t7 = conversion("build"), conversion("graph"), conversion("t7")
    except ImportError as error:
        raise WeightsError(f"{path}: converting it needs {error.name}: pip install torchfile numpy") from None
    remarks = []
    try:
        try:
            converted, _ = build.convert_and_prove(path, prove=prove)
        except graph.UnsupportedLayerError as error:
            converted, _ = build.convert_and_prove(path, prove=False)
            remarks.append(f"the conversion is not proved: {first_line(error)}")
    except build.ProofError as error:
        raise WeightsError(
            f"{path}: the converted network differs from the file's own: {error.proof.reason}"
        ) from error
    except t7.T7Error as error:
        raise WeightsError(str(error)) from error
    return Contents(converted.state_dict, "t7", "its graph, as Torch7 stores it", (*remarks, *converted.notes))


def find_format(head: bytes) -> str | None:
    """`pth` (or .npz, a zip too), `safetensors`, `hdf5` or `t7`, by the first 64 bytes; None for anything else."""
    # The longest header that safetensors reads. It comes first: a length may begin as a pickle does.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 10**8:
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "pth"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    # a table or an object as root: type 3 or 4 as int32 in either byte order, or as a line of text
    if head.startswith((b"\3\0\0\0", b"\4\0\0\0", b"\0\0\0\3", b"\0\0\0\4", b"3\n", b"4\n")):
        return "t7"
    return None


def describe(head: bytes) -> str:
    """What a file that holds no weights is, as far as its first bytes tell."""
    return foreign(head) or (f"something that starts with {head[:8]!r}" if head else "an empty file")


def foreign(head: bytes) -> str | None:
    """What comes instead of weights when a download goes wrong, by its first bytes; None for anything else."""
    text = head[:256].removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself (git lfs pull)"
    if re.match(rb"<[!?a-zA-Z]", text):
        return "an HTML or XML page (a failed download?)"
    return None


def _check_tensors(path: str, tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise WeightsError for what is not dense real tensors, and not in the file as a whole."""
    for name, value in tensors.items():
        real = value.is_floating_point() or _is_counter(name, value)
        if not real or value.layout != torch.strided or value.is_meta:
            got = f"{value.dtype}, {value.layout}"
            raise WeightsError(f"{path}: expected dense tensors of real numbers, got {got} under {name!r}")
    _check_expansion(path, size, sum(value.numel() for value in tensors.values()))


def _is_counter(name: str, value: Tensor) -> bool:
    return name.endswith("num_batches_tracked") and not value.is_complex() and not value.is_floating_point()


def _plain_state_dict(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In float32, each tensor with memory of its own, and with every counter."""
    owners = Counter(value.untyped_storage().data_ptr() for value in found.values())
    state_dict: dict[str, Tensor] = {}
    for name, value in found.items():
        value = value.detach()
        if not _is_counter(name, value) and value.dtype != torch.float32:
            value = value.float()
        elif owners[value.untyped_storage().data_ptr()] > 1 or not _fills_storage(value):
            value = value.clone()  # training would move several values at once
        state_dict[name] = value
    for name in [name for name in state_dict if name.endswith(".running_var")]:
        state_dict.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    return state_dict


def _fills_storage(value: Tensor) -> bool:
    dense = value.is_contiguous() or (value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last))
    return dense and value.untyped_storage().nbytes() == value.numel() * value.element_size()


def _check_values(path: str, state_dict: Mapping[str, Tensor]) -> None:
    """Raise WeightsError for values that no trained network has, as the conversion of a `.t7` does."""
    for name, value in state_dict.items():
        # the sum is fast, and finite only if all values are; it may overflow where they are
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            raise WeightsError(f"{path}: {name!r} holds NaN or infinity; expected finite values")
        if name.endswith("running_var") and (value < 0).any():
            raise WeightsError(f"{path}: {name!r} is {value.min().item():g} somewhere; expected 0 or more everywhere")


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a `.pth` or `.safetensors` file says of its weights, as `resnext.save` wrote it; {} where it says nothing.

    It is data of whoever made the file: a JSON object of bounded size whose values are still to be checked. One that
    cannot be read is passed over with a warning. Raises WeightsError where the file cannot be read.
    """
    shown = os.fspath(path)
    head, _ = _look(path)
    try:
        match find_format(head):
            case "pth" if head.startswith(b"PK"):
                text = _record_of_archive(shown)
            case "safetensors":
                from safetensors import safe_open

                with safe_open(shown, "pt") as file:
                    text = (file.metadata() or {}).get("resnext", "{}")
            case _:
                return {}
        record = json.loads(text) if len(text) <= LARGEST_RECORD else None
        if isinstance(record, dict):
            return record
        problem = f"expected a JSON object of at most {LARGEST_RECORD:,} bytes"
    except Exception as error:  # whatever a damaged archive or header raises
        problem = first_line(error)
    warn(f"{shown}: what is kept with the weights cannot be read and is passed over: {problem}")
    return {}


def _record_of_archive(path: str) -> str:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.partition("/")[2] == RECORD:
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > LARGEST_RECORD:
                    raise ValueError(f"expected at most {LARGEST_RECORD:,} bytes, not compressed")
                return archive.read(entry).decode("utf-8")
    return "{}"


def tensor_digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tensors themselves, whatever they are stored in and whichever torch wrote it.

    For each name in sorted order: the name in UTF-8, dtype (`float32`), shape (`64x3x7x7`, empty for a scalar), each
    followed by a zero byte, and the values as little-endian bytes in row-major order.
    """
    import numpy as np

    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}\0{array.dtype.name}\0{'x'.join(map(str, array.shape))}\0".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without colours; the name of its class where it says nothing."""
    return (_ANSI.sub("", str(error)).strip().splitlines() or [type(error).__name__])[0]


def warn(message: str) -> None:
    """Warn, naming the line of the user's code that called this package, even if through torch.hub."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    ours = (package + os.sep, os.path.join(os.path.dirname(package), "hubconf.py"), torch.hub.__file__)
    frame, level = sys._getframe(1), 2
    while frame.f_code.co_filename.startswith(ours) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, WeightsWarning, stacklevel=level)
