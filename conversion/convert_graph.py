"""Write any Torch7 network as PyTorch source and weights, and check that they do exactly what its graph does.

    python conversion/convert_graph.py model.t7 --out mynet
    python conversion/convert_graph.py model.t7 --out folder/mynet --input-shape 1,3,224,224

Writes NAME.py, which needs nothing but torch, and NAME.pth, its state_dict. Exit status: 0 done; 1 they do not do what
the graph does, nothing was written; 2 bad usage or input, nothing was written.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import os
import re
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from conversion.t7 import TorchObject

MAX_INPUT_VALUES = 2**28


class DifferenceError(RuntimeError):
    """What would be written does not do what the file's own graph does."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        import torch  # noqa: F401

        import conversion.graph.build  # noqa: F401
    except ImportError as error:
        return _fail(f"{error}: pip install -r requirements.txt")
    try:
        convert(options.file, options.out, options.input_shape)
    except DifferenceError as error:
        return _fail(error, 1)
    except ValueError as error:  # T7Error is one
        return _fail(error)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except MemoryError:
        return _fail("not enough memory")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SystemExit(_fail(f"{message} (see --help)"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a Torch7 file with a network in it")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME", help="NAME.py and NAME.pth are written")
    parser.add_argument(
        "--input-shape", type=_shape, metavar="N,C,H,W", help="of what the network takes; inferred where it is left out"
    )
    return parser


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8}){0,5}", text):
        raise argparse.ArgumentTypeError(f"expected sizes such as 1,3,224,224, got {text!r}")
    return tuple(map(int, text.split(",")))


def _fail(message: object, status: int = 2) -> int:
    print(f"convert_graph: {' '.join(str(message).split())}", file=sys.stderr)
    return status


def convert(path: Path, out: Path, shape: tuple[int, ...] | None = None) -> None:
    """Write `out`.py and `out`.pth for the network in a Torch7 file; both or none.

    Raises ValueError (T7Error, InputShapeError) for what cannot be converted, DifferenceError, OSError.
    """
    import torch

    from conversion import graph, t7
    from conversion.codegen import input_shape, source
    from conversion.codegen.source_text import imports

    started = time.perf_counter()
    class_name = _class_name(out)
    obj = find_network(t7.load(path), path)
    network = graph.to_module(obj).float()
    shape = shape or input_shape.infer(obj, network)
    if torch.Size(shape).numel() > MAX_INPUT_VALUES:
        raise ValueError(f"an input of shape {shape} is more than the {MAX_INPUT_VALUES} values that are tried")
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(shape, generator=generator)
    name = re.sub(r"[^ -~]|[\"\\]", "?", path.name)[:60]
    try:
        body, state = source.generate(network, class_name, example, f"The network of {name}, as Torch7 computes it.")
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"the network does not run on an input of shape {shape}: {error}") from error
    body += _builder(out.name, class_name)
    text = f"{_module_docstring(out.name, name, example)}{imports(body)}\n\n\n{body}\n"
    with tempfile.TemporaryDirectory() as folder:
        files = {".py": Path(folder) / f"{out.name}.py", ".pth": Path(folder) / f"{out.name}.pth"}
        files[".py"].write_text(text)
        with files[".pth"].open("wb") as file:
            torch.save(state, file)
        check(files[".py"], files[".pth"], class_name, network, torch.randn(shape, generator=generator))
        _write({out.with_name(out.name + suffix): file.read_bytes() for suffix, file in files.items()})
    values = sum(value.numel() for value in state.values() if value.is_floating_point())
    print(f"{out}.py: class {class_name}, {len(text.splitlines())} lines")
    print(f"{out}.pth: {len(state)} tensors, {values:,} values")
    print(f"bit-equal to the graph of {path} on an input of {shape}; {time.perf_counter() - started:.1f} s")


def find_network(root: Any, path: Path) -> TorchObject:
    """The only module of a file: its root, or what lies in tables. Criteria are passed over."""
    from conversion.t7 import T7Error, Table, TorchObject, walk

    def tables(value: Any) -> list[Any]:
        return list(value.values()) if isinstance(value, Table) else []

    found = [node for node in walk(root, tables) if isinstance(node, TorchObject)]
    found = [node for node in found if not node.class_name.endswith("Criterion")]
    if not found:
        raise T7Error(f"expected a network or a table with one in it, got {root!r}", path=str(path))
    if len(found) > 1:
        paths = ", ".join(f"{node.class_name} at {node.path}" for node in found[:8])
        raise T7Error(f"expected one network, got {len(found)}: {paths}", path=str(path))
    return found[0]


def check(source: Path, weights: Path, class_name: str, network: nn.Module, images: Tensor) -> None:
    """Import the source, load the weights and compare with the graph, bit for bit. Raises DifferenceError."""
    import torch

    written = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec = importlib.util.spec_from_file_location(f"_converted_{source.stem}", source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with torch.device("meta"):
            model = getattr(module, class_name)()
        model.load_state_dict(torch.load(weights, weights_only=True), strict=True, assign=True)
        with torch.inference_mode():
            got, expected = model.eval()(images.clone()), network(images.clone())
    except Exception as error:
        raise DifferenceError(
            f"the source does not run, nothing is written: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.dont_write_bytecode = written
    if not _bit_equal(got, expected):
        raise DifferenceError("the source gives other values than the graph, nothing is written")


def _bit_equal(got: Any, expected: Any) -> bool:
    import torch

    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(_bit_equal, got, expected))
    if not isinstance(got, torch.Tensor) or got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    bits = torch.int32 if got.dtype == torch.float32 else torch.uint8  # NaN equals NaN
    return torch.equal(got.contiguous().view(bits), expected.contiguous().view(bits))


def _class_name(out: Path) -> str:
    """The class for a file name: alexnet to Alexnet, my_net to MyNet. Raises ValueError for what is no name."""
    name = out.name
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name.startswith("__"):
        raise ValueError(f"--out: expected a name that Python can import, such as my_net, got {name!r}")
    if name in sys.stdlib_module_names or name in ("torch", "nn", "F", "Tensor"):
        raise ValueError(f"--out: {name}.py would hide the module {name}: choose another name")
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if not class_name.isidentifier() or keyword.iskeyword(class_name):
        raise ValueError(f"--out: expected a name with a letter in front, such as my_net, got {name!r}")
    from conversion.codegen.source_text import COPIED

    used = {item for module in COPIED for item in vars(module)} | {"Any", "F", "Tensor"}
    return f"{class_name}Net" if class_name in used else class_name


def _module_docstring(name: str, file: str, example: Tensor) -> str:
    return (
        f'"""The network of {file}, written by convert_graph.py.\n\n'
        f"It takes {tuple(example.shape)}: the shapes in the comments are for that. The weights are in {name}.pth.\n"
        f'"""\n\n'
    )


def _builder(name: str, class_name: str) -> str:
    if name == class_name:
        return ""
    return (
        f"\n\n\ndef {name}(weights: str | None = None) -> {class_name}:\n"
        f'    """The network for evaluation, with weights from a file such as {name}.pth."""\n'
        f"    model = {class_name}()\n"
        f"    if weights is not None:\n"
        f"        model.load_state_dict(torch.load(weights, weights_only=True))\n"
        f"    return model.eval()"
    )


def _write(files: dict[Path, bytes]) -> None:
    """All files under their names, or none; folders are made where missing."""
    directory = next(iter(files)).parent
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    temporary: dict[Path, Path] = {}
    new = [path for path in files if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            if path.is_dir():
                raise IsADirectoryError(21, "is a directory", str(path))
            temporary[path] = directory / f".writing-{secrets.token_hex(8)}"
            with temporary[path].open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, written in temporary.items():
            os.replace(written, path)
    except BaseException:
        for leftover in [*temporary.values(), *new]:
            leftover.unlink(missing_ok=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        raise


if __name__ == "__main__":
    sys.exit(main())
