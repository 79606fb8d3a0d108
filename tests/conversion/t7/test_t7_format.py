"""Sound Torch7 streams, item by item, in each of the encodings that Torch7 writes."""

import math

import numpy as np
import pytest

from conversion.t7 import LuaFunction, Storage, Table, Tensor, TorchObject
from tests.conversion.t7.t7_writer import DTYPES, ENCODINGS, FUNCTION, LEGACY_FUNCTION, OLD_FUNCTION, TABLE, TORCH, read


@pytest.fixture(params=ENCODINGS)
def w(request):
    """A writer of each encoding."""
    return ENCODINGS[request.param]


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (0.0, 0),
        (1.0, 1),
        (-7.0, -7),
        (2.0**53 - 1, 2**53 - 1),
        (2.0**53, 2.0**53),  # stands for other integers too
        (-(2.0**53), -(2.0**53)),
        (1e300, 1e300),
        (0.1, 0.1),
        (5e-324, 5e-324),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
    ],
)
def test_whole_numbers_are_int_and_others_float(w, tmp_path, number, value):
    root = read(tmp_path, w.number(number))
    assert (type(root), root) == (type(value), value)


def test_minus_zero_and_nan_stay_float(w, tmp_path):
    root = read(tmp_path, w.table(1, w.number(-0.0), w.number(math.nan)))
    assert (type(root[1]), math.copysign(1, root[1])) == (float, -1)
    assert math.isnan(root[2])


@pytest.mark.parametrize("text", [b"", b"plain", "Größe".encode(), b"\xff\x00\xed\xa0\x80", b"two\nlines\n", b"7"])
def test_strings_are_bytes_in_utf8_with_surrogateescape(w, tmp_path, text):
    root = read(tmp_path, w.table(1, w.string(text), w.number(5)))
    assert root[1] == text.decode("utf-8", "surrogateescape")
    assert root[1].encode("utf-8", "surrogateescape") == text
    assert root[2] == 5


def test_nil_and_booleans(w, tmp_path):
    assert read(tmp_path, w.nil) is None
    assert read(tmp_path, w.boolean(1)) is True
    assert read(tmp_path, w.boolean(0)) is False


def test_keys_of_every_kind_stay_apart(w, tmp_path):
    key = w.table(2)
    named = [w.number(1), w.boolean(1), w.string("1"), w.number(0), w.boolean(0), w.number(0.5), w.string(b"\xff"), key]
    root = read(tmp_path, w.fields(1, *((key, w.number(10 + i)) for i, key in enumerate(named))))
    assert len(root) == 8
    assert [type(key) for key in root] == [int, bool, str, int, bool, float, str, Table]
    assert (root[1], root[True], root["1"], root[0], root[False], root[0.5]) == (10, 11, 12, 13, 14, 15)
    assert root["\udcff"] == 16
    assert root[list(root)[7]] == 17
    assert list(root.values()) == list(range(10, 18))


def test_a_nil_value_is_an_absent_key(w, tmp_path):
    root = read(tmp_path, w.table(1, w.nil, w.number(2), bias=w.nil))
    assert dict(root) == {2: 2}
    assert "bias" not in root


def test_the_smallest_entry_is_read(w, tmp_path):
    assert len(read(tmp_path, w.fields(1, (w.boolean(1), w.nil)))) == 0


def test_tables_are_shared_and_may_hold_themselves(w, tmp_path):
    inner = w.table(2, up=w.ref(TABLE, 1))
    root = read(tmp_path, w.table(1, inner, w.ref(TABLE, 2), w.table(3)))
    assert root[1] is root[2]
    assert root[1]["up"] is root
    assert isinstance(root[3], Table)
    assert len(root[3]) == 0
    assert root[3] != root[1]


@pytest.mark.parametrize("cuda", ["", "Cuda"])
@pytest.mark.parametrize("kind", DTYPES)
def test_tensors_of_every_type(w, tmp_path, kind, cuda):
    dtype = np.dtype(DTYPES[kind])
    small = w.long_size == 4 and kind == "Long"
    limits = np.iinfo("i4" if small else dtype) if dtype.kind in "iu" else np.finfo(dtype)
    values = np.array([limits.min, limits.max, 0, 10, 32], dtype)  # 10 is a newline in a storage of bytes, 32 a space
    root = read(tmp_path, w.table(1, w.vector(2, kind, values, cuda=cuda), w.string("after")))
    tensor = root[1]
    assert isinstance(tensor, Tensor)
    assert tensor.class_name == f"torch.{cuda}{'' if cuda and kind == 'Float' else kind}Tensor"
    assert (tensor.dtype, tensor.shape, tensor.numel) == (dtype, (5,), 5)
    assert tensor.numpy().dtype == tensor.copy().dtype == dtype
    assert tensor.numpy().tolist() == tensor.copy().tolist() == values.tolist()
    assert root[2] == "after"


def test_not_a_number_and_infinity_in_a_storage(w, tmp_path):
    values = read(tmp_path, w.vector(1, "Float", [math.inf, -math.inf, math.nan, -0.0])).numpy()
    assert np.array_equal(values, np.float32([math.inf, -math.inf, math.nan, 0]), equal_nan=True)
    assert np.signbit(values[3])


def test_a_storage_by_itself(w, tmp_path):
    # the tensor ahead tells the size of a long
    root = read(tmp_path, w.table(1, w.vector(2, "Char", [1]), w.storage(4, "Int", [3, -4]), w.storage(5, "Byte", [])))
    assert isinstance(root[2], Storage)
    assert (root[2].class_name, root[2].dtype, root[2].shape) == ("torch.IntStorage", np.int32, (2,))
    assert root[2].numpy().tolist() == [3, -4]
    assert root[3].numpy().tolist() == []


# shape, strides, offset as the file counts it, and the values of the storage 0 1 2 3 4 5 that are seen, in order
VIEWS = {
    "all": ([2, 3], [3, 1], 1, [0, 1, 2, 3, 4, 5]),
    "transposed": ([3, 2], [1, 3], 1, [0, 3, 1, 4, 2, 5]),
    "narrowed": ([2, 2], [3, 1], 2, [1, 2, 4, 5]),
    "last element": ([1], [1], 6, [5]),
    "expanded": ([2, 3], [0, 1], 4, [3, 4, 5, 3, 4, 5]),
    "overlapping": ([3, 2], [1, 1], 1, [0, 1, 1, 2, 2, 3]),
    "backwards": ([6], [-1], 6, [5, 4, 3, 2, 1, 0]),
    "size 1, any stride": ([1, 2], [-999, 1], 5, [4, 5]),
    "size 0": ([0, 3], [3, 1], 1, []),
    "size 0, out of reach": ([2, 0], [99, 99], 99, []),
    "64 dimensions": ([1] * 63 + [2], [0] * 63 + [3], 2, [1, 4]),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_a_storage(w, tmp_path, view):
    shape, strides, offset, values = VIEWS[view]
    for kind in ("Byte", "Long"):
        tensor = read(tmp_path, w.tensor(1, kind, shape, strides, w.storage(2, kind, range(6)), offset=offset))
        assert (tensor.shape, tensor.strides, tensor.offset) == (tuple(shape), tuple(strides), offset - 1)
        for array in (tensor.numpy(), tensor.copy()):
            assert array.shape == tuple(shape)
            assert array.ravel().tolist() == values


@pytest.mark.parametrize("stride", [2**63 - 1, -(2**63)])
def test_the_stride_of_a_size_of_1_may_be_any_number(tmp_path, stride):
    w = ENCODINGS["little"]
    tensor = read(tmp_path, w.tensor(1, "Double", [1, 2], [stride, 1], w.storage(2, "Double", [1, 2])))
    assert tensor.numpy().tolist() == tensor.copy().tolist() == [[1, 2]]


@pytest.mark.parametrize("storage", ["none", "empty", "full"])
def test_a_tensor_of_no_dimensions_is_empty(w, tmp_path, storage):
    body = {"none": w.nil, "empty": w.storage(2, "Double", []), "full": w.storage(2, "Double", [1, 2])}
    tensor = read(tmp_path, w.tensor(1, "Double", [], [], body[storage]))
    assert (tensor.shape, tensor.numel) == ((0,), 0)
    assert (tensor.numpy().dtype, tensor.numpy().tolist(), tensor.copy().tolist()) == (np.float64, [], [])


def test_an_empty_long_tensor_keeps_its_type(w, tmp_path):
    assert read(tmp_path, w.tensor(1, "Long", [], [], w.nil)).numpy().dtype == np.int64


def test_objects_with_and_without_a_version(w, tmp_path):
    old = w.torch(1, "nn.Linear", w.table(2, train=w.boolean(1)), version=None)
    for version, data in [(0, old), (1, w.object(1, "nn.Linear", train=w.boolean(1)))]:
        root = read(tmp_path, data)
        assert isinstance(root, TorchObject)
        assert (root.class_name, root.version, root.preamble) == ("nn.Linear", version, None)
        assert dict(root) == dict(root.fields) == {"train": True}
    assert read(tmp_path, w.torch(1, "a.b.C_2", w.table(2), version="V 123456")).version == 123456


def test_objects_are_shared_and_may_hold_themselves(w, tmp_path):
    weight = w.vector(4, "Float", [1, 2])
    first = w.object(2, "nn.Linear", weight=weight, me=w.ref(TORCH, 2), body=w.ref(TABLE, 3))
    second = w.object(6, "nn.Linear", weight=w.ref(TORCH, 4))
    root = read(tmp_path, w.table(1, first, second, w.ref(TORCH, 2)))
    assert root[3] is root[1]
    assert root[1]["me"] is root[1]["body"] is root[1]
    assert root[1]["weight"] is root[2]["weight"]


def test_the_body_of_a_data_parallel_table(w, tmp_path):
    name, fields = "nn.DataParallelTable", {"dimension": w.number(1)}
    root = read(tmp_path, w.torch(1, name, w.table(2, **fields), version="V 1"))
    assert (root.preamble, dict(root)) == (None, {"dimension": 1})
    gpus = w.table(2, w.number(3))
    root = read(tmp_path, w.torch(1, name, gpus + w.table(3, **fields), version="V 2"))
    assert (dict(root.preamble), dict(root)) == ({1: 3}, {"dimension": 1})
    assert root.preamble.path == "<gpus>"


@pytest.mark.parametrize("kind", [LEGACY_FUNCTION, FUNCTION])
def test_functions_are_remembered_before_their_upvalues(w, tmp_path, kind):
    function = w.function(2, b"\x1bLJ code", w.table(3, w.ref(kind, 2)), kind=kind)
    root = read(tmp_path, w.table(1, function, w.ref(kind, 2), w.table(4)))
    assert isinstance(root[1], LuaFunction)
    assert root[1].size == 8
    assert root[1].upvalues[1] is root[1] is root[2]


def test_functions_of_type_6_have_no_index(w, tmp_path):
    function = w.function(0, b"code\n", w.table(2, w.number(5)), kind=OLD_FUNCTION)
    root = read(tmp_path, w.table(1, function, w.table(3)))
    assert (root[1].size, dict(root[1].upvalues)) == (5, {1: 5})
    assert isinstance(root[2], Table)
