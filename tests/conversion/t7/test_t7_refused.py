"""Damaged and hostile streams, one fault each: where the fault is said to be, and what it is said to be."""

import pytest

from tests.conversion.t7.t7_writer import (
    ENCODINGS,
    FUNCTION,
    LEGACY_FUNCTION,
    NUMBER,
    OLD_FUNCTION,
    STRING,
    TABLE,
    TORCH,
    Writer,
    refusal,
)


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
                "torch.Generator": "torch.Generator is stored in a way of its own",
                "torch.MultiTensor": "torch.MultiTensor is stored in a way of its own",
                "tds.Hash": "tds.Hash is stored in a way of its own",
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
