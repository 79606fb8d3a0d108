"""Write any Torch7 network as PyTorch code and weights, and check that they give exactly the outputs of its graph.

    python conversion/convert_graph.py model.t7 --out mynet
    python conversion/convert_graph.py model.t7 --out folder/mynet --input-shape 1,3,224,224

Writes NAME.py, which needs only torch, and NAME.pth, its state_dict. Exit status: 0 done; 1 the outputs differ; 2 bad
usage or input. After 1 and 2 nothing was written. Each file appears whole. A process that is killed exactly between the
two leaves an old file beside a new one; the next run corrects that.
"""

from __future__ import annotations

import argparse
import keyword
import re
import runpy
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from resnext.cli.command_line import Parser, one_line, run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from conversion.t7 import TorchObject

MAX_INPUT_VALUES = 2**28


class DifferenceError(RuntimeError):
    """The code and weights do not give the outputs of the file's own graph."""

    exit_status = 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="convert_graph", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a Torch7 file with a network in it")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME", help="NAME.py and NAME.pth are written")
    parser.add_argument("--input-shape", type=_shape, metavar="N,C,H,W", help="shape of the input; default: inferred")
    options = parser.parse_args(arguments)

    def command() -> int:
        convert(options.file, options.out, options.input_shape)
        return 0

    return run("convert_graph", command)


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8}){0,5}", text):
        raise argparse.ArgumentTypeError(f"expected sizes such as 1,3,224,224, got {text!r}")
    return tuple(map(int, text.split(",")))


def convert(path: Path, out: Path, shape: tuple[int, ...] | None = None) -> None:
    """Write `out`.py and `out`.pth for the network in a Torch7 file, or neither.

    Raises ValueError (T7Error, InputShapeError) for a file that cannot be converted, DifferenceError, OSError.
    """
    import torch

    from conversion import graph, t7
    from conversion.codegen import generate, input_shape, text
    from resnext.weights.atomic import replacing_all

    started = time.perf_counter()
    class_name = _class_name(out)
    obj = find_network(t7.load(path), path)
    network = graph.to_module(obj).float()
    shape = shape or input_shape.infer(obj, network)
    if torch.Size(shape).numel() > MAX_INPUT_VALUES:
        raise ValueError(f"expected an input of at most {MAX_INPUT_VALUES} values, got the shape {shape}")
    name = re.sub(r"[^ -~]|[\"\\]", "?", path.name)[:60]
    docstring = f"The network of {name}, as Torch7 computes it."
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        body, state = generate.generate(network, class_name, shape, docstring)
        with torch.inference_mode():
            expected = network(images.clone())
    except (RuntimeError, IndexError, ValueError) as error:
        place = getattr(error, "object_path", "")
        cause = f"the network does not run on an input of shape {shape}: {getattr(error, 'cause', error)}"
        raise t7.T7Error(cause, path=str(path), object_path=place) from error
    body += _builder(out.name, class_name)
    code = f"{_module_docstring(out.name, name, shape)}{text.imports(body)}\n\n\n{body}\n"
    with replacing_all(out.parent) as folder:
        written = folder / out.name
        torch.save(state, f"{written}.pth")
        Path(f"{written}.py").write_text(code, encoding="utf-8")
        check(Path(f"{written}.py"), Path(f"{written}.pth"), class_name, images, expected)
    values = sum(value.numel() for value in state.values() if value.is_floating_point())
    shown = one_line(out)
    print(f"{shown}.py: class {class_name}, {len(code.splitlines())} lines")
    print(f"{shown}.pth: {len(state)} tensors, {values:,} values")
    print(f"bit-equal to the graph of {one_line(path)} on an input of {shape}; {time.perf_counter() - started:.1f} s")


def find_network(root: Any, path: Path) -> TorchObject:
    """The only module of a file, at its root or inside tables. Criteria, meters and confusion matrices do not count."""
    from conversion.t7 import T7Error, Table, TorchObject, walk

    def tables(value: Any) -> list[Any]:
        return list(value.values()) if isinstance(value, Table) else []

    found = [
        node
        for node in walk(root, tables)
        if isinstance(node, TorchObject)
        and not node.class_name.endswith(("Criterion", "Meter"))
        and not node.class_name.startswith("optim.")
    ]
    if not found:
        raise T7Error(f"expected a network or a table with one in it, got {root!r}", path=str(path))
    if len(found) > 1:
        paths = ", ".join(f"{node.class_name} at {node.path}" for node in found[:8])
        raise T7Error(f"expected one network, got {len(found)}: {paths}", path=str(path))
    return found[0]


def check(code: Path, weights: Path, class_name: str, images: Tensor, expected: Any) -> None:
    """Run the code with the weights and compare the outputs bit for bit. Raises DifferenceError."""
    import torch

    try:
        with torch.device("meta"):
            model: nn.Module = runpy.run_path(str(code))[class_name]()
        model.load_state_dict(torch.load(weights, weights_only=True), strict=True, assign=True)
        with torch.inference_mode():
            got = model.eval()(images.clone())
    except Exception as error:
        raise DifferenceError(f"the code does not run, nothing is written: {type(error).__name__}: {error}") from error
    if not _bit_equal(got, expected):
        raise DifferenceError("the code gives other values than the graph, nothing is written")


def _bit_equal(got: Any, expected: Any) -> bool:
    """Compare tensors or nested lists of them; NaN equals NaN."""
    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(_bit_equal, got, expected))
    if isinstance(got, list) or got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    return bool(got.numpy().tobytes() == expected.numpy().tobytes())


def _class_name(out: Path) -> str:
    """The class for a file name: Alexnet for alexnet, MyNet for my_net. Raises ValueError for an unusable name."""
    name = out.name
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name.startswith("__"):
        raise ValueError(f"--out: expected a name that Python can import, such as my_net, got {name!r}")
    if name in sys.stdlib_module_names or name in ("torch", "nn", "F", "Tensor"):
        raise ValueError(f"--out: {name}.py would hide the module {name}; choose another name")
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if not class_name.isidentifier() or keyword.iskeyword(class_name):
        raise ValueError(f"--out: expected a name with a letter in front, such as my_net, got {name!r}")
    from conversion.graph.build import THEMES

    used = {item for module in THEMES for item in vars(module)} | {"Any", "F", "Tensor"}
    return f"{class_name}Net" if class_name in used else class_name


def _module_docstring(name: str, file: str, shape: tuple[int, ...]) -> str:
    return (
        f'"""The network of {file}, written by convert_graph.py.\n\n'
        f"The shapes in the comments are for an input of {shape}. The weights are in {name}.pth.\n"
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


if __name__ == "__main__":
    sys.exit(main())
