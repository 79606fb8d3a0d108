"""Exported files, read again by their own runtimes: what they compute and what they say about themselves."""

import copy
import json

import onnx
import onnxruntime
import pytest
import safetensors
import torch

from resnext import __version__
from resnext.__main__ import main
from resnext.architecture import Architecture
from resnext.cli.export import export
from resnext.inference.optimize import TOLERANCE
from resnext.preprocess import get_preprocess
from resnext.weights.digest import tensor_digest
from tests.conftest import randomize, relative_error

CIFAR = Architecture((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)
IMAGENET = Architecture((1, 1, 1, 1), cardinality=2, base_width=4, num_classes=10)


def build(architecture, **options):
    torch.manual_seed(0)
    return randomize(architecture.build(**options))


@pytest.fixture(scope="module")
def model():
    return build(CIFAR)


@pytest.fixture(scope="module")
def imagenet():
    return build(IMAGENET)


def expected(model, images):
    with torch.inference_mode():
        return copy.deepcopy(model).eval()(images)


def photographs(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


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


def test_metadata(model, tmp_path):
    report = export(model, tmp_path / "a.pt", "torchscript", precision="fp16")
    assert report.metadata == {
        "architecture": "resnext11_2x4d",
        "form": "C",
        "num_classes": "10",
        "preprocessing": "cifar10",
        "tensor_digest": tensor_digest(model.state_dict()),
        "source": "not stated",
        "source_sha256": "not stated",
        "license": "not stated",
        "precision": "fp16",
        "project": f"resnext {__version__}",
        "torch": torch.__version__,
        "preprocessing_included": "false",
        "input_name": "images",
        "input_dtype": "float32",
        "input_shape": "N x 3 x H x W",
        "output_name": "logits",
    }


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
    model = build(CIFAR, form=form)
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


def test_the_model_stays_as_it_is(tmp_path):
    model = build(CIFAR).half().train()
    calls = []
    model.fc.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "a.pt2", "pt2")
    assert not calls
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_autocast_changes_nothing(model, tmp_path, format):
    with torch.autocast("cpu"):
        assert export(model, tmp_path / "a.pt2", format).error <= 1e-5


@pytest.mark.parametrize("options", [{"form": "A"}, {"num_classes": 0}, {"in_channels": 1}, {"global_pool": "avgmax"}])
def test_unusual_networks(tmp_path, options):
    torch.manual_seed(0)
    shape = {"layers": (1, 1, 1), "cardinality": 2, "base_width": 4, "stem": "cifar", "num_classes": 10}
    from resnext import ResNeXt

    model = randomize(ResNeXt(**shape | options))
    assert export(model, tmp_path / "a.pt2", "pt2").error <= 1e-5


def test_command(built, tmp_path, capfd):
    """With the licence and the digests of the sidecar; nothing on stderr."""
    path = tmp_path / "a.onnx"
    assert main(["export", "--weights", str(built.path), "--format", "onnx", "--precision", "fp16", "--batch-size", "2",
                 "--out", str(path)]) == 0  # fmt: skip
    captured = capfd.readouterr()
    assert captured.err == ""
    for part in (str(path), "opset 20", "images: float32, 2 x 3 x 32 x 32", "logits: float32, N x 10", "onnxruntime"):
        assert part in captured.out
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    record = built.record
    assert metadata["license"] == record["license"] == "x"
    assert metadata["source_sha256"] == record["file"]["sha256"]
    assert metadata["tensor_digest"] == record["tensor_digest"]
    assert metadata["torch7_sha256"] == record["source"]["sha256"]
    assert metadata["architecture"] == record["arch"]


def test_command_with_the_published_weights(home, hosted, tmp_path, capsys):
    from tests.resnext.conftest import NAME

    path = tmp_path / "a.safetensors"
    assert main(["export", "--arch", f"{NAME}_typeB", "--format", "safetensors", "--out", str(path)]) == 0
    with safetensors.safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["record"])
    assert metadata["license"] == "CC BY-NC 4.0"
    assert (metadata["form"], metadata["source_sha256"]) == ("B", hosted["sha256"])
