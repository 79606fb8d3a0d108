"""Networks compiled ahead of time by AOTInductor: packages for this processor, and the cache that keeps them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnext.inference.huge_pages import huge_pages
from resnext.weights.atomic import replacing
from resnext.weights.cache import cache_dir, locked, read_digest
from resnext.weights.download import sha256_of
from resnext.weights.messages import first_line

RECIPE = 2  # of `write_package`: to be counted up when it makes other packages


class CompilerError(RuntimeError):
    """AOTInductor fails, mostly for want of a C++ compiler. Says what to do."""


class CompiledNetwork:
    """A package that `python -m resnext export --format aoti` wrote: images -> logits, as exported.

    It was compiled for images of one shape and type. torch's own loader takes any others for such, and reads beyond
    them or leaves some out; this one refuses them, but for N, which is free: it runs in pieces of the N of the package,
    the last filled up with zeros.

    `metadata` is what the package says about itself. Raises FileNotFoundError, and RuntimeError for another file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._package = open_package(path)
        self.metadata: Mapping[str, str] = self._package.get_metadata()
        if "input_shape" not in self.metadata:
            raise RuntimeError(f"{os.fspath(path)}: expected a package of this project's export")
        self._dtype: torch.dtype = getattr(torch, self.metadata["input_dtype"])
        piece, *self._image = self.metadata["input_shape"].split(" x ")
        self._piece = int(piece) if piece.isdecimal() else None

    @torch.no_grad()  # with gradients the operators of oneDNN rearrange their weights at every call
    def __call__(self, images: Tensor) -> Tensor:
        """Raises ValueError for images of another size or type than the package was compiled for."""
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
        logits: Tensor = self._package.boxed_run([images])[0]
        return logits[:count]


def open_package(path: str | os.PathLike[str]) -> Any:
    """torch's loader of AOTInductor packages, for one model; `boxed_run` takes and gives lists of tensors.

    `torch._inductor.aoti_load_package` wraps it, takes two seconds to import, and parses JSON at each call.

    Raises FileNotFoundError, and RuntimeError for a file that is no package.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file; expected a package of AOTInductor (.pt2)")
    try:
        with huge_pages():
            return _loader(os.fspath(path))
    except RuntimeError as error:
        raise RuntimeError(
            f"{os.fspath(path)}: expected a package of AOTInductor (.pt2): {first_line(error)}"
        ) from None


def _loader(path: str) -> Any:
    try:
        return torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, -1)
    except TypeError:  # of an older torch; it takes less
        return torch._inductor.aoti_load_package(path).loader


def load(path: str | os.PathLike[str]) -> CompiledNetwork:
    """A compiled package; see `CompiledNetwork`."""
    return CompiledNetwork(path)


def compile_cached(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> Path:
    """A package (`.pt2`) in the cache, compiled for this processor with its weights frozen and packed.

    The cache is `torch.hub.get_dir()/compiled`: by graph, weights, shapes, precision, processor, threads and versions.
    It may be deleted at any time. Of several processes one compiles, the others wait.

    Args:
        program: what `torch.export.export` gives.
        metadata: goes into the package, and tells what `program` does not: `architecture` and `precision` must
            be there.

    Raises CompilerError, and OSError where the cache cannot be written.
    """
    name = f"{metadata['architecture']}-{metadata['precision']}-{_key(program, metadata)[:16]}"
    package = cache_dir().parent / "compiled" / f"{name}.pt2"
    if not _is_whole(package):
        with locked(name):
            if not _is_whole(package):  # another process may have been faster
                package.parent.mkdir(parents=True, exist_ok=True)
                _compile(program, metadata, package)
    return package


def _key(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> str:
    """Of everything that the compiled code depends on."""
    parts = [RECIPE, str(program.graph), dict(metadata), str(torch.__version__), _processor(), torch.get_num_threads()]
    digest = hashlib.sha256(json.dumps(parts).encode())
    # Folded weights are more than those of the network, by whose digest metadata go: the batch norms' eps is in them.
    tensors = {**program.state_dict, **{k: v for k, v in program.constants.items() if isinstance(v, Tensor)}}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _processor() -> str:
    """Name and instruction sets of the processor."""
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        content = ""
    lines = re.findall(r"^(?:model name|flags|Features)\s*:.*", content, re.MULTILINE)
    return "\n".join(sorted(set(lines))) or f"{platform.machine()} {platform.processor()}"


def _digest_file(package: Path) -> Path:
    return package.with_name(package.name + ".sha256")


def _is_whole(package: Path) -> bool:
    """Running a damaged package would crash the process rather than raise."""
    expected = read_digest(_digest_file(package))
    return expected is not None and package.is_file() and sha256_of(package) == expected


def _compile(program: torch.export.ExportedProgram, metadata: Mapping[str, str], package: Path) -> None:
    print("compiling for this processor, which takes about half a minute; the cache keeps it", file=sys.stderr)
    try:
        with replacing(package, ".pt2") as temporary:
            write_package(program, temporary, metadata)
            _digest_file(package).unlink(missing_ok=True)  # of what lay there
    except RuntimeError as error:
        advice = "" if find_compiler() else "; it needs a C++ compiler: install g++ or clang++, or name one in CXX"
        raise CompilerError(f"AOTInductor failed ({first_line(error)}){advice}") from None
    with replacing(_digest_file(package)) as temporary:
        temporary.write_text(f"{sha256_of(package)}  {package.name}\n", encoding="utf-8")  # the form of sha256sum


def write_package(program: torch.export.ExportedProgram, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Compile for images of the very shape, layout and type that `program` was exported with; `path` ends in `.pt2`.

    The weights are frozen and packed for it: not with gradients, where Inductor leaves them, and what comes out takes
    twice as long. Raises RuntimeError.
    """
    configuration = {"freezing": True, "aot_inductor.metadata": dict(metadata or {})}
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=os.fspath(path), inductor_configs=configuration)


def find_compiler() -> str | None:
    """The C++ compiler that torch would use, or None."""
    from torch._inductor import cpp_builder, exc

    try:
        return cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError):
        return None
