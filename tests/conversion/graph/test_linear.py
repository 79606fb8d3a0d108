"""nn.Linear, factors and offsets: values by hand, and what is refused."""

import numpy as np
import pytest

from tests.helpers.torch7_networks import Layer, Longs, by_hand, refused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


CASES = [
    (Layer("nn.WhiteNoise", mean=0.5), [1.0, 2.0], [1.5, 2.5]),
    (Layer("nn.Add", scalar=True, bias=np.float32([2])), ROWS, [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]),
    (Layer("nn.Add", bias=np.float32([1, 0, -1])), ROWS, [[2.0, 2.0, 2.0], [5.0, 5.0, 5.0]]),
    (Layer("nn.Add", bias=np.float32([1, 0, -1])), [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]),
    (Layer("nn.CMul", size=Longs([3]), weight=np.float32([1, 0, 2])), ROWS, [[1.0, 0.0, 6.0], [4.0, 0.0, 12.0]]),
    (Layer("nn.CMul", size=Longs([2, 3]), weight=np.full((2, 3), 2, "f4")), ROWS,
     [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]),
    (Layer("nn.CAdd", size=Longs([1, 3]), bias=np.float32([[1, 0, 2]])), ROWS, [[2.0, 2.0, 5.0], [5.0, 5.0, 8.0]]),
    (Layer("nn.AddConstant", constant_scalar=np.float32([1, 0, 2])), ROWS, [[2.0, 2.0, 5.0], [5.0, 5.0, 8.0]]),
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    by_hand(tmp_path, root, given, expected)


REFUSED = [
    (Layer("nn.AddConstant", constant_scalar=np.ones(2, "f4"), inplace=True), "in place is not supported"),
    (Layer("nn.MulConstant", constant_scalar=True), "expected a number as constant_scalar, got True"),
    (Layer("nn.CMul", size=Longs([2]), weight=np.ones(3, "f4")), "weight has shape (3,); expected (2,)"),
    (Layer("nn.CMul", size=Longs([-1, -2]), weight=np.ones(2, "f4")), "expected sizes from 1 as size, got [-1, -2]"),
    (Layer("nn.LinearNoBias", weight=np.ones(3, "f4")), "expected a matrix as weight"),
    (Layer("nn.Linear", weight=np.ones((0, 3), "f4")), "expected a matrix as weight"),
    (Layer("nn.Linear", weight=3), "expected a tensor of real numbers as weight, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "cause"), REFUSED, ids=lambda x: getattr(x, "class_name", ""))
def test_fields_that_make_no_sense(tmp_path, root, cause):
    refused(tmp_path, root, cause)
