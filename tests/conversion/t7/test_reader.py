"""Torch7 streams, item by item and in every encoding: sound ones, damaged ones, and what hostile ones can cost."""

import inspect
import lzma
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conversion import t7
from conversion.t7 import LuaFunction, Storage, Table, Tensor, TorchObject, reader
from conversion.t7.objects import Source
from tests.helpers.recorded import FIXTURES, ROOT
from tests.helpers.torch7_writer import (
    DTYPES,
    ENCODINGS,
    FUNCTION,
    LEGACY_FUNCTION,
    NUMBER,
    OLD_FUNCTION,
    STRING,
    TABLE,
    TORCH,
    AsciiWriter,
    Writer,
    read,
    refusal,
    write,
)

W, A = Writer(), AsciiWriter()


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
        assert dict(root) == {"train": True}
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


# --- one fault each: where it is said to be, and what ---


def faults(w):
    """name -> what comes before the fault, the fault and what follows, the object path, the cause."""
    root = w.ref(TABLE, 1)
    # A table that claims nine entries; the value at [1] comes next, as object 4. By the tensor at [0] the reader can
    # tell the size of a long.
    first = root + w.int(9) + w.number(0) + w.vector(2, "Float", [5]) + w.number(1)
    filler = w.string("x" * 200)  # so that there are bytes left for the entries
    float_tensor = first + w.ref(TORCH, 4) + w.text("V 1") + w.text("torch.FloatTensor")
    float_storage = first + w.ref(TORCH, 4) + w.text("V 1") + w.text("torch.FloatStorage")
    object_head = w.ref(TORCH, 4) + w.text("V 1") + w.text("nn.Linear")
    pair = w.storage(5, "Float", [1, 2])
    vector = float_tensor + w.int(1) + w.long(2) + w.long(1)
    matrix = float_tensor + w.int(2) + w.long(2, 3) + w.long(3, 1)
    return {
        # values
        "type 9": (first, w.int(9) + filler, "[1]", "unknown type 9; expected 0 to 8"),
        "type -1": (first, w.int(-1) + filler, "[1]", "unknown type -1"),
        "boolean 2": (first + w.int(5), w.int(2) + filler, "[1]", "expected a boolean (0 or 1), got 2"),
        "string length -1": (first + w.int(STRING), w.int(-1) + filler, "[1]", "negative length -1 of a string"),
        "string too long": (first + w.int(STRING), w.int(999) + filler, "[1]", "a string needs 999 bytes"),
        # tables
        "table size -5": (root, w.int(-5) + filler, "", "negative table size -5"),
        "table size 2^31-1": (root, w.int(2**31 - 1) + filler, "", "a table of 2147483647 entries; the"),
        "table too large by one": (root, w.int(2) + w.string("a"), "", "a table of 2 entries; the"),
        "nil key": (root + w.int(1), w.nil + filler, "", "a table key is nil or NaN"),
        "NaN key": (root + w.int(1) + w.int(NUMBER), w.double(float("nan")) + filler, "", "a table key is nil or NaN"),
        "same key": (
            root + w.int(9) + w.string("k") + w.boolean(1) + w.int(STRING),
            w.text("k") + filler,
            "",
            "the key k appears twice in one table",
        ),
        # indices
        "index 2 first": (w.int(TABLE), w.int(2) + w.int(0), "", "object index 2; expected 1 or one seen before"),
        "index 0": (w.int(TABLE), w.int(0) + w.int(0), "", "object index 0; expected 1"),
        "index -1": (w.int(TORCH), w.int(-1) + filler, "", "object index -1; expected 1"),
        "index skipped": (first + w.int(TABLE), w.int(5) + filler, "[1]", "object index 5; expected 4"),
        "table seen, function meant": (
            first + w.int(FUNCTION),
            w.int(1) + filler,
            "[1]",
            "object 1 is of type 3, referred to as type 8",
        ),
        "table seen, object meant": (
            first + w.int(TORCH),
            w.int(1) + filler,
            "[1]",
            "of type 3, referred to as type 4",
        ),
        "object seen, table meant": (
            first + object_head + w.table(5) + w.number(2) + w.int(TABLE),
            w.int(4) + filler,
            "[2]",
            "of type 4, referred to as type 3",
        ),
        "function 8 seen, 7 meant": (
            first + w.function(4, b"", w.table(5)) + w.number(2) + w.int(LEGACY_FUNCTION),
            w.int(4) + filler,
            "[2]",
            "of type 8, referred to as type 7",
        ),
        # objects
        "version x": (w.ref(TORCH, 1), w.text("V x") + filler, "", "expected a version such as 'V 1', got 'V x'"),
        "version too long": (w.ref(TORCH, 1), w.text("V 1234567") + filler, "", "expected a version such as 'V 1'"),
        "no class name": (w.ref(TORCH, 1) + w.text("V 1"), w.text("") + filler, "", "expected a class name such as"),
        "class name of bytes": (
            w.ref(TORCH, 1) + w.text("V 1"),
            w.text(b"nn.\xff") + filler,
            "",
            r"expected a class name such as nn.Linear, got 'nn.\\xff'",
        ),
        "class name too long": (w.ref(TORCH, 1), w.text("a" * 201) + filler, "", "expected a class name such as"),
        "class name of length -1": (w.ref(TORCH, 1), w.int(-1) + filler, "", "negative length -1 of a version"),
        "body is a number": (first + object_head, w.number(5) + filler, "[1]", "the fields of nn.Linear as a table"),
        "body is nil": (first + object_head, w.nil + filler, "[1]", "the fields of nn.Linear as a table"),
        "body seen before": (
            first + object_head + w.int(TABLE),
            w.int(1) + filler,
            "[1]",
            "the fields of nn.Linear as a new table (index 5), got 1",
        ),
        **{
            name: (w.ref(TORCH, 1) + w.text("V 1"), w.text(name) + filler, "", cause)
            for name, cause in {
                "torch.Tensor": "torch.Tensor is not a class that is stored",
                "torch.Storage": "torch.Storage is not a class that is stored",
                "torch.Generator": "torch.Generator has its own format",
                "torch.MultiTensor": "torch.MultiTensor has its own format",
                "tds.Hash": "tds.Hash has its own format",
            }.items()
        },
        # functions
        "code of length -1": (
            first + w.ref(FUNCTION, 4),
            w.int(-1) + filler,
            "[1]",
            "negative length -1 of the byte code",
        ),
        "code cut short": (
            first + w.int(OLD_FUNCTION),
            w.int(999) + filler,
            "[1]",
            "byte code of a function needs 999",
        ),
        "upvalues are a string": (
            first + w.ref(FUNCTION, 4) + w.text("code") + w.int(STRING),
            w.text("up") + filler,
            "[1]",
            "expected the upvalues of a function as a table",
        ),
        # storages
        "storage of -1": (float_storage, w.long(-1) + filler, "[1]", "negative storage size -1"),
        "storage of 2^31-1": (float_storage, w.long(2**31 - 1) + filler, "[1]", "a storage of 2147483647 values"),
        "storage cut short": (float_storage, w.long(1000) + filler, "[1]", "a storage of 1000 values"),
        # tensors
        "-1 dimensions": (float_tensor, w.int(-1) + filler, "[1]", "-1 dimensions; expected 0 to 64"),
        "65 dimensions": (float_tensor, w.int(65) + filler, "[1]", "65 dimensions; expected 0 to 64"),
        "2^30 dimensions": (float_tensor, w.int(2**30) + filler, "[1]", "1073741824 dimensions"),
        "offset 0": (vector, w.long(0) + pair + filler, "[1]", "storage offset 0; it counts from 1"),
        "offset -1": (vector, w.long(-1) + pair + filler, "[1]", "storage offset -1; it counts from 1"),
        "offset 0, no dimensions": (float_tensor + w.int(0), w.long(0) + w.nil + filler, "[1]", "storage offset 0"),
        "offset too large": (vector, w.long(2) + pair + filler, "[1]", "reach elements 2 to 3 of a storage of 2"),
        "size too large": (matrix, w.long(1) + pair + filler, "[1]", "reach elements 1 to 6 of a storage of 2"),
        "size of -2": (
            float_tensor + w.int(2) + w.long(-2, -2) + w.long(0, 0),
            w.long(1) + pair + filler,
            "[1]",
            "negative size in shape [-2, -2]",
        ),
        "stride too large": (
            float_tensor + w.int(1) + w.long(2) + w.long(2**31 - 1),
            w.long(1) + pair + filler,
            "[1]",
            "shape [2], strides [2147483647], offset 1 reach elements 1 to 2147483648 of a storage of 2",
        ),
        "stride too negative": (
            float_tensor + w.int(1) + w.long(3) + w.long(-1),
            w.long(2) + pair + filler,
            "[1]",
            "reach elements 0 to 2 of a storage of 2",
        ),
        "no storage": (vector, w.long(1) + w.nil + filler, "[1]", "a tensor of shape [2] without a storage"),
        "empty storage": (vector, w.long(1) + w.storage(5, "Float", []) + filler, "[1]", "of a storage of 0"),
        "storage of another type": (
            vector,
            w.long(1) + w.storage(5, "Double", [1, 2]) + filler,
            "[1]",
            "torch.FloatTensor over <torch.DoubleStorage of 2>; expected torch.FloatStorage",
        ),
        "storage on the other side": (
            vector,
            w.long(1) + w.storage(5, "Float", [1, 2], cuda="Cuda") + filler,
            "[1]",
            "torch.FloatTensor over <torch.CudaStorage of 2>; expected torch.FloatStorage",
        ),
        "storage is itself": (vector, w.long(1) + w.ref(TORCH, 4) + filler, "[1]", "torch.FloatTensor over <torch.Fl"),
        "storage is a string": (vector, w.long(1) + filler * 2, "[1]", "torch.FloatTensor over a value of type str"),
        "storage is a table": (vector, w.long(1) + w.ref(TABLE, 1) + filler, "[1]", "over <table of 1 at the root>"),
        "2^40 elements": (
            float_tensor + w.int(4) + w.long(2**10, 2**10, 2**10, 2**10) + w.long(0, 0, 0, 0),
            w.long(1) + pair + filler,
            "[1]",
            "expected at most 4294967296 elements",
        ),
        # the end
        "trailing bytes": (w.table(1, w.number(5)), b"left over", "", "9 bytes are left after the root object"),
    }


@pytest.mark.parametrize("name", faults(Writer()))
def test_refused_at_its_place_in_every_encoding(tmp_path, name):
    for encoding, writer in ENCODINGS.items():
        before, fault, object_path, cause = faults(writer)[name]
        error = refusal(tmp_path, before + fault)
        assert (error.offset, error.object_path) == (len(before), object_path), encoding
        assert cause in error.cause, encoding


@pytest.mark.parametrize("count", [2**40, 2**62, 2**63 - 1])
def test_a_storage_of_any_size_is_compared_with_what_is_left(tmp_path, count):
    error = refusal(tmp_path, Writer().storage(1, "Double", [1, 2], size=count))
    assert error.cause == f"truncated or damaged: a storage of {count} values needs {8 * count} bytes, 16 are left"


# --- whole files that are refused ---

FOREIGN = {
    "a PNG image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a JPEG image": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "a zip archive (PyTorch's .pth": b"PK\x03\x04\0\0\0\0",
    "a Python pickle (an old PyTorch .pth file?)": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    "a Python pickle": b"\x80\x04\x95\x05\0\0\0\0\0\0\0",
    "a gzip archive; unpack it first": b"\x1f\x8b\x08\0\0\0\0\0",
    "an xz archive; unpack it first": b"\xfd7zXZ\0\0\x04",
    "a bzip2 archive; unpack it first": b"BZh91AY&SY",
    "a Zstandard archive; unpack it first": b"\x28\xb5\x2f\xfd\x04\x58",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "a numpy array": b"\x93NUMPY\x01\0",
    "a Git LFS pointer; fetch the file itself": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "an HTML or XML page": b"<!DOCTYPE html><title>404</title>",
    "an HTML or XML page (a failed download?)": b"\xef\xbb\xbf \r\n<html>",
    "a JSON text": b'\n{"a": 1}',
    "a safetensors file": (64).to_bytes(8, "little") + b'{"__metadata__":{}}',
    "nothing known, starts with b'hello wo'": b"hello world",
    "nothing known, starts with b'\\t\\x00\\x00\\x00": W.int(9) + bytes(60),
    "nothing known, starts with b'9\\n1'": b"9\n1",
    "nothing known, starts with b'\\x03\\x00\\x00'": b"\3\0\0",
    "nothing known, starts with b'3'": b"3",
    "nothing known, starts with b' '": b" ",
}


@pytest.mark.parametrize("looks", FOREIGN)
def test_other_files_are_named(tmp_path, looks):
    error = refusal(tmp_path, FOREIGN[looks])
    assert (error.offset, error.object_path) == (0, "")
    assert error.cause.startswith(f"not a Torch7 file: looks like {looks}")


def test_an_empty_file_is_refused(tmp_path):
    error = refusal(tmp_path, b"")
    assert (error.offset, error.cause) == (0, "not a Torch7 file: it is empty")


SMALL = sorted(path for path in (FIXTURES / "variants").glob("*.t7") if path.stat().st_size < 800)


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_cut_anywhere_a_file_is_refused(tmp_path, path):
    data = path.read_bytes()
    for size in range(len(data)):
        refusal(tmp_path, data[:size])


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_with_what_is_no_object_behind_it_a_file_is_refused(tmp_path, path):
    data = path.read_bytes()
    for rest in (b"\0", b"\n", bytes(64), b"left over", data[:-1], data + bytes(4)):
        error = refusal(tmp_path, data + rest)
        assert error.offset == len(data)
        assert error.cause.startswith(f"{len(rest)} bytes are left after the root object; expected none, or whole obj")


def note(size):
    return f"read only the first object, as Lua's torch.load does; left out {size} bytes of further objects"


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_the_first_of_two_files_joined_is_read_and_the_rest_noted(tmp_path, path):
    joined = write(tmp_path, path.read_bytes() * 2)
    root, notes = t7.load_with_notes(joined)
    assert notes == [note(path.stat().st_size)]
    assert repr(root) == repr(t7.load(path)) == repr(t7.load(joined))
    assert t7.load_with_notes(path)[1] == []


def test_the_first_of_several_objects_is_read_and_the_rest_noted(tmp_path, w):
    """As `writeObject` leaves them when it is called again: the indices go on counting."""
    model = w.object(1, "nn.Linear", weight=w.vector(3, "Float", [1, 2]))
    view = w.tensor(6, "Float", [2], [1], w.ref(TORCH, 4))
    rest = w.table(5, w.ref(TORCH, 1), view) + w.ref(TORCH, 1) + w.number(90)
    root, notes = t7.load_with_notes(write(tmp_path, model + rest))
    assert (root.class_name, root["weight"].numpy().tolist()) == ("nn.Linear", [1, 2])
    assert notes is root.source.notes
    assert notes == [note(len(rest))]
    assert t7.load_with_notes(write(tmp_path, w.number(90) + model)) == (90, [note(len(model))])


def test_expanded_views_in_what_is_left_out_do_not_count(tmp_path):
    large = W.tensor(4, "Float", [2**26], [0], W.storage(5, "Float", [1]))
    small = W.tensor(2, "Float", [3], [0], W.storage(3, "Float", [7]))
    assert read(tmp_path, W.table(1, small) + large)[1].numpy().tolist() == [7, 7, 7]


def test_cut_in_its_last_storage_a_model_is_refused_at_that_storage(tmp_path):
    data = lzma.decompress((FIXTURES / "models" / "cifar100_resnet11.t7.xz").read_bytes())
    error = refusal(tmp_path, data[:-200])
    assert error.object_path.endswith(".<storage>")
    assert error.cause.startswith("truncated or damaged: a storage of ")
    assert error.cause.endswith(f" bytes, {len(data) - 200 - error.offset - 8} are left")


def test_a_file_that_is_cut_short_meanwhile_is_refused(tmp_path, monkeypatch):
    identify = Source.identify
    monkeypatch.setattr(Source, "identify", lambda status: (status.st_size + 9, *identify(status)[1:]))
    path = tmp_path / "file.t7"
    path.write_bytes(W.string("abc")[:-1])
    with pytest.raises(t7.T7Error, match="byte 4: the file was cut short while it was read"):
        t7.load(path)


def test_a_storage_that_lacks_4_bytes_is_not_taken_for_one_of_4_byte_longs(tmp_path):
    error = refusal(tmp_path, W.storage(1, "Float", [1, 2, 3])[:-4])
    assert "a storage of 3 values needs 12 bytes, 8 are left" in error.cause


@pytest.mark.parametrize("long_size", [4, 8])
def test_of_the_two_sizes_of_a_long_the_error_is_of_the_one_that_got_further(tmp_path, long_size):
    w = Writer("<", long_size)
    head = w.ref(TABLE, 1) + w.int(2) + w.number(1) + w.vector(2, "Float", [1, 2]) + w.number(2) + w.int(5)
    error = refusal(tmp_path, head + w.int(7) + bytes(500))
    assert (error.offset, error.object_path) == (len(head), "[2]")
    assert error.cause == "expected a boolean (0 or 1), got 7"
    # the fault lies before the place where the other reading stops, but was found behind it
    head = w.ref(TORCH, 1) + w.text("V 1") + w.text("torch.FloatTensor") + w.int(1) + w.long(2) + w.long(1)
    error = refusal(tmp_path, head + w.long(0) + w.storage(2, "Float", [1, 2]))
    assert (error.offset, error.cause) == (len(head), "storage offset 0; it counts from 1")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_object_path_leads_to_the_fault(tmp_path, encoding):
    w = ENCODINGS[encoding]
    head = w.ref(TORCH, 1) + w.text("V 1") + w.text("nn.Sequential") + w.ref(TABLE, 2) + w.int(1)
    head += w.string("modules") + w.ref(TABLE, 3) + w.int(2) + w.number(4) + w.vector(4, "Float", [1]) + w.number(5)
    head += w.ref(TORCH, 6) + w.text("V 1") + w.text("nn.ConcatTable") + w.ref(TABLE, 7) + w.int(1)
    head += w.string("modules") + w.ref(TABLE, 8) + w.int(1) + w.number(1)
    head += w.ref(TORCH, 9) + w.text("V 1") + w.text("nn.Linear") + w.ref(TABLE, 10) + w.int(1) + w.string("weight")
    tensor = w.ref(TORCH, 11) + w.text("V 1") + w.text("torch.FloatTensor") + w.int(1) + w.long(3) + w.long(1)
    bad_offset = w.long(0) + w.storage(12, "Float", [1, 2, 3])
    error = refusal(tmp_path, head + tensor + bad_offset)
    assert (error.offset, error.object_path) == (len(head + tensor), "modules[5].modules[1].weight")
    bad_storage = w.long(1) + w.ref(TORCH, 12) + w.text("V 1") + w.text("torch.FloatStorage")
    error = refusal(tmp_path, head + tensor + bad_storage + w.long(-3))
    assert error.offset == len(head + tensor + bad_storage)
    assert error.object_path == "modules[5].modules[1].weight.<storage>"


ASCII_FAULTS = {
    "no number": (A.int(1), b"one\n", "expected a number, got b'one\\n'"),
    "grouped digits": (A.int(1), b"1_0\n", "expected a number, got b'1_0\\n'"),
    "no int": (A.int(5), b"1.0\n", "expected an int, got b'1.0\\n'"),
    "no newline": (A.int(1), b"1" * 100, "expected a number and a newline, got b'111111"),
    "no newline after a string": (A.int(2), b"3\nabc2", "expected a newline after a string"),
    "too few sizes": (
        A.ref(TORCH, 1) + A.text("torch.ByteTensor") + A.int(2),
        b"3\n1 1\n1\n0\n",
        "expected 2 longs, got 1",
    ),
    "sizes that are no numbers": (
        A.ref(TORCH, 1) + A.text("torch.ByteTensor") + A.int(2),
        b"3 x\n1 1\n1\n0\n",
        "expected a long, got b'x'",
    ),
    "fewer bytes than values": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"3\n7 7 7",
        "a storage of 3 values needs 6 bytes, 5 are left",
    ),
    "too few values": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"3\n70 700\n",
        "a storage of 3 values holds 2",
    ),
    "too many values": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"3\n7 7 7 7\n",
        "a storage of 3 values holds 4",
    ),
    "values that do not end": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"3\n70 70 70",
        "truncated: the values of the storage do not end in a newline",
    ),
    "a value that does not end": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"1\n" + b"7" * 50,
        "truncated: the values of the storage do not end in a newline",
    ),
    "bytes that do not end": (
        A.ref(TORCH, 1) + A.text("torch.ByteStorage"),
        b"3\nabcd\n",
        "expected a newline after a storage of 3 values",
    ),
}


@pytest.mark.parametrize("name", ASCII_FAULTS)
def test_ascii_is_refused_at_its_place(tmp_path, name):
    before, fault, cause = ASCII_FAULTS[name]
    error = refusal(tmp_path, before + fault)
    assert (error.offset, error.object_path) == (len(before), "")
    assert cause in error.cause


@pytest.mark.parametrize("encode", [str, os.fsencode, Path], ids=["str", "bytes", "Path"])
def test_a_path_of_every_kind_is_read(tmp_path, encode):
    path = tmp_path / "ünïcode.t7"
    path.write_bytes(W.number(3))
    assert t7.load(encode(str(path))) == 3


UNREADABLE = {
    "missing": "cannot be read: No such file or directory",
    "folder": "expected a file, got a directory or a device",
    "pipe": "expected a file, got a directory or a device",
    "/dev/zero": "expected a file, got a directory or a device",
    "file/below": "cannot be read: Not a directory",
    "loop": "cannot be read: Too many levels of symbolic links",
    "x" * 5000: "cannot be read: File name too long",
    "a\0b": "not a path: embedded null byte",
    "\ud800": "not a path: 'utf-8' codec can't encode",
}


@pytest.mark.parametrize("name", UNREADABLE, ids=lambda name: ascii(name[:20]))
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    path = str(tmp_path / name)
    with pytest.raises(t7.T7Error) as caught:
        t7.load(path)
    error = caught.value
    assert error.path in (path, repr(path))
    assert (error.offset, error.object_path) == (None, "")
    assert error.cause.startswith(UNREADABLE[name])
    assert str(error) == f"{error.path}: {error.cause}"


# --- what a hostile file can cost ---


def nested(depth, kind="table"):
    """`depth` tables, objects or (functions in tables) one inside the other, inside the root."""
    data = W.nil
    for level in range(depth, 0, -1):
        if kind == "object":
            data = W.torch(2 * level, "nn.Sequential", W.table(2 * level + 1, data))
        elif kind == "function":
            data = W.table(level + 1, data) if level % 2 else W.function(level + 1, b"", data)
        else:
            data = W.table(level + 1, data)
    return W.table(1, data)


@pytest.mark.parametrize("kind", ["table", "object", "function"])
def test_200_levels_below_the_root_are_read(tmp_path, kind):
    value, depth = read(tmp_path, nested(199, kind)), 0
    while value is not None:
        value = value.upvalues if isinstance(value, t7.LuaFunction) else value.get(1)
        depth += 1
    assert depth == 200


@pytest.mark.parametrize("kind", ["table", "object", "function"])
@pytest.mark.parametrize("depth", [201, 5000])
def test_more_levels_are_refused(tmp_path, kind, depth):
    error = refusal(tmp_path, nested(depth, kind))
    assert error.cause == "nested more than 200 levels deep; ResNeXt-50 needs 22"
    assert error.object_path.startswith("[1][1][1]" if kind != "function" else "[1][1].<upvalues>[1].<up")


def test_the_recursion_limit_of_python_is_reported(tmp_path):
    path = write(tmp_path, nested(150))

    def at_depth(frames):
        return at_depth(frames - 1) if frames else t7.load(path)

    used = len(inspect.stack(0))
    with pytest.raises(t7.T7Error, match=r"nested too deep for Python's recursion limit, at depth \d+") as caught:
        at_depth(sys.getrecursionlimit() - used - 100)
    error = caught.value
    assert error.path == str(path)
    assert error.object_path.startswith("[1][1][1]")
    assert error.offset > 0


LIMITS = {
    "values": ("MAX_VALUES", 5, W.table(1, W.nil, W.nil), W.table(1, W.nil, W.nil, W.nil), "<key>"),
    "objects": ("MAX_OBJECTS", 2, W.table(1, W.table(2)), W.table(1, W.table(2), W.table(3)), "[2]"),
    "bytes of strings": ("MAX_STRING_BYTES", 5, W.table(1, a=W.string("1234")), W.table(1, a=W.string("12345")), "a"),
    "values, in shapes": (
        "MAX_VALUES",
        8,
        W.tensor(1, "Float", [1] * 3, [1] * 3, W.storage(2, "Float", [1])),
        W.tensor(1, "Float", [1] * 4, [1] * 4, W.storage(2, "Float", [1])),
        "<storage>",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_counts_are_limited(tmp_path, monkeypatch, name):
    constant, limit, sound, too_many, object_path = LIMITS[name]
    monkeypatch.setattr(reader, constant, limit)
    read(tmp_path, sound)
    error = refusal(tmp_path, too_many)
    assert error.cause.startswith(f"more than {limit} {name.partition(',')[0]}")
    assert error.object_path == object_path


def many_tables(path):
    """A million empty tables in one."""
    entry = np.dtype([("key", "<i4"), ("number", "<f8"), ("type", "<i4"), ("index", "<i4"), ("size", "<i4")])
    entries = np.zeros(1_000_000, entry)
    entries["key"], entries["number"] = NUMBER, np.arange(1, 1_000_001)
    entries["type"], entries["index"] = TABLE, np.arange(2, 1_000_002)
    path.write_bytes(W.ref(TABLE, 1) + W.int(1_000_000) + entries.tobytes())


def many_tables_behind_the_root(path):
    many_tables(path)
    tables = path.read_bytes()
    path.write_bytes(W.string("root") + tables + W.int(77))


def with_hole(data, size):
    def make(path):
        path.write_bytes(data)
        os.truncate(path, len(data) + size)

    return make


def storage_head(w, kind, count):
    return w.ref(TORCH, 1) + w.text("V 1") + w.text(f"torch.{kind}Storage") + w.long(count)


HOSTILE = {
    "many tables behind the root": (many_tables_behind_the_root, "bytes are left after the root object"),
    "many tables": (many_tables, "more than 250000 objects"),
    "a string of gigabytes": (with_hole(W.int(2) + W.int(2**31 - 1), 2**32), "more than 16777216 bytes of strings"),
    "a class name of many parts": (
        lambda path: path.write_bytes(W.torch(1, "a" + ".a" * (2**23 - 5), W.table(2))),
        "expected a class name",
    ),
    "one value of 300 MB in ascii": (
        with_hole(storage_head(AsciiWriter(), "Float", 1) + b"1", 300 * 10**6),
        "too long to be numbers",
    ),
    "more than there is memory for": (with_hole(storage_head(W, "Float", 2**32), 2**34), "do not fit in memory"),
    "300 MB in big-endian": (with_hole(storage_head(Writer(">"), "Float", 75 * 10**6), 300 * 10**6), "read"),
}

CHILD = """
import resource, sys
from conversion import t7

def measured(file, name):
    with open(f"/proc/self/{file}") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

base = measured("status", "VmHWM")
resource.setrlimit(resource.RLIMIT_AS, ((measured("status", "VmSize") + 2_000_000) * 1024,) * 2)
for path in sys.argv[1:]:
    before = measured("io", "rchar")
    try:
        outcome = f"read {len(t7.load(path).numpy())}"
    except t7.T7Error as error:
        outcome = str(error)[:300]
    print(measured("io", "rchar") - before, (measured("status", "VmHWM") - base) * 1024, outcome)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="peak memory and what was read are told by /proc")
def test_hostile_files_cost_little_memory_and_are_not_read_to_their_end(tmp_path):
    paths = []
    for index, (make, _) in enumerate(HOSTILE.values()):
        paths.append(tmp_path / f"{index}.t7")
        make(paths[-1])
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(HOSTILE)
    for line, (name, (_, expected)) in zip(lines, HOSTILE.items(), strict=True):
        bytes_read, memory, outcome = line.split(" ", 2)
        own = 300 * 10**6 if name == "300 MB in big-endian" else 0  # sound; needs this much
        assert expected in outcome
        assert int(bytes_read) - own < 40 * 10**6, name
        assert int(memory) - own < 256 * 10**6, name
