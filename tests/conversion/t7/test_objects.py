"""What a file holds: look-ups, checked fields, paths, errors, and values that are read when they are asked for."""

import copy
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from conversion import t7
from conversion.t7.objects import Source
from tests.helpers.recorded import FIXTURES
from tests.helpers.torch7_writer import ENCODINGS, FUNCTION, TABLE, TORCH, AsciiWriter, Writer, read, refusal, write

VARIANTS = FIXTURES / "variants"
W, A = Writer(), AsciiWriter()


@pytest.fixture
def model(tmp_path):
    linear = W.object(4, "nn.Linear", weight=W.vector(6, "Float", [1, 2]))
    return read(tmp_path, W.object(1, "nn.Sequential", modules=W.table(3, linear), train=W.boolean(0)))


def test_an_absent_field_raises_and_says_what_there_is(tmp_path, model):
    linear = model["modules"][1]
    with pytest.raises(t7.MissingFieldError) as caught:
        linear["wieght"]
    error = caught.value
    assert isinstance(error, t7.T7Error)
    assert isinstance(error, KeyError)
    assert isinstance(error, ValueError)
    assert error.cause == "no field wieght in <nn.Linear at modules[1]>; it has: weight"
    assert (error.path, error.object_path) == (str(tmp_path / "file.t7"), "modules[1]")
    assert str(error) == f"{tmp_path / 'file.t7'}: modules[1]: {error.cause}"


@pytest.mark.parametrize(
    ("key", "shown"),
    [(2, "[2]"), (True, "[true]"), (0.5, "[0.5]"), ("a b", '["a b"]'), ("\udcff", r'["\udcff"]'), ('"', r'["\""]')],
)
def test_an_absent_key_of_any_kind_is_named(model, key, shown):
    with pytest.raises(t7.MissingFieldError) as caught:
        model["modules"][key]
    assert caught.value.cause == f"no field {shown} in <table of 1 at modules>; it has: [1]"


def test_an_absent_field_of_the_root_and_of_an_empty_table(tmp_path, model):
    with pytest.raises(
        t7.MissingFieldError, match=r"no field weight in <nn.Sequential at the root>; it has: modules, tr"
    ):
        model["weight"]
    with pytest.raises(t7.MissingFieldError, match=r"no field x in <table of 0 at the root>; it has: nothing"):
        read(tmp_path, W.table(1))["x"]


def test_a_default_is_asked_for(model):
    assert model.get("bias") is None
    assert model.get("bias", 5) == 5
    assert model.get("train", 5) is False
    assert model["modules"].get(True, "absent") == "absent"


def test_attributes_are_no_fields(model):
    assert not hasattr(model, "modules")
    assert not hasattr(model, "weight")


@pytest.mark.parametrize("keys", [[1, True], [True, 1], [0, False], [False, 0]], ids=repr)
def test_booleans_and_numbers_are_different_keys(tmp_path, keys):
    written = [W.boolean(key) if isinstance(key, bool) else W.number(key) for key in keys]
    both = read(
        tmp_path, W.fields(1, *((key, W.string(repr(value))) for key, value in zip(written, keys, strict=True)))
    )
    assert [repr(key) for key in both] == [repr(key) for key in keys]
    for key in keys:
        assert key in both
        assert both[key] == both.get(key) == repr(key)
    one = read(tmp_path, W.fields(1, (written[0], W.string("x"))))
    assert (keys[0] in one, keys[1] in one, one.get(keys[1])) == (True, False, None)


def test_tables_and_objects_are_mappings(model):
    assert isinstance(model, Mapping)
    assert isinstance(model["modules"], Mapping)
    assert set(model) == set(model.keys()) == {"modules", "train"}
    assert dict(model.items())["train"] is False
    assert "modules" in model
    assert "bias" not in model
    assert not isinstance(model["modules"], t7.TorchObject)


def test_tables_are_equal_to_themselves_alone_and_can_be_keys(tmp_path):
    root = read(tmp_path, W.table(1, W.table(2), W.table(3)))
    assert root[1] == root[1]
    assert root[1] != root[2]
    assert {root[1]: "one", root[2]: "two"}[root[2]] == "two"


def test_an_object_as_key_is_found_by_identity(tmp_path):
    key = W.object(2, "nn.Linear")
    root = read(tmp_path, W.fields(1, (key, W.number(5)), (W.string("same"), W.ref(TORCH, 2))))
    assert root[root["same"]] == 5


def test_a_list_is_built_of_the_keys_1_to_n(tmp_path):
    assert read(tmp_path, W.table(1, W.number(5), W.string("x"))).as_list() == [5, "x"]
    assert read(tmp_path, W.table(1)).as_list() == []
    backwards = [(W.number(i), W.number(10 * i)) for i in (3, 1, 2)]
    assert read(tmp_path, W.fields(1, *backwards)).as_list() == [10, 20, 30]


@pytest.mark.parametrize("key", [W.number(0), W.number(3), W.number(1.5), W.string("1"), W.boolean(1)])
def test_other_keys_are_no_list(tmp_path, key):
    root = read(tmp_path, W.table(1, x=W.fields(2, (W.number(2), W.number(5)), (key, W.number(6)))))
    with pytest.raises(t7.T7Error, match=r"expected a list \(keys 1 to 2\), got other keys") as caught:
        root["x"].as_list()
    assert (caught.value.path, caught.value.object_path) == (str(tmp_path / "file.t7"), "x")


def test_object_paths_name_the_first_appearance(tmp_path):
    key = W.table(2, W.table(3))
    function = W.function(9, b"", W.table(10, W.table(11)))
    entries = [(key, W.vector(4, "Float", [1])), (W.boolean(1), W.table(6))]
    entries += [(W.string("a-b"), W.table(7, up=W.table(8))), (W.string("f"), function)]
    root = read(tmp_path, W.fields(1, *entries, (W.string("again"), W.ref(TABLE, 8))))
    key = next(iter(root))
    assert root.path == ""
    assert (key.path, key[1].path) == ("<key>", "<key>[1]")
    assert (root[key].path, root[key].storage.path) == ("[<Table>]", "[<Table>].<storage>")
    assert root[True].path == "[true]"
    assert root["again"].path == '["a-b"].up'
    assert (root["f"].path, root["f"].upvalues[1].path) == ("f", "f.<upvalues>[1]")


def test_a_long_object_path_is_shortened_in_the_middle(tmp_path):
    data = W.int(77)
    for index in range(30, 0, -1):
        data = W.table(index, **{f"level_{index:02}_{'x' * 40}": data})
    error = refusal(tmp_path, data + bytes(100))
    start, end = error.object_path.split(" ... ")
    assert len(start) == len(end) == 200
    assert start.startswith(f"level_01_{'x' * 40}.level_02_")
    assert end.endswith(f".level_30_{'x' * 40}")


def test_a_path_through_tables_as_keys_takes_no_time(tmp_path):
    nested = W.int(77)
    for level in range(40, 0, -1):  # once took 2^level steps, each key showing its own path
        nested = W.fields(2 * level - 1, (W.table(2 * level), nested))
    assert refusal(tmp_path, nested + bytes(100)).object_path == "[<Table>]" * 40
    entries = [(W.table(2), W.table(3))]
    entries += [(W.ref(TABLE, index), W.table(index + 1)) for index in range(3, 2000)]  # once as many calls deep
    root = read(tmp_path, W.fields(1, *entries))
    assert list(root.values())[-1].path == "[<Table>]"
    unknown = (W.ref(TABLE, 2000), W.int(77) + bytes(100))
    assert refusal(tmp_path, W.fields(1, *entries, unknown)).object_path == "[<Table>]"


@pytest.mark.parametrize("make", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_errors_can_be_copied(model, make):
    with pytest.raises(t7.MissingFieldError) as caught:
        model["x"]
    again = make(caught.value)
    assert type(again) is t7.MissingFieldError
    assert (str(again), again.__dict__) == (str(caught.value), caught.value.__dict__)
    full = t7.T7Error("cause", path="path", offset=7, object_path="a.b")
    assert str(make(full)) == "path: byte 7: a.b: cause"


def test_an_error_does_not_keep_what_was_read(tmp_path):
    data = W.table(1, W.vector(2, "Float", [1]), W.int(77)) + bytes(100)
    assert refusal(tmp_path, data).__context__ is None


def test_an_error_does_not_hold_a_long_string(tmp_path):
    text = W.string("x" * 100_000)
    twice = refusal(tmp_path, W.fields(1, (text, W.nil), (text, W.number(1)), (text, W.number(2))))
    assert twice.cause == f'the key ["{"x" * 61}..."] appears twice in one table'
    tensor = W.torch(1, "torch.FloatTensor", W.geometry([1], [1]) + text)
    assert len(str(refusal(tmp_path, tensor))) < 400
    for name in ("x" * 100_000, "V " + "1" * 100_000):
        assert len(str(refusal(tmp_path, W.torch(1, name, W.table(2), version=None)))) < 400


def test_what_is_shown_of_each_kind(tmp_path):
    function = W.function(5, b"code", W.table(6))
    tensor = W.tensor(2, "Float", [1, 2], [2, 1], W.storage(3, "Float", [1, 2]))
    root = read(tmp_path, W.table(1, tensor, W.table(4, W.nil), function, W.ref(FUNCTION, 5), W.object(7, "nn.ReLU")))
    assert [repr(value) for value in root.values()] == [
        "<torch.FloatTensor 1x2>",
        "<table of 0 at [2]>",
        "<function of 4 bytes at [3]>",
        "<function of 4 bytes at [3]>",
        "<nn.ReLU at [5]>",
    ]
    assert repr(root[1].storage) == "<torch.FloatStorage of 2>"


@pytest.fixture
def checked(tmp_path):
    """An object of a field of each kind."""
    fields = {
        "whole": W.number(3), "zero": W.number(0), "last": W.number(-1), "large": W.number(2**31),
        "half": W.number(0.5),
        "infinite": W.number(float("inf")), "yes": W.boolean(1), "text": W.string("x" * 1000),
        "weight": W.tensor(4, "Float", [2, 3], [3, 1], W.storage(5, "Float", range(6))),
        "ids": W.vector(6, "Long", [1]),
        "size": W.storage(8, "Long", [2, 3]),
        "long": W.storage(9, "Long", [1] * 65), "reals": W.storage(10, "Float", [1]),
        "modules": W.table(11, W.object(12, "nn.ReLU")), "mixed": W.table(14, W.number(1)),
    }  # fmt: skip
    return read(tmp_path, W.table(1, W.object(2, "nn.Odd", **fields)))[1]


def test_checked_fields(checked):
    assert checked.integer("whole") == checked.integer("whole", 7) == 3
    assert checked.integer("absent", 7) == 7
    assert checked.integer("zero", minimum=0) == 0
    assert checked.integers("zero whole absent", 1) == (0, 3, 1)
    assert (checked.number("half"), checked.number("infinite"), checked.number("absent", 2)) == (0.5, float("inf"), 2.0)
    assert type(checked.number("whole")) is float
    assert checked.boolean("yes") is checked.boolean("absent", True) is True
    assert (checked.position("whole"), checked.position("last"), checked.position("absent", 1)) == (2, -1, 0)
    assert (checked.dimension("whole"), checked.dimension("last"), checked.dimension(default=1)) == (2, -1, 0)
    assert checked.tensor("weight") is checked.tensor("weight", (3, 1, 2)) is checked["weight"]
    assert checked.sizes() == [2, 3]
    assert [module.class_name for module in checked.objects()] == ["nn.ReLU"]


REFUSED_FIELDS = {
    "a number as whole number": (lambda o: o.integer("half"), "expected a whole number as half, got 0.5"),
    "a boolean as whole number": (lambda o: o.integer("yes"), "expected a whole number as yes, got True"),
    "2^31": (lambda o: o.integer("large", 1), "expected a whole number as large, got 2147483648"),
    "infinity": (lambda o: o.integer("infinite"), "expected a whole number as infinite, got inf"),
    "below the minimum": (
        lambda o: o.integers("whole zero", minimum=1), "expected a whole number from 1 as zero, got 0"),
    "a long string": (lambda o: o.number("text"), f"expected a number as text, got '{'x' * 76}..."),
    "a boolean as number": (lambda o: o.number("yes"), "expected a number as yes, got True"),
    "a number as boolean": (lambda o: o.boolean("zero", True), "expected true or false as zero, got 0"),
    "position 0": (
        lambda o: o.position("zero"), "expected an index counted from 1, or from -1 backwards, as zero, got 0"),
    "dimension 2^31": (lambda o: o.dimension("large"), "expected a whole number as large, got 2147483648"),
    "no real tensor": (
        lambda o: o.tensor("ids"), "expected a tensor of real numbers as ids, got <torch.LongTensor 1>"),
    "another shape": (lambda o: o.tensor("weight", [2, 4]), "weight has shape (2, 3); expected (2, 4)"),
    "a storage of reals": (
        lambda o: o.sizes("reals"), "expected a storage of whole numbers as reals, got <torch.FloatStorage of 1>"),
    "65 sizes": (lambda o: o.sizes("long"), "long has 65 entries; expected at most 64"),
    "no list": (lambda o: o.objects("weight"), "expected a list as weight, got <torch.FloatTensor 2x3>"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_fields_that_are_refused(checked, name):
    ask, cause = REFUSED_FIELDS[name]
    with pytest.raises(t7.T7Error) as caught:
        ask(checked)
    assert (caught.value.cause, caught.value.object_path) == (cause, "[1]")
    assert caught.value.path.endswith("file.t7")


def test_a_list_of_anything_but_modules_is_refused(checked):
    with pytest.raises(t7.T7Error, match=r"\[1\]\.mixed: expected modules, got 1 at \[1\]"):
        checked.objects("mixed")


@pytest.mark.parametrize(
    "method", ["integer", "number", "boolean", "position", "dimension", "tensor", "sizes", "objects"]
)
def test_without_a_default_a_field_must_be_there(checked, method):
    with pytest.raises(t7.MissingFieldError, match=r"no field absent in <nn.Odd at \[1\]>; it has: whole, zero"):
        getattr(checked, method)("absent")


# --- values ---


@pytest.fixture
def reads(monkeypatch):
    """(offset, bytes) of each read of values."""
    done = []
    read_values = Source.read

    def record(self, offset, buffer):
        done.append((offset, buffer.nbytes))
        read_values(self, offset, buffer)

    monkeypatch.setattr(Source, "read", record)
    return done


def test_only_what_is_asked_for_is_read(reads):
    conv = t7.load(VARIANTS / "s_plain.t7")["modules"][1]
    assert reads == []
    conv["weight"].numpy()
    assert reads == [(conv["weight"].storage.offset, 72 * 4)]
    raw = (VARIANTS / "s_plain.t7").read_bytes()
    assert raw[reads[0][0] - 8 : reads[0][0]] == W.long(72)


def test_a_copy_reads_no_more_than_the_tensor_covers(reads):
    root = t7.load(VARIANTS / "views.t7")
    storage = root["base"].storage
    assert root["sel"].copy().tolist() == [2, 6, 10]
    assert root["nar"].copy().tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert reads == [(storage.offset + 4, 9 * 4), (storage.offset + 16, 8 * 4)]


def test_an_empty_tensor_reads_nothing(reads, tmp_path):
    root = read(tmp_path, W.tensor(1, "Float", [0, 2], [2, 1], W.storage(2, "Float", [1, 2])))
    assert root.numpy().shape == root.copy().shape == (0, 2)
    assert reads == []


def test_gradients_of_gigabytes_cost_nothing(tmp_path):
    head = W.ref(TABLE, 1) + W.int(2) + W.string("gradWeight")
    head += W.tensor(2, "Float", [2**32], [1], b"") + W.ref(TORCH, 3) + W.text("V 1") + W.text("torch.FloatStorage")
    path = write(tmp_path, head + W.long(2**32))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**34)  # a hole of 16 GiB
        file.seek(0, os.SEEK_END)
        file.write(W.string("weight") + W.vector(4, "Float", [1, 2]))
    root = t7.load(path)
    assert root["gradWeight"].shape == (2**32,)
    assert root["weight"].numpy().tolist() == [1, 2]


@pytest.mark.parametrize("shift", range(8))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_arrays_are_aligned_native_and_writable(tmp_path, encoding, shift):
    w = ENCODINGS[encoding]
    tensors = w.vector(2, "Long", [1, 2, 3]), w.vector(4, "Float", [1, 2])
    path = write(tmp_path, w.table(1, w.string("x" * shift), *tensors))
    root = t7.load(path)
    before = path.read_bytes()
    for array in (root[2].numpy(), root[2].copy(), root[3].numpy(), root[3].copy()):
        assert array.flags.aligned
        assert array.dtype.isnative
        assert array.flags.writeable
        array += 10
    del array
    assert path.read_bytes() == before
    assert root[2].numpy().tolist() == [1, 2, 3]


def test_views_of_a_storage_share_memory():
    root = t7.load(VARIANTS / "views.t7")
    base, transposed, selected, narrowed = (root[key].numpy() for key in ("base", "t", "sel", "nar"))
    assert all(np.shares_memory(base, view) for view in (transposed, selected, narrowed))
    assert not np.shares_memory(selected, base[0, :1])
    assert np.shares_memory(base, root["base"].storage.numpy())
    base[1, 1] = 60
    assert (transposed[1, 1], selected[1], narrowed[0, 1]) == (60, 60, 60)
    assert root["nar"].numpy()[0, 1] == 60


def test_a_view_alone_keeps_the_memory_that_is_shared():
    root = t7.load(VARIANTS / "views.t7")
    root["sel"].numpy()[0] = 20
    assert root["base"].numpy()[0, 1] == 2  # nothing was left that shared it
    view = root["sel"].numpy()
    view[0] = 20
    assert root["base"].numpy()[0, 1] == 20


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_shared_storage_is_shared_in_every_encoding(tmp_path, encoding):
    w = ENCODINGS[encoding]
    first = w.tensor(2, "Double", [2], [1], w.storage(3, "Double", [1, 2, 3]))
    root = read(tmp_path, w.table(1, first, w.tensor(4, "Double", [2], [1], w.ref(TORCH, 3), offset=2)))
    one, other = root[1].numpy(), root[2].numpy()
    one[1] = 20
    assert other.tolist() == [20, 3]


def test_copies_share_nothing_and_are_contiguous():
    root = t7.load(VARIANTS / "views.t7")
    shared = root["t"].numpy()
    for key in root:
        own = root[key].copy()
        assert own.flags.c_contiguous
        assert not np.shares_memory(own, shared)
        assert not np.shares_memory(own, root[key].copy())
        assert own.tolist() == root[key].numpy().tolist()


def test_an_expanded_view_is_not_copied_by_numpy():
    root = t7.load(VARIANTS / "views.t7")
    array = root["exp"].numpy()
    assert array.strides == (0,)
    assert root["exp"].copy().strides == (4,)


def expanded(tmp_path, *sizes):
    """A list of expanded views over one storage of one value, and last a plain tensor over it."""
    views = [W.tensor(2, "Float", [sizes[0]], [0], W.storage(3, "Float", [7]))]
    views += [W.tensor(4 + i, "Float", [size, 1], [0, 5], W.ref(TORCH, 3)) for i, size in enumerate(sizes[1:])]
    plain = W.tensor(3 + len(sizes), "Float", [1], [1], W.ref(TORCH, 3))
    return read(tmp_path, W.table(1, *views, plain)).as_list()


@pytest.mark.parametrize("method", ["numpy", "copy"])
def test_the_size_of_expanded_views_is_limited_for_all_of_a_file(tmp_path, method):
    within = expanded(tmp_path, *[2**21] * 16)  # 128 MiB in all, less the values that are stored
    assert getattr(within[0], method)().shape == (2**21,)
    *views, plain = expanded(tmp_path, *[2**21] * 16, 100)
    assert getattr(plain, method)().tolist() == [7]
    for index in (0, 16):
        with pytest.raises(
            t7.T7Error, match=r"expanded view of shape .* at most 134217728 bytes .* in a file"
        ) as caught:
            getattr(views[index], method)()
        assert caught.value.path == str(tmp_path / "file.t7")
        assert caught.value.object_path == f"[{index + 1}]"


@pytest.mark.parametrize("method", ["numpy", "copy"])
def test_the_size_of_all_views_is_limited_for_all_of_a_file(tmp_path, method):
    """Each by itself is sound, and none is expanded."""
    size = 2**20
    views = [W.tensor(3 + i, "Byte", [size], [1], W.ref(TORCH, 2)) for i in range(64 + 128 + 1)]
    entry = W.number(-1) + W.ref(TORCH, 2) + W.text("V 1") + W.text("torch.ByteStorage") + W.long(size) + bytes(size)
    for count, sound in ((64 + 128, True), (64 + 128 + 1, False)):
        head = W.ref(TABLE, 1) + W.int(count + 1)
        entries = b"".join(W.number(i) + view for i, view in enumerate(views[:count]))
        root = read(tmp_path, head + entry + entries)
        if sound:
            assert getattr(root[0], method)().shape == (size,)
            continue
        with pytest.raises(t7.T7Error, match=r"\[0\]: views of the same values: .* at most 64 times its size"):
            getattr(root[0], method)()


def test_a_tensor_of_more_than_that_is_read_if_the_file_holds_it(tmp_path):
    size = 2**27 + 1
    tensor = W.tensor(1, "Byte", [size], [1], W.ref(TORCH, 2) + W.text("V 1") + W.text("torch.ByteStorage"))
    path = write(tmp_path, tensor + W.long(size))
    os.truncate(path, path.stat().st_size + size)
    assert t7.load(path).numpy().shape == (size,)


def rewrite(path):
    path.write_bytes(path.read_bytes()[::-1])


def touch(path):
    os.utime(path, ns=(0, 0))


def replace(path):
    status = path.stat()
    path.with_suffix(".new").write_bytes(path.read_bytes())
    os.utime(path.with_suffix(".new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [touch, replace, rewrite])
@pytest.mark.parametrize("method", ["numpy", "copy"])
def test_a_file_that_has_changed_is_refused(tmp_path, change, method):
    path = write(tmp_path, W.table(1, W.vector(2, "Float", [1, 2])))
    os.utime(path, ns=(10**18, 10**18))
    tensor = t7.load(path)[1]
    assert getattr(tensor, method)().tolist() == [1, 2]
    change(path)
    with pytest.raises(t7.T7Error, match="has changed since it was loaded; load it again") as caught:
        getattr(tensor, method)()
    error = caught.value
    assert (error.path, error.offset, error.object_path) == (str(path), tensor.storage.offset, "[1].<storage>")


def test_a_file_that_is_cut_short_or_gone_is_refused(tmp_path):
    path = write(tmp_path, W.table(1, W.vector(2, "Float", [1, 2])))
    tensor = t7.load(path)[1]
    os.truncate(path, 20)
    with pytest.raises(t7.T7Error, match="has changed"):
        tensor.numpy()
    path.unlink()
    with pytest.raises(t7.T7Error, match="cannot be read any more: No such file") as caught:
        tensor.numpy()
    assert (caught.value.path, caught.value.object_path) == (str(path), "[1].<storage>")


def test_nothing_stays_mapped_or_open(tmp_path):
    path = write(tmp_path, W.table(1, W.vector(2, "Double", range(5000))))
    root = t7.load(path)
    array = root[1].numpy()
    if Path("/proc/self/fd").exists():
        links = Path("/proc/self/fd").glob("*")
        assert str(path) not in [os.readlink(link) for link in links if link.is_symlink()]
    os.truncate(path, 0)  # an array that was a map of the file would now crash the process
    assert array.sum() == 12_497_500


def test_values_are_found_from_another_working_directory(tmp_path, monkeypatch):
    write(tmp_path, W.vector(1, "Float", [1, 2]))
    monkeypatch.chdir(tmp_path)
    tensor = t7.load("file.t7")
    monkeypatch.chdir("/")
    assert tensor.numpy().tolist() == [1, 2]


ASCII_VALUES = {
    "word": ("Float", b"1 x"),
    "empty word": ("Float", b"10  20"),
    "grouped digits": ("Double", b"1 1_0"),
    "fraction": ("Int", b"1 1.5"),
    "more than a short": ("Short", b"1 40000"),
    "more than a half": ("Half", b"1 1e30"),
    "more than a float": ("Float", b"1 1e300"),
    "more than a long": ("Long", b"1 99999999999999999999"),
}


@pytest.mark.parametrize("name", ASCII_VALUES)
@pytest.mark.filterwarnings("error")
def test_ascii_values_that_are_no_numbers_are_refused(tmp_path, name):
    kind, words = ASCII_VALUES[name]
    count = words.count(b" ") + 1
    head = A.ref(TABLE, 1) + A.int(1) + A.string("x") + A.ref(TORCH, 2) + A.text("V 1") + A.text(f"torch.{kind}Storage")
    storage = read(tmp_path, head + A.long(count) + words + b"\n")["x"]
    with pytest.raises(t7.T7Error, match="a value is not a number") as caught:
        storage.numpy()
    error = caught.value
    place = (str(tmp_path / "file.t7"), len(head) + 2, "x")
    assert (error.path, error.offset, error.object_path) == place


@pytest.mark.parametrize(("order", "long_size", "kind"), [(">", 8, "Short"), (">", 4, "Long"), ("<", 4, "Long")])
def test_values_that_are_converted_are_read_across_chunks(tmp_path, order, long_size, kind):
    w, values = Writer(order, long_size), np.arange(2**20 + 5) % 30_000  # read in pieces of 2^20
    last = w.tensor(4, kind, [2], [3], w.ref(TORCH, 3), offset=2**20 - 2)
    root = read(tmp_path, w.table(1, w.vector(2, kind, values), last))
    assert np.array_equal(root[1].numpy(), values)
    assert root[2].copy().tolist() == values[[2**20 - 3, 2**20]].tolist()


def test_ascii_values_are_read_across_chunks(tmp_path):
    values = np.arange(400_000)  # 2.7 MB of text, read in pieces of 1 MiB
    root = read(
        tmp_path, A.table(1, A.vector(2, "Int", values), A.tensor(4, "Int", [2], [3], A.ref(TORCH, 3), offset=399_990))
    )
    assert np.array_equal(root[1].numpy(), values)
    assert root[2].copy().tolist() == [399_989, 399_992]
