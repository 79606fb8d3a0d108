"""Files that Torch7 wrote, odd ones too: value by value, and all of them against torchfile, an independent reading."""

import lzma

import numpy as np
import pytest
import torchfile

from conversion.t7 import LuaFunction, Storage, Table, Tensor, TorchObject, load
from tests.helpers.recorded import FIXTURES

VARIANTS = FIXTURES / "variants"


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


# --- small networks ---

EMPTY = (np.float32, (0,), [])


def scalars(fields):
    """All fields but tensors, tables and objects."""
    return {key: value for key, value in fields.items() if not hasattr(value, "source")}


def test_dpt3_in_has_its_gpus_ahead_of_its_fields():
    root = variant("dpt3_in")
    assert list(root) == ["epoch", "model"]
    assert root["epoch"] == 90
    model = root["model"]
    assert (model.class_name, model.version) == ("nn.DataParallelTable", 3)
    assert dict(model.preamble) == {1: 1, 2: 2}
    assert list(model) == ["_type", "gradInput", "gpuAssignments", "output", "modules"]
    assert model["gpuAssignments"] is model.preamble
    inner = model["modules"][1]
    assert inner.class_name == "nn.Sequential"
    linear = inner["modules"][1]
    assert (linear.class_name, linear.version) == ("nn.Linear", 1)
    assert content(linear["output"]) == EMPTY
    weight = [[0.3290698528289795, -0.5178780555725098], [0.12491612881422043, 0.24169014394283295]]
    assert content(linear["weight"]) == (np.float32, (2, 2), weight)
    assert content(linear["bias"]) == (np.float32, (2,), [0.17884796857833862, 0.48884424567222595])


def test_l32_conv_is_a_model_of_4_byte_longs():
    root = variant("l32_conv")
    (conv,) = root["modules"].as_list()
    assert conv.class_name == "nn.SpatialConvolution"
    planes = {"nInputPlane": 3, "nOutputPlane": 4, "kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 0, "padH": 0}
    assert scalars(conv) == planes | {"_type": "torch.FloatTensor"}
    assert conv["output"] is root["output"]
    assert conv["gradInput"] is root["gradInput"]
    bias = [-0.1324942708015442, 0.04440384730696678, -0.09752742201089859, 0.007505585439503193]
    assert content(conv["bias"]) == (np.float32, (4,), bias)
    raw = (VARIANTS / "l32_conv.t7").read_bytes()[0x2A5 : 0x2A5 + 108 * 4]  # found by eye in a hex dump
    assert conv["weight"].numpy().tobytes() == raw
    assert conv["weight"].shape == (4, 3, 3, 3)
    assert not conv["gradWeight"].numpy().any()


def check_small_network(root):
    conv, norm, linear = root["modules"].as_list()
    assert (root.class_name, root.version) == ("nn.Sequential", 1)
    assert (conv.class_name, conv.version) == ("cudnn.SpatialConvolution", 1)
    assert (norm.class_name, norm.version) == ("nn.SpatialBatchNormalization", 2)
    assert (linear.class_name, linear.version) == ("nn.Linear", 1)
    planes = {"nInputPlane": 4, "nOutputPlane": 4, "groups": 2}
    window = {"kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1}
    assert scalars(conv) == planes | window | {"_type": "torch.FloatTensor"}
    assert "bias" not in conv
    flags = {"affine": True, "momentum": 0.1, "eps": 1e-5, "train": True}
    assert scalars(norm) == flags | {"_type": "torch.FloatTensor"}
    weight = conv["weight"].numpy()
    assert weight.shape == (4, 2, 3, 3)
    assert weight.ravel()[[0, 1, -1]].tolist() == [0.014953844249248505, 0.15332503616809845, -0.02856995165348053]
    assert weight.sum(dtype=np.float64) == pytest.approx(-0.6577837897930294, rel=1e-12)  # by torchfile
    values = [0.3177502155303955, 0.816988468170166, 0.5987059473991394, 0.3085309565067291]
    assert content(norm["weight"]) == (np.float32, (4,), values)
    assert content(norm["bias"]) == content(norm["running_mean"]) == (np.float32, (4,), [0, 0, 0, 0])
    assert content(norm["running_var"]) == (np.float32, (4,), [1, 1, 1, 1])
    rows = [[-0.6775668263435364, -0.35099029541015625], [0.03745240718126297, 0.1404435932636261]]
    rows.append([0.2234315425157547, 0.6756013631820679])
    assert content(linear["weight"]) == (np.float32, (3, 2), rows)
    values = [0.5747122764587402, -0.27041080594062805, -0.3577708303928375]
    assert content(linear["bias"]) == (np.float32, (3,), values)
    assert content(linear["output"]) == content(root["gradInput"]) == EMPTY
    return conv, norm, linear


def test_s_plain_has_a_storage_for_each_weight():
    parameters = [module[key] for module in check_small_network(variant("s_plain")) for key in ("weight", "gradWeight")]
    assert len({tensor.storage for tensor in parameters}) == len(parameters)


def test_s_flat_has_all_weights_in_one_storage_and_all_gradients_in_another():
    conv, norm, linear = check_small_network(variant("s_flat"))
    flat = [conv["weight"], norm["weight"], norm["bias"], linear["weight"], linear["bias"]]
    assert [tensor.offset for tensor in flat] == [0, 72, 76, 80, 86]
    assert {tensor.storage for tensor in flat} == {conv["weight"].storage}
    assert conv["weight"].storage.count == 89
    gradients = {module["gradWeight"].storage for module in (conv, norm, linear)}
    assert gradients == {conv["gradWeight"].storage}
    assert conv["gradWeight"].storage is not conv["weight"].storage


def test_s_sharedmod_has_a_module_twice_and_weights_twice():
    root = variant("s_sharedmod")
    assert root["epoch"] == 3
    first, second, third = root["model"]["modules"].as_list()
    assert third is first
    assert second is not first
    assert first["weight"].storage is second["weight"].storage
    assert first["bias"].storage is second["bias"].storage
    assert first["gradWeight"].storage is not second["gradWeight"].storage
    assert first["shared"] is True
    rows = [[-0.161270871758461, -0.44296911358833313], [-0.24888473749160767, 0.4695460796356201]]
    assert content(first["weight"]) == content(second["weight"]) == (np.float32, (2, 2), rows)
    assert content(second["bias"]) == (np.float32, (2,), [0.2730468213558197, 0.49590399861335754])


def test_s_deepcopy_has_two_modules_of_the_same_tensors():
    first, second = variant("s_deepcopy")["modules"].as_list()
    assert first is not second
    assert list(first) == list(second)
    assert all(second[key] is first[key] for key in first if key != "_type")
    rows = [[-0.4890250265598297, 0.6246637105941772], [0.07441573590040207, -0.15458351373672485]]
    assert content(second["weight"]) == (np.float32, (2, 2), rows)
    assert content(second["bias"]) == (np.float32, (2,), [0.512026846408844, -0.2025051712989807])


def test_s_uncleared_keeps_outputs():
    root = variant("s_uncleared")
    branches, add = root["modules"].as_list()
    identity, relu = branches["modules"].as_list()
    assert [module.class_name for module in (branches, add)] == ["nn.ConcatTable", "nn.CAddTable"]
    assert [module.class_name for module in (identity, relu)] == ["nn.Identity", "nn.ReLU"]
    assert scalars(relu) == {"threshold": 0, "val": 0, "inplace": False, "_type": "torch.FloatTensor"}
    assert add["inplace"] is True
    assert add["output"] is root["output"]
    assert len(add["gradInput"]) == 0
    assert identity["output"] is branches["output"][1]
    assert relu["output"] is branches["output"][2]
    rows = [[0.9271945953369141, 1.2423640489578247], [0.6308969259262085, 0.7222264409065247]]
    assert content(root["output"]) == (np.float32, (2, 2), rows)
    assert root["output"].storage is identity["output"].storage  # CAddTable in place
    rows = [[0.46359729766845703, 0.6211820244789124], [0.31544846296310425, 0.36111322045326233]]
    assert content(relu["output"]) == (np.float32, (2, 2), rows)


def test_s_conv_used_keeps_what_cudnn_left():
    conv = variant("s_conv_used")
    assert isinstance(conv, TorchObject)
    assert conv.class_name == "cudnn.SpatialConvolution"
    planes = {"nInputPlane": 4, "nOutputPlane": 4, "groups": 2}
    window = {"kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1}
    offsets = {"input_offset": 128, "output_offset": 128, "weight_offset": 36}
    tuned = {"fmode": 1, "autotunerHash": "-dimA2,2,8,8", "_type": "torch.FloatTensor"}
    assert scalars(conv) == planes | window | offsets | tuned
    assert conv["iSize"].class_name == "torch.LongStorage"
    assert conv["iSize"].numpy().tolist() == [2, 4, 8, 8]
    assert dict(conv["pad"]) == dict(conv["stride"]) == dict(conv["convDescData"]["upscaleA"]) == {1: 1, 2: 1}
    assert conv["convDescData"]["padA"] is conv["pad"]
    assert conv["convDescData"]["filterStrideA"] is conv["stride"]
    assert conv["convDescData"]["dataType"] == "CUDNN_DATA_FLOAT"
    weight = conv["weight"].numpy()
    assert weight.ravel()[[0, 1, -1]].tolist() == [0.06505045294761658, 0.10722814500331879, -0.0994265154004097]
    assert weight.sum(dtype=np.float64) == pytest.approx(0.10029477416537702, rel=1e-12)  # by torchfile


# --- against torchfile 0.1.0 ---

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
