"""The code that is written for a graph, line by line."""

import shutil
import subprocess

import torch

from conversion.codegen.generate import generate
from tests.helpers.commands import converted
from tests.helpers.torch7_networks import Layer, Net, build, relu, seq, table, write


def forward_of(capsys, tmp_path, root, shape):
    module, _ = converted(capsys, write(tmp_path, root), tmp_path / "net_", "--input-shape", shape)
    text = (tmp_path / "net_.py").read_text()
    lines = text.rpartition("\n\n\ndef net_")[0].rpartition("def forward(")[2].splitlines()
    return lines, module


def test_the_code_reads_as_straight_lines(tmp_path, capsys):
    """A variable is used again as soon as nobody needs it, and not before."""
    split = seq(Layer("nn.SplitTable", dimension=2), table(relu(), Layer("nn.Tanh"), kind="nn.ParallelTable"))
    crossed = table(Layer("nn.SelectTable", index=2), Layer("nn.SelectTable", index=1))
    root = seq(
        table(Layer("nn.Identity"), Layer("nn.Tanh")), crossed,
        table(Layer("nn.Exp"), Layer("nn.Square"), kind="nn.ParallelTable"),
        table(Layer("nn.FlattenTable"), Layer("nn.NarrowTable", offset=1, length=1)), Layer("nn.FlattenTable"),
        Layer("nn.JoinTable", dimension=2), split, Layer("nn.CAddTable", inplace=False),
    )  # fmt: skip
    lines, _ = forward_of(capsys, tmp_path, root, "5,1")
    assert lines[1:] == [
        "        # x: (5, 1)",
        "        y = self.tanh1(x)  # (5, 1)",
        "        y = self.exp1(y)  # (5, 1)",
        "        x = self.square1(x)  # (5, 1)",
        "        y = self.join1([y, x, y])  # (5, 3)",
        "        parts1 = self.split1(y)  # 3 of (5,)",
        "        x = self.relu1(parts1[0])  # (5,)",
        "        y = self.tanh2(parts1[1])  # (5,)",
        "        x = self.add1([x, y])  # (5,)",
        "        return x",
    ]


def test_parallel_and_a_result_of_several_tensors(tmp_path, capsys):
    root = seq(
        table(Layer("nn.Exp"), Layer("nn.Square"), kind="nn.Parallel", inputDimension=2, outputDimension=1),
        table(Layer("nn.Identity"), Layer("nn.Abs")),
    )
    lines, module = forward_of(capsys, tmp_path, root, "3,2")
    assert lines[-1] == "        return [y, x]"
    x = torch.rand(3, 2)
    first, second = module.net_()(x)
    assert torch.equal(first, torch.cat([x[:, 0].exp(), x[:, 1].square()]))
    assert torch.equal(second, first)


def test_a_shared_module_is_one_submodule(tmp_path, capsys):
    net = Net()
    twice, other = net.linear(3, 3), net.linear(3, 3)
    lines, _ = forward_of(capsys, tmp_path, seq(twice, other, twice), "1,3")
    names = [line.strip().partition("(")[0] for line in lines if "self." in line]
    assert names == ["x = self.fc1", "x = self.fc2", "x = self.fc1"]


def test_long_lines_are_broken_as_a_formatter_would(tmp_path, capsys):
    net = Net()
    wide = Layer(
        "nn.VolumetricDilatedConvolution", **{**net.conv(1024, 1024, 1, groups=1024).fields, "kT": 1, "dT": 1,
        "padT": 10, "padH": 10, "padW": 10, "dilationT": 10, "dilationH": 10, "dilationW": 10}
    )  # fmt: skip
    text, _ = generate(build(tmp_path, wide), "Wide", (1, 1024, 1, 1, 1), "")
    assert all(len(line) <= 120 for line in text.splitlines())
    many = seq(table(*[Layer("nn.Exp") for _ in range(60)]), Layer("nn.JoinTable", dimension=1))
    text, _ = generate(build(tmp_path, many), "Many", (1,), "")
    assert all(len(line) <= 120 for line in text.splitlines())
    path = tmp_path / "many.py"
    path.write_text(f"{text}\n")
    if ruff := shutil.which("ruff"):
        command = [ruff, "format", "--check", "--isolated", "--line-length=120", path]
        subprocess.run(command, check=True, capture_output=True)
