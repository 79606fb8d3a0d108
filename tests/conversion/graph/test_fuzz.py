"""Every field of every recorded layer with values that make no sense: T7Error, or a module that runs, nothing else."""

import contextlib
import math

import pytest
import torch

from conversion import graph, t7
from conversion.codegen.generate import Trace
from tests.helpers.recorded import LAYERS, torch_values
from tests.helpers.torch7_trees import make_list, put

VALUES = [0, -1, 2**31, -(2**31), math.inf, math.nan, 1.5, "a string", True]
WITHOUT_FIELDS = [
    "act_abs", "act_logsoftmax", "act_sigmoid", "act_softmax", "act_spatialsoftmax", "act_tanh", "linear_nobias", "mul",
    "squeeze",
]  # fmt: skip


def run(root, given):
    """Whether the graph of a file takes an input, by both ways that there are to run it."""
    module = graph.to_module(root)
    if isinstance(given, list):
        return
    Trace(module, given.shape)
    with torch.no_grad():
        module(given.clone())


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.stem)
def test_fields_that_make_no_sense(path):
    content = t7.load(path)
    root, given = content["module"], torch_values(content["input"])
    run(root, given)
    refused = 0
    for obj in [node for node in t7.walk(root) if isinstance(node, t7.TorchObject)]:
        for name, value in list(obj.items()):
            if not isinstance(value, (int, float, str, t7.Storage, t7.Table)):
                continue
            for other in [*VALUES, make_list(root, 1), make_list(root)]:
                put(obj, name, other)
                with contextlib.suppress(t7.T7Error):
                    run(root, given)
                    continue
                refused += 1
            put(obj, name, value)
    assert (refused == 0) == (path.stem in WITHOUT_FIELDS)
