"""Exported files, read again by their own runtimes: what they compute and what they say about themselves."""

import copy
import json

import onnx
import onnxruntime
import pytest
import safetensors
import torch

from resnext.export import export
from resnext.inference.optimize import TOLERANCE
from resnext.preprocess import get_preprocess
from tests.helpers.networks import build, relative_error


def expected(model, images):
    with torch.inference_mode():
        return copy.deepcopy(model).eval()(images)


def photographs(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.slow
def test_onnx_of_any_size_with_the_preprocessing(imagenet, tmp_path):
    path = tmp_path / "a.onnx"
    report = export(imagenet, path, "onnx", with_preprocess=True, dynamic=True, image_size=(40, 50))
    assert report.error <= 1e-5
    file = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in file.opset_import] == [("", 20)]
    assert [(value.name, value.type.tensor_type.elem_type) for value in file.graph.input] == [
        ("images", onnx.TensorProto.UINT8)
    ]
    assert [(value.name, value.type.tensor_type.elem_type) for value in file.graph.output] == [
        ("logits", onnx.TensorProto.FLOAT)
    ]
    shape = file.graph.input[0].type.tensor_type.shape
    assert [axis.dim_param or axis.dim_value for axis in shape.dim] == ["batch", 3, "height", "width"]
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map == report.metadata
    for shape in ((1, 3, 30, 61), (2, 3, 300, 200), (5, 3, 256, 256)):
        images = photographs(*shape)
        got = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        assert relative_error(got, expected(imagenet, get_preprocess("imagenet")(images))) <= 1e-5


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
@pytest.mark.parametrize(("with_preprocess", "precision"), [(True, "fp32"), (False, "bf16")])
def test_torchscript(imagenet, tmp_path, with_preprocess, precision):
    report = export(
        imagenet, tmp_path / "a.pt", "torchscript", precision=precision, with_preprocess=with_preprocess, image_size=40
    )
    extra = {"metadata.json": ""}
    script = torch.jit.load(tmp_path / "a.pt", _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == report.metadata
    for size in ((3, 50, 40), (1, 65, 49)):
        images = photographs(size[0], 3, *size[1:])
        tensors = get_preprocess("imagenet")(images)
        with torch.inference_mode():
            got = script(images if with_preprocess else tensors)
        assert got.dtype == torch.float32
        assert relative_error(got, expected(imagenet, tensors)) <= TOLERANCE[precision]


@pytest.mark.parametrize(("dynamic", "precision"), [(True, "fp32"), (False, "fp16")])
def test_pt2(model, tmp_path, dynamic, precision):
    report = export(model, tmp_path / "a.pt2", "pt2", precision=precision, dynamic=dynamic, batch_size=2)
    assert report.metadata["input_shape"] == ("N x 3 x H x W" if dynamic else "2 x 3 x 32 x 32")
    extra = {"metadata.json": ""}
    module = torch.export.load(tmp_path / "a.pt2", extra_files=extra).module()
    assert json.loads(extra["metadata.json"]) == report.metadata
    for shape in [(2, 3, 32, 32), *([(1, 3, 37, 48), (5, 3, 64, 33)] if dynamic else [])]:
        images = torch.randn(shape)
        assert relative_error(module(images), expected(model, images)) <= TOLERANCE[precision]


@pytest.mark.parametrize("form", ["A", "C"])
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_safetensors(tmp_path, form, precision, dtype):
    model = build(form=form)
    report = export(model, tmp_path / "a.safetensors", "safetensors", precision=precision)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert list(file.metadata()) == ["record"]
        assert json.loads(file.metadata()["record"]) == report.metadata
        assert report.metadata["form"] == form
        for name, value in model.state_dict().items():
            assert torch.equal(file.get_tensor(name), value.to(dtype) if value.is_floating_point() else value)


@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_the_same_bytes_again(model, tmp_path, format):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        export(model, tmp_path / folder / "x.pt2", format)
    assert (tmp_path / "a" / "x.pt2").read_bytes() == (tmp_path / "b" / "x.pt2").read_bytes()
