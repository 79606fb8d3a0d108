"""The text of written code: calls, definitions and imports."""

import pytest
from torch import nn

from conversion.codegen.text import constructor, definitions, fit, imports
from conversion.graph.normalisation import Dropout
from conversion.graph.pooling import AvgPool, MaxPool
from conversion.graph.tables import CAddTable, JoinTable


@pytest.mark.parametrize(
    ("module", "call"),
    [(nn.Conv2d(3, 4, (3, 2), padding=1, bias=False),
      "nn.Conv2d(3, 4, kernel_size=(3, 2), stride=(1, 1), padding=(1, 1), bias=False)"),
     (nn.ReLU(inplace=True), "nn.ReLU(inplace=True)"),
     (nn.ReLU(), "nn.ReLU()"),
     (nn.BatchNorm2d(4), "nn.BatchNorm2d(4)"),
     (Dropout(0.5), "Dropout(0.5)"),
     (nn.Threshold(float("-inf"), float("nan")), 'nn.Threshold(threshold=-float("inf"), value=float("nan"))')],
    ids=str,
)  # fmt: skip
def test_constructor_names_what_is_not_the_default(module, call):
    assert constructor(module) == call


def test_definitions_come_behind_those_that_they_use_without_decorators():
    found = definitions({AvgPool, CAddTable, JoinTable, MaxPool, nn.ReLU})
    names = [text.partition("(")[0].split()[1] for text in found]
    assert names == ["Layer", "pad_to_last_window", "window_size", "AvgPool", "as_list", "as_tensor", "as_tensors",
                     "CAddTable", "behind_batch", "JoinTable", "MaxPool"]  # fmt: skip
    assert not any("@" in text or "builds" in text for text in found)
    namespace = {}
    exec("\n\n".join([imports("math. inspect. Any torch. F."), *found]), namespace)
    assert repr(namespace["AvgPool"]((2, 2), (3, 3), (0, 0))) == repr(AvgPool((2, 2), (3, 3), (0, 0)))


def test_long_calls_are_broken():
    items = ", ".join(f"value{i}" for i in range(30))
    assert fit("    x = ", "short(1)") == ["    x = short(1)"]
    assert fit("    x = ", f"call({items[:110]})") == ["    x = call(", f"        {items[:110]}", "    )"]
    broken = fit("    return ", f"[{items}]")
    assert (broken[0], broken[1], broken[-1]) == ("    return [", "        value0,", "    ]")


def test_imports_are_those_that_are_needed():
    assert imports("nn.Linear(1, 1)").splitlines()[-1] == "from torch import Tensor, nn"
    assert "import torch\n" not in imports("nn.Linear(1, 1)")
    assert "import math" in imports("math.prod([1])")
