"""convert_graph.py: what it writes does what the graph does and reads well; errors are one line and leave nothing."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conversion import convert_graph, graph, t7
from tests.helpers import commands
from tests.helpers.commands import converted
from tests.helpers.recorded import FIXTURES, ROOT
from tests.helpers.torch7_networks import NETWORKS, Layer, Net, average, relu, seq, table, view, write
from tests.helpers.torch7_trees import Rewriter

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
SHAPES = {"alexnet": "2,3,67,67"}  # 67 is no size that is tried


def run(capsys, *arguments):
    return commands.run(capsys, convert_graph.main, *arguments)


def refused(capsys, tmp_path, path, *arguments, out="new/net"):
    """One line on stderr, nothing on stdout, nothing left behind; the line."""
    before = sorted(tmp_path.rglob("*"))
    line = commands.refused(capsys, convert_graph.main, path, "--out", tmp_path / out, *arguments)
    assert line.startswith("convert_graph: ")
    assert sorted(tmp_path.rglob("*")) == before
    return line


@pytest.mark.parametrize("name", NETWORKS)
def test_network_and_its_source_agree(tmp_path, capsys, name):
    path = write(tmp_path, NETWORKS[name]())
    options = ["--input-shape", SHAPES[name]] if name in SHAPES else []
    module, stdout = converted(capsys, path, tmp_path / f"my_{name}", *options)
    assert "bit-equal to the graph of" in stdout
    text = (tmp_path / f"my_{name}.py").read_text()
    assert "conversion" not in text
    assert "lambda" not in text
    assert max(map(len, text.splitlines())) <= 120
    shape = tuple(map(int, text.partition("an input of (")[2].partition(")")[0].split(",")))
    x = torch.rand(2, *shape[1:])
    literal, model = graph.to_module(t7.load(path)), getattr(module, f"my_{name}")(tmp_path / f"my_{name}.pth")
    with torch.no_grad():
        expected = literal(x.clone())
        assert torch.equal(model(x.clone()), expected)
        assert torch.equal(torch.jit.script(model)(x.clone()), expected)
    weights = torch.load(tmp_path / f"my_{name}.pth", weights_only=True)
    assert weights.keys() == model.state_dict().keys()
    if ruff := shutil.which("ruff"):
        files = [ruff, "--isolated", "--line-length", "120", str(tmp_path / f"my_{name}.py")]
        subprocess.run([files[0], "format", "--check", *files[1:]], check=True, capture_output=True)
        subprocess.run([files[0], "check", "--select", "E,F,W,I,UP", *files[1:]], check=True, capture_output=True)


def test_shortcut_a_by_torch_s_own_functions(tmp_path):
    """fb.resnet.torch's widening block, written down once more without anything of ours."""
    net = Net(20)
    body = seq(net.conv(4, 8, 3, 2, 1, bias=False), net.bn(8), relu(), net.conv(8, 8, 3, 1, 1, bias=False), net.bn(8))
    zeros = Layer("nn.MulConstant", constant_scalar=0, inplace=False)
    shortcut = seq(average(1, 2), table(Layer("nn.Identity"), zeros, kind="nn.Concat", dimension=2))
    block = seq(table(body, shortcut), Layer("nn.CAddTable", inplace=True), relu())
    x = torch.from_numpy(net.array(2, 4, 6, 6))
    with torch.no_grad():
        got = graph.to_module(t7.load(write(tmp_path, block)))(x.clone())

    def arrays(layer, *names):
        return [torch.from_numpy(layer.fields[name]) for name in names]

    first, bn1, _, second, bn2 = body.fields["modules"]
    y = F.conv2d(x, *arrays(first, "weight"), stride=2, padding=1)
    y = F.batch_norm(y, *arrays(bn1, "running_mean", "running_var", "weight", "bias")).relu()
    y = F.conv2d(y, *arrays(second, "weight"), padding=1)
    y = F.batch_norm(y, *arrays(bn2, "running_mean", "running_var", "weight", "bias"))
    small = x[:, :, ::2, ::2]
    torch.testing.assert_close(got, (y + torch.cat([small, torch.zeros_like(small)], 1)).relu(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", sorted((FIXTURES / "layers").glob("*.t7")), ids=lambda path: path.stem)
def test_every_recorded_layer(tmp_path, path):
    given = t7.load(path)["input"]
    convert_graph.convert(path, tmp_path / "layer", given.shape)


def test_a_network_in_a_table_and_in_a_data_parallel_table(tmp_path, capsys):
    net = seq(Net().linear(3, 2))
    model = Layer("nn.DataParallelTable", modules=[net])
    content = {
        "model": model, "best": {"model": model}, "epoch": 3, "criterion": Layer("nn.ClassNLLCriterion"),
        "optimState": {"learningRate": 0.1}, "confusion": Layer("optim.ConfusionMatrix"),
    }  # fmt: skip
    module, _ = converted(capsys, write(tmp_path, content), tmp_path / "new" / "AlexNet")
    assert module.AlexNet()(torch.ones(4, 3)).shape == (4, 2)  # no function of a name that is the class's


def test_double_becomes_single_precision(tmp_path, capsys):
    path = tmp_path / "double.t7"
    path.write_bytes(Rewriter(kind="Double").dump(t7.load(write(tmp_path, seq(Net().linear(3, 2))))))
    assert next(graph.to_module(t7.load(path)).parameters()).dtype == torch.float64
    converted(capsys, path, tmp_path / "single")
    weights = torch.load(tmp_path / "single.pth", weights_only=True)
    assert {value.dtype for value in weights.values()} == {torch.float32}


@pytest.mark.slow
def test_from_another_folder_and_over_older_files_whatever_the_locale(tmp_path):
    """What is written is UTF-8 (here a comment of a copied class), as Python reads it."""
    write(tmp_path, NETWORKS["alexnet"]())
    (tmp_path / "alexnet.py").write_text("an older one")
    command = [sys.executable, str(ROOT / "conversion" / "convert_graph.py"), "net.t7", "--out", "alexnet"]
    command += ["--input-shape", "1,3,67,67"]
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["alexnet.pth", "alexnet.py", "net.t7"]
    assert not (tmp_path / "alexnet.py").read_bytes().isascii()
    code = (
        "import sys, torch, alexnet; print(alexnet.alexnet('alexnet.pth')(torch.zeros(1, 3, 67, 67)).shape, "
        "any(name.startswith('conversion') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "torch.Size([10]) False"  # nn.View drops a batch of 1


@pytest.mark.parametrize(
    ("root", "arguments", "cause"),
    [(seq(relu()), [], "cannot be inferred: give it, such as --input-shape 1,3,224,224"),
     (seq(Layer("nn.JoinTable", dimension=1)), [], "takes a table of inputs"),
     (seq(table(relu(), kind="nn.ParallelTable")), [], "takes a table of inputs"),
     (seq(Net().linear(3, 2)), ["--input-shape", "1,4"], "does not run on an input of shape (1, 4)"),
     (seq(Layer("nn.CAddTable")), ["--input-shape", "1"], "does not run on an input of shape (1,)"),
     (seq(relu()), ["--input-shape", "1,0"], "expected sizes such as 1,3,224,224, got '1,0'"),
     (seq(relu()), ["--input-shape", "99999999,99999999"], "expected an input of at most"),
     (seq(relu(), Layer("nn.Riddle"), Layer("nn.Mystery")), [], "nn.Mystery at modules[3]; nn.Riddle at modules[2]"),
     ({"a": seq(relu()), "b": relu()}, [], "expected one network, got 2: nn.Sequential at a, nn.ReLU at b"),
     ({"epoch": 1, "loss": Layer("nn.MSECriterion")}, [], "expected a network or a table with one in it"),
     ({"\udcff\x1b[31m\n": seq(relu()), "b": relu()}, [], 'nn.Sequential at ["\\udcff\\x1b[31m\\n"], nn.ReLU at b'),
     (seq(table(), Net().linear(3, 2)), ["--input-shape", "1,3"], "modules[2]: the network does not run on an input"),
     (seq(table(relu()), Net().linear(3, 2)), ["--input-shape", "1,3"], "expected a tensor, got a list"),
     (seq(table(table(relu())), Layer("nn.CAddTable")), ["--input-shape", "1,3"], "expected a tensor in the list"),
     (table(table(relu()), relu(), kind="nn.Concat", dimension=1), ["--input-shape", "1,3"], "tensors to join"),
     (seq(Layer("nn.FlattenTable")), ["--input-shape", "1,3"], "expected a list, got a tensor"),
     (table(relu(), kind="nn.Parallel", inputDimension=4, outputDimension=1), ["--input-shape", "1,3"],
      "expected a tensor with a dimension 3 (from 0), got (1, 3)"),
     (table(relu(), kind="nn.Parallel", inputDimension=2, outputDimension=1), ["--input-shape", "1,3"],
      "1 modules for 3 slices"),
     (3, [], "expected a network or a table with one in it, got 3")],
)  # fmt: skip
def test_what_cannot_be_converted(tmp_path, capsys, root, arguments, cause):
    assert cause in refused(capsys, tmp_path, write(tmp_path, root), *arguments)


def nested(levels):
    module = relu()
    for _ in range(levels):
        module = seq(module, module)
    return module


FORKS = [table(Layer("nn.Identity"), Layer("nn.Identity")) for _ in range(26)]
JOINS = [Layer("nn.JoinTable", dimension=1) for _ in range(300)]
EXPANDED = [Layer("nn.Linear", weight=np.broadcast_to(np.float32(1), (2**12, 2**12))) for _ in range(24)]
ENLARGE = [Layer("nn.SpatialUpSamplingNearest", scale_factor=2**12) for _ in range(2)]


@pytest.mark.parametrize(
    ("root", "shape", "cause"),
    [(nested(45), "1,3", "expected at most 20000 calls of modules for one input, got 32767"),
     (seq(*FORKS), "1,3", "modules[14]: ConcatTable: expected at most 10000 tensors in a list, got 16384"),
     (seq(*FORKS, Layer("nn.FlattenTable"), Layer("nn.CAddTable")), "1,3", "expected at most 10000 tensors in a list"),
     (seq(table(*[Layer("nn.Identity")] * 5000), table(*JOINS)), "1,3", "take at most 200000 tensors in all"),
     (seq(*EXPANDED), f"1,{2**12}", "bytes of expanded values in a file"),
     (seq(Layer("nn.Padding", dim=1, pad=2**31 - 1)), "4,3", "more than 536870912 values"),
     (seq(Layer("nn.Replicate", nfeatures=2**31 - 1)), "4,3", "more than 536870912 values"),
     (seq(*ENLARGE), "1,1,4,4", "modules[2]: the network does not run on an input of shape (1, 1, 4, 4)"),
     (seq(Layer("nn.SpatialCrossMapLRN", size=2**31 - 1)), "1,3,4,4", "more than 536870912 values"),
     (seq(Layer("nn.Replicate", nfeatures=2**20), Layer("nn.SplitTable", dimension=1)), "1,1", "200000 steps"),
     (seq(ENLARGE[0], average(2**13)), "1,1,4,4", "more than 8796093022208 multiplications")],
    ids=range(11),
)  # fmt: skip
def test_a_small_file_that_would_cost_much(tmp_path, capsys, root, shape, cause):
    """Exponential time, and gigabytes: refused before anything large is made."""
    path = write(tmp_path, root)
    assert path.stat().st_size < 2**20
    assert cause in refused(capsys, tmp_path, path, "--input-shape", shape)


def test_constants_that_are_not_finite(tmp_path, capsys):
    inf, nan = float("inf"), float("nan")
    root = seq(
        Layer("nn.Threshold", threshold=-inf, val=0), Layer("nn.Clamp", min_val=0, max_val=inf),
        Layer("nn.Normalize", p=inf, eps=0), table(Layer("nn.Identity"), Layer("nn.MulConstant", constant_scalar=nan)),
    )  # fmt: skip
    module, _ = converted(capsys, write(tmp_path, root), tmp_path / "net", "--input-shape", "1,3")
    first, second = module.net()(torch.tensor([[-1.0, 2.0, 4.0]]))
    assert first.tolist() == [[0.0, 0.5, 1.0]]
    assert second.isnan().all()
    assert 'nn.Hardtanh(min_val=0.0, max_val=float("inf"))' in (tmp_path / "net.py").read_text()


@pytest.mark.parametrize("name", ["my-net", "2net", "class", "net.py", "torch", "json", "_", "é"])
def test_names_that_python_cannot_import(tmp_path, capsys, name):
    assert "--out: " in refused(capsys, tmp_path, write(tmp_path, seq(relu())), out=name)


def test_a_class_of_the_name_of_a_copied_one(tmp_path, capsys):
    module, _ = converted(capsys, write(tmp_path, seq(view(3, dims=1), Net().linear(3, 2))), tmp_path / "view")
    assert module.view()(torch.zeros(2, 3)).shape == (2, 2)
    assert type(module.view()).__name__ == "ViewNet"


def test_bad_files_and_bad_usage(tmp_path, capsys):
    assert "cannot be read" in refused(capsys, tmp_path, tmp_path / "absent.t7")
    assert "--frobnicate" in refused(capsys, tmp_path, "x", "--frobnicate")
    (tmp_path / "file").touch()
    path = write(tmp_path, seq(Net().linear(3, 2)))
    refused(capsys, tmp_path, path, out="file/net")
    (tmp_path / "taken.pth").mkdir()
    assert "taken.pth: Is a directory" in refused(capsys, tmp_path, path, out="taken")


def test_code_that_gives_other_values_is_noticed(tmp_path, capsys):
    path = write(tmp_path, seq(Net().linear(3, 2), relu()))
    converted(capsys, path, tmp_path / "net")
    code, weights, x = tmp_path / "net.py", tmp_path / "net.pth", torch.rand(4, 3)
    with torch.no_grad():
        expected = graph.to_module(t7.load(path))(x)
    convert_graph.check(code, weights, "Net", x, expected)
    text = code.read_text()
    code.write_text(text.replace("x = self.relu1(x)", "x = self.relu1(x) + 1e-6"))
    with pytest.raises(convert_graph.DifferenceError, match="gives other values than the graph") as caught:
        convert_graph.check(code, weights, "Net", x, expected)
    assert caught.value.exit_status == 1
    code.write_text(text)
    torch.save({}, weights)
    with pytest.raises(convert_graph.DifferenceError, match="does not run, nothing is written: RuntimeError"):
        convert_graph.check(code, weights, "Net", x, expected)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_failure_while_writing_leaves_nothing(tmp_path, capsys, monkeypatch, calls):
    path, honest, count = write(tmp_path, seq(Net().linear(3, 2))), os.replace, iter(range(1, 9))

    def failing(*arguments):
        if next(count) == calls:
            raise OSError(28, "No space left on device", str(arguments[1]))
        honest(*arguments)

    monkeypatch.setattr(os, "replace", failing)
    assert "No space left on device" in refused(capsys, tmp_path, path, out="new/deep/net")
