"""Odd but genuine files: what is in each that Torch7 wrote, value by value. Networks: test_t7_variant_models."""

from pathlib import Path

import numpy as np
import pytest

from conversion.t7 import LuaFunction, Storage, Table, Tensor, load

VARIANTS = Path(__file__).parents[2] / "fixtures" / "variants"


def variant(name):
    return load(VARIANTS / f"{name}.t7")


def content(tensor):
    """dtype, shape, values."""
    array = tensor.numpy()
    assert (array.dtype, array.shape) == (tensor.dtype, tensor.shape)
    return array.dtype, array.shape, array.tolist()


def test_the_list_of_variants_is_covered():
    covered = "ascii be bin l32 boolkey cyc cyc_list func func_rec half holes keys list_tensors sizes views "
    covered += "dpt3_in l32_conv s_conv_used s_deepcopy s_flat s_plain s_sharedmod s_uncleared"
    assert {path.stem for path in VARIANTS.glob("*.t7")} == set(covered.split())


@pytest.mark.parametrize("name", ["bin", "be", "l32", "ascii"])
def test_one_table_in_each_encoding(name):
    root = variant(name)
    assert isinstance(root, Table)
    assert list(root) == ["a", "b", "c"]
    assert type(root["a"]) is int
    assert root["a"] == 1
    assert root["c"] == "str"
    assert root["b"].class_name == "torch.FloatTensor"
    assert content(root["b"]) == (np.float32, (2, 3), [[1, 2, 3], [4, 5, 6]])


def test_sizes_holds_every_type_of_tensor_but_float():
    root = variant("sizes")
    assert list(root) == ["is", "ls", "bs", "cs", "ds", "ss"]
    assert content(root["is"]) == (np.int32, (1,), [-4])
    assert content(root["bs"]) == (np.uint8, (2,), [1, 2])
    assert content(root["cs"]) == (np.int8, (2,), [-1, 2])
    assert content(root["ds"]) == (np.float64, (1,), [0.5])
    assert content(root["ss"]) == (np.int16, (1,), [-3])
    assert isinstance(root["ls"], Storage)
    assert root["ls"].class_name == "torch.LongStorage"
    assert content(root["ls"]) == (np.int64, (2,), [2, 3])


def test_half():
    tensor = variant("half")
    assert isinstance(tensor, Tensor)
    assert tensor.class_name == "torch.HalfTensor"
    assert (tensor.dtype, tensor.shape) == (np.float16, (3,))
    assert tensor.numpy().view(np.uint16).tolist() == [0x9CC0, 0x3C2A, 0x7F7C]  # never initialised; the last is a NaN
    assert tensor.numpy()[:2].tolist() == [-(1 + 0xC0 / 1024) / 256, 1 + 0x2A / 1024]


def test_views_over_one_storage():
    root = variant("views")
    assert content(root["base"]) == (np.float32, (3, 4), [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    assert content(root["t"]) == (np.float32, (4, 3), [[1, 5, 9], [2, 6, 10], [3, 7, 11], [4, 8, 12]])
    assert content(root["sel"]) == (np.float32, (3,), [2, 6, 10])
    assert content(root["nar"]) == (np.float32, (2, 4), [[5, 6, 7, 8], [9, 10, 11, 12]])
    assert content(root["exp"]) == (np.float32, (5,), [3, 3, 3, 3, 3])
    assert root["exp"].strides == (0,)
    assert root["base"].storage is root["t"].storage is root["sel"].storage is root["nar"].storage
    assert root["exp"].storage is not root["base"].storage


def test_list_of_tensors():
    root = variant("list_tensors")
    assert list(root) == [1, 2]
    assert [tensor.numpy().tolist() for tensor in root.as_list()] == [[1, 1], [2, 2]]


def test_holes_is_no_list():
    root = variant("holes")
    assert dict(root) == {3: "c", 1: "a"}


def test_keys_holds_a_table_as_key():
    ((key, value),) = variant("keys").items()
    assert isinstance(key, Table)
    assert dict(key) == {1: 1}
    assert value == "x"


def test_boolkey_is_true_and_not_one():
    root = variant("boolkey")
    assert [(type(key), key) for key in root] == [(bool, True)]
    assert root[True] == "x"
    assert 1 not in root
    assert root.get(1) is None


def test_cyc_returns_to_the_root():
    root = variant("cyc")
    assert list(root) == [1, "self"]
    assert root["self"] is root
    assert list(root[1]) == ["up"]
    assert root[1]["up"] is root


def test_cyc_list_returns_to_the_root():
    root = variant("cyc_list")
    assert list(root) == [1, 2]
    assert root[1]["up"] is root
    assert root[2] == "x"


def test_func_is_a_closure_with_its_upvalue():
    root = variant("func")
    assert list(root) == ["after", "f"]
    assert root["after"] == "ok"
    assert isinstance(root["f"], LuaFunction)
    assert root["f"].size == 59
    assert list(root["f"].upvalues) == [1]
    assert dict(root["f"].upvalues[1]) == {"name": "up", "value": 7, "id": 1}


def test_func_rec_is_its_own_upvalue():
    root = variant("func_rec")
    assert root["after"] == "ok"
    assert root["f"].size == 92
    assert dict(root["f"].upvalues[1]) == {"name": "rec", "value": root["f"], "id": 1}
