"""Against torchfile 0.1.0, an independent reading: the same values, the same graph, in every file that it can read."""

import lzma
from pathlib import Path

import numpy as np
import pytest
import torchfile

from conversion.t7 import LuaFunction, Storage, Table, Tensor, TorchObject, load

FIXTURES = Path(__file__).parents[2] / "fixtures"
# what torchfile refuses, or reads out of step
BEYOND_IT = {"ascii", "be", "l32", "l32_conv", "half", "func_rec", "dpt3_in"}
FOLDERS = ("layers", "models", "variants")
FILES = [path for folder in FOLDERS for path in sorted((FIXTURES / folder).glob("*.t7*")) if path.stem not in BEYOND_IT]


def same(ours, theirs, pairs):
    """Whether two values are the same; `pairs` holds the objects met so far, so that shapes of graphs are compared."""
    if isinstance(ours, (Table, TorchObject, LuaFunction)):
        if id(ours) in pairs or id(theirs) in pairs.values():
            return pairs.get(id(ours)) == id(theirs)
        pairs[id(ours)] = id(theirs)
    if isinstance(ours, TorchObject):
        assert (ours.class_name.encode(), ours.version) == (theirs.torch_typename(), theirs._version_number)
        return same_fields(ours, theirs._obj, pairs)
    if isinstance(ours, Table):
        return same_fields(ours, theirs, pairs)
    if isinstance(ours, (Tensor, Storage)):
        array = ours.numpy()
        return array.dtype == theirs.dtype and np.array_equal(array, theirs, equal_nan=array.dtype.kind == "f")
    if isinstance(ours, LuaFunction):
        return ours.size == theirs.size and same(ours.upvalues, theirs.upvalues, pairs)
    if isinstance(ours, str):
        return ours.encode("utf-8", "surrogateescape") == theirs
    return type(ours) is type(theirs) and ours == theirs


def same_fields(ours, theirs, pairs):
    assert len(ours) == len(theirs)
    for (our_key, our_value), (their_key, their_value) in zip(ours.items(), theirs.items(), strict=True):
        assert same(our_key, their_key, pairs)
        assert same(our_value, their_value, pairs), our_key
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.partition(".")[0])
def test_agrees_with_torchfile(path, tmp_path):
    if path.suffix == ".xz":
        data = lzma.decompress(path.read_bytes())
        path = tmp_path / path.stem
        path.write_bytes(data)
    theirs = torchfile.load(path, use_list_heuristic=False)
    assert same(load(path), theirs, {})


def test_the_comparison_has_files_to_compare():
    assert {path.parent.name for path in FILES} == set(FOLDERS)
