"""Networks compiled ahead of time by AOTInductor: packages for this processor, and the cache that keeps them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from resnext.inference.backends import find_compiler
from resnext.inference.private_torch import compile_package, open_package
from resnext.inference.processor import describe
from resnext.weights.atomic import replacing_all
from resnext.weights.cache import cache_dir, locked, read_digest
from resnext.weights.download import sha256_of
from resnext.weights.files import first_line

Compiler = Callable[[torch.export.ExportedProgram, Path], None]
RECIPE = 3  # increased whenever the same program would give another package
METADATA = "extra/metadata.json"  # below the root folder of the archive, as torch.export has it


class CompilerError(RuntimeError):
    """AOTInductor failed, most often because there is no C++ compiler. Says what to do."""


class CompiledNetwork:
    """A package that `python -m resnext export --format aoti` wrote: images -> logits, as exported.

    It was compiled for images of one shape and type. torch's own loader does not check them: it reads past the end of
    smaller images and ignores part of larger ones. This class refuses them. Only N is free: a batch runs in pieces of
    the N of the package, the last one filled up with zeros.

    A package is native code, which runs in this process: load only what you would run as a program.

    `metadata` is what the package says about itself. Raises FileNotFoundError, and RuntimeError for any other file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.path.exists(path):
            raise FileNotFoundError(f"{os.fspath(path)}: no such file; expected a package of AOTInductor (.pt2)")
        self.metadata: Mapping[str, str] = _read_metadata(path)
        try:
            self._package = open_package(os.fspath(path))
        except RuntimeError as error:
            raise RuntimeError(f"{os.fspath(path)}: AOTInductor cannot load it: {first_line(error)}") from None
        self._dtype: torch.dtype = getattr(torch, self.metadata["input_dtype"])
        piece, *self._image = self.metadata["input_shape"].split(" x ")
        self._piece = int(piece) if piece.isdecimal() else None

    @torch.no_grad()  # with gradients the operators of oneDNN rearrange their weights at every call
    def __call__(self, images: Tensor) -> Tensor:
        """Raises ValueError unless the images have the size and type that the package was compiled for."""
        fits = images.dim() == 4 and all(
            str(length) == wanted or not wanted.isdecimal()
            for length, wanted in zip(images.shape[1:], self._image, strict=True)
        )
        if not fits or images.dtype != self._dtype or images.device.type != "cpu":
            raise ValueError(
                f"a tensor of {images.dtype}, {tuple(images.shape)}, on {images.device}; the package was compiled for "
                f"{self._dtype}, (N, {', '.join(self._image)}), on the CPU"
            )
        images = images.contiguous()
        pieces = [images] if self._piece is None else torch.split(images, self._piece)
        logits = [self._run(piece) for piece in pieces]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _run(self, images: Tensor) -> Tensor:
        count = images.shape[0]
        if self._piece is not None and count < self._piece:
            images = torch.cat([images, images.new_zeros(self._piece - count, *images.shape[1:])])
        return self._package(images)[:count]


def load(path: str | os.PathLike[str]) -> CompiledNetwork:
    """A compiled package, whose native code runs in this process; see `CompiledNetwork`."""
    return CompiledNetwork(path)


def save(
    program: torch.export.ExportedProgram,
    path: Path,
    metadata: Mapping[str, str],
    compiler: Compiler = compile_package,
) -> None:
    """Write a package for this processor, its weights frozen and packed; `path` ends in `.pt2`.

    Compiling takes half a minute, so the result is cached by graph, shapes, weights, precision, processor, threads and
    versions, in `torch.hub.get_dir()/compiled`, which may be deleted at any time. Of several processes one compiles and
    the others wait.

    Args:
        program: what `torch.export.export` gives, for one input and one output.
        metadata: goes into the package; must have "architecture", "precision", "input_dtype" and "input_shape".
        compiler: writes the package without metadata; raises RuntimeError.

    Raises CompilerError, and OSError where the cache or `path` cannot be written.
    """
    name = f"{metadata['architecture']}-{metadata['precision']}-{_key(program)[:16]}"
    package = cache_dir().parent / "compiled" / f"{name}.pt2"
    if not _is_whole(package):
        with locked(name):
            if not _is_whole(package):  # another process may have been faster
                _compile(program, package, compiler)
    shutil.copyfile(package, path)
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/{METADATA}", json.dumps(dict(metadata)))


def _read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].split("/")[0]
            metadata = json.loads(archive.read(f"{root}/{METADATA}"))
        if {"input_dtype", "input_shape"} <= metadata.keys():
            return metadata
    except (zipfile.BadZipFile, AttributeError, IndexError, KeyError, ValueError):
        pass
    raise RuntimeError(f"{os.fspath(path)}: expected a package of `python -m resnext export --format aoti`")


def _key(program: torch.export.ExportedProgram) -> str:
    """A digest of everything that the compiled code depends on."""
    shapes = [str(node.meta.get("val")) for node in program.graph.nodes if node.op == "placeholder"]
    parts = [RECIPE, str(program.graph), shapes, str(torch.__version__), describe(), torch.get_num_threads()]
    digest = hashlib.sha256(json.dumps(parts).encode())
    tensors = {**program.state_dict, **{k: v for k, v in program.constants.items() if isinstance(v, Tensor)}}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_file(package: Path) -> Path:
    return package.with_name(package.name + ".sha256")


def _is_whole(package: Path) -> bool:
    """Running a damaged package would crash the process rather than raise."""
    expected = read_digest(_digest_file(package))
    return expected is not None and package.is_file() and sha256_of(package) == expected


def _compile(program: torch.export.ExportedProgram, package: Path, compiler: Compiler) -> None:
    print("compiling for this processor, which takes about half a minute; the result is cached", file=sys.stderr)
    try:
        with replacing_all(package.parent) as folder:
            written = folder / package.name
            compiler(program, written)
            digest = f"{sha256_of(written)}  {package.name}\n"  # the form of sha256sum
            _digest_file(written).write_text(digest, encoding="utf-8")
    except RuntimeError as error:
        advice = "" if find_compiler() else "; it needs a C++ compiler: install g++ or clang++, or name one in CXX"
        raise CompilerError(f"AOTInductor failed ({first_line(error)}){advice}") from None
