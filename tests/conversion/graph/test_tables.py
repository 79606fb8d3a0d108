"""Layers on lists: values by hand, and what is refused."""

import pytest
import torch

from tests.helpers.torch7_networks import Layer, build, by_hand, refused, seq, table

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

A, B, C = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[-5.0, 8.0]])
COLUMN, ROW = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 5.0])
ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


CASES = [
    (Layer("nn.CSubTable"), [A, B], (A - B).tolist()),
    (Layer("nn.CDivTable"), [A, B], (A / B).tolist()),
    (Layer("nn.CMaxTable"), [A, B, C], [[3.0, 8.0]]),
    (Layer("nn.CMinTable"), [A, B, C], [[-5.0, -2.0]]),
    (Layer("nn.CMulTable"), [A, B, C], [[-15.0, -64.0]]),
    (Layer("nn.JoinTable", dimension=-1), [A, B], [[1.0, -2.0, 3.0, 4.0]]),
    (seq(Layer("nn.SplitTable", dimension=-1), Layer("nn.SelectTable", index=2)), ROWS, [2.0, 5.0]),
    (seq(Layer("nn.SplitTable", dimension=1, nInputDims=1), Layer("nn.CAddTable")), ROWS, [6.0, 15.0]),
    (seq(Layer("nn.ReverseTable"), Layer("nn.SelectTable", index=1)), [A, B, C], C.tolist()),
    (seq(Layer("nn.NarrowTable", offset=2, length=2), Layer("nn.CSubTable")), [A, B, C], (B - C).tolist()),
    # equally many values in order, in the first one's shape
    (Layer("nn.CAddTable"), [COLUMN, ROW], [[4.0], [7.0]]),
    (Layer("nn.CAddTable", inplace=True), [ROW, COLUMN], [4.0, 7.0]),
    (Layer("nn.CSubTable"), [COLUMN, ROW], [[-2.0], [-3.0]]),
    (Layer("nn.CMulTable"), [COLUMN, ROW], [[3.0], [10.0]]),
    (Layer("nn.CDivTable"), [ROW, COLUMN], [3.0, 2.5]),
    (Layer("nn.CMaxTable"), [COLUMN, ROW], [[3.0], [5.0]]),
    (Layer("nn.CMinTable"), [COLUMN, ROW], [[1.0], [2.0]]),
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    by_hand(tmp_path, root, given, expected)


REFUSED = [
    (Layer("nn.SelectTable", index="name"), "expected a whole number as index, got 'name'"),
    (Layer("nn.SelectTable", index=0), "expected an index counted from 1"),
    (Layer("nn.NarrowTable", offset=0), "expected a whole number from 1 as offset, got 0"),
    (seq(table(), Layer("nn.SelectTable", index=1)), "no element 0 (from 0) in a list of 0"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "cause"), REFUSED, ids=lambda x: getattr(x, "class_name", ""))
def test_fields_that_make_no_sense(tmp_path, root, cause):
    refused(tmp_path, root, cause)


def test_tables_of_different_sizes_are_refused(tmp_path):
    """PyTorch would broadcast."""
    for kind in ("CAddTable", "CSubTable", "CMulTable", "CDivTable", "CMaxTable", "CMinTable"):
        with pytest.raises(RuntimeError, match="invalid for input of size 1"):
            build(tmp_path, Layer(f"nn.{kind}"))([A, torch.ones(1)])


@pytest.mark.parametrize("dim", [None, 2])
def test_mixture_table(tmp_path, dim):
    gate = torch.tensor([[0.25, 0.75], [1.0, -1.0]])
    experts = [torch.tensor([[4.0, 8.0], [1.0, 2.0]]), torch.tensor([[0.0, 4.0], [5.0, 7.0]])]
    module = build(tmp_path, Layer("nn.MixtureTable", dim=dim))
    expected = [[1.0, 5.0], [-4.0, -5.0]]
    assert module([gate, experts]).tolist() == expected
    assert module([gate, torch.stack(experts, 1)]).tolist() == expected
    assert build(tmp_path, Layer("nn.MixtureTable"))([gate[0], [x[0] for x in experts]]).tolist() == [1.0, 5.0]
