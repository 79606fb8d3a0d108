"""What a caller does with what was read: look-ups, lists, object paths, errors."""

import copy
import pickle
from collections.abc import Mapping

import pytest

from conversion import t7
from tests.conversion.t7.t7_writer import FUNCTION, TABLE, TORCH, Writer, read, refusal

W = Writer()


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
