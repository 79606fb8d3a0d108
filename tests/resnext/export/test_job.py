"""Exports of any kind: their metadata, what is refused, and that a failure leaves every file as it was."""

import copy
import json
import resource
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import torch

from resnext import __version__
from resnext.architecture import Architecture
from resnext.export import ExportError, export
from resnext.export.formats import FORMATS, Format
from resnext.inference.optimize import TOLERANCE
from resnext.weights.files import tensor_digest
from tests.helpers.networks import TINY, build, randomize


def test_metadata(model, tmp_path):
    report = export(model, tmp_path / "a.pt", "torchscript", precision="fp16")
    assert report.metadata == {
        "architecture": "resnext11_4x8d",
        "form": "C",
        "num_classes": "10",
        "tensor_digest": tensor_digest(model.state_dict()),
        "source": "not stated",
        "source_sha256": "not stated",
        "license": "not stated",
        "precision": "fp16",
        "project": f"resnext {__version__}",
        "torch": torch.__version__,
        "preprocessing": "cifar10",
        "preprocessing_resize": "none",
        "preprocessing_interpolation": "none",
        "preprocessing_crop": "none",
        "preprocessing_values": "0 to 255",
        "preprocessing_mean": "125.3, 123.0, 113.9",
        "preprocessing_std": "63.0, 62.1, 66.7",
        "preprocessing_included": "false",
        "input_name": "images",
        "input_dtype": "float32",
        "input_shape": "N x 3 x H x W",
        "output_name": "logits",
    }


def test_the_preprocessing_of_imagenet_is_described(imagenet, tmp_path):
    metadata = export(imagenet, tmp_path / "a.safetensors", "safetensors").metadata
    assert {key: value for key, value in metadata.items() if key.startswith("preprocessing")} == {
        "preprocessing": "imagenet",
        "preprocessing_resize": "shorter side 256",
        "preprocessing_interpolation": "bicubic, a = -0.5, corners aligned, not antialiased",
        "preprocessing_crop": "centre 224",
        "preprocessing_values": "0 to 1",
        "preprocessing_mean": "0.485, 0.456, 0.406",
        "preprocessing_std": "0.229, 0.224, 0.225",
    }


@pytest.mark.parametrize("form", "ABC")
def test_the_form_is_that_of_the_weights_inside(tmp_path, form):
    model = build(form=form)
    assert export(model, tmp_path / "a.pt2", "pt2").metadata["form"] == "C"
    assert export(model, tmp_path / "a.safetensors", "safetensors").metadata["form"] == form


@pytest.mark.parametrize(
    "sidecar", ['{"file": 3}', '{"file": {"sha256": "DIGEST"}, "source": [], "license": 3}', "[", "7"]
)
def test_a_sidecar_that_makes_no_sense_says_nothing(model, weights, tmp_path, sidecar):
    from resnext.weights.download import sha256_of

    weights.with_suffix(".json").write_text(sidecar.replace("DIGEST", sha256_of(weights)))
    metadata = export(model, tmp_path / "a.safetensors", "safetensors", weights=weights).metadata
    assert (metadata["source"], metadata["license"]) == ("tiny.pth", "not stated")
    assert "torch7" not in metadata


def test_the_model_stays_as_it_is(tmp_path):
    model = build().half().train()
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, "unknown format 'tflite'; expected one of onnx, safetensors"),
        ({"format": "onnx", "precision": "int8"}, "unknown precision 'int8'; expected one of fp32, bf16, fp16"),
        ({"format": "safetensors", "with_preprocess": True}, "format 'safetensors' does not go with with_preprocess"),
        ({"format": "safetensors", "dynamic": True}, "format 'safetensors' does not go with dynamic: it holds only"),
        ({"format": "safetensors", "image_size": 64}, "format 'safetensors' does not go with image_size"),
        ({"format": "safetensors", "batch_size": 2}, "format 'safetensors' does not go with batch_size"),
        ({"format": "onnx", "precision": "bf16"}, "format 'onnx' does not go with precision 'bf16': .* use 'fp16'"),
        ({"format": "onnx", "image_size": 31}, "images of 31 x 31 px, .*; expected 32 px or more"),
        ({"format": "onnx", "batch_size": 0}, "batches of 0; expected"),
        ({"format": "pt2"}, r"format 'pt2': expected a path that ends in \.pt2, as torch does, got .*a\.file"),
        ({"format": "aoti"}, r"format 'aoti': expected a path that ends in \.pt2"),
    ],
)
def test_arguments_that_are_refused(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "a.file", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written(model, weights, tmp_path):
    content = weights.read_bytes()
    for out in (tmp_path, tmp_path / "no" / "a.onnx", weights / "a.onnx", weights):
        with pytest.raises(ValueError, match=rf"^{out} (cannot be written; expected|is the file with the weights)"):
            export(model, out, "onnx", weights=weights)
    assert weights.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]


def test_missing_packages(model, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "new", replace(FORMATS["onnx"], packages=("onnx", "no_such_package")))
    with pytest.raises(
        ModuleNotFoundError, match="format 'new' needs no_such_package: pip install onnx no_such_package"
    ):
        export(model, tmp_path / "a.file", "new")


def test_networks_that_cannot_be_exported(tmp_path):
    grey = Architecture((1, 1, 1), cardinality=2, base_width=4, stem="cifar", in_channels=1).build()
    with pytest.raises(ValueError, match="with_preprocess gives 3 channels, but this network takes 1"):
        export(grey, tmp_path / "a.onnx", "onnx", with_preprocess=True)
    with pytest.raises(TypeError, match="ResNeXtFeatures"):
        export(TINY.build(features_only=True), tmp_path / "a.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_least_size(model, imagenet, tmp_path):
    for dynamic, least in ((False, 32), (True, 33)):
        with pytest.raises(ValueError, match=rf"{least - 1} px.*expected {least} px or more"):
            export(imagenet, tmp_path / "a.pt2", "pt2", dynamic=dynamic, image_size=least - 1)
    with pytest.raises(ValueError, match="expected 32 px or more"):
        export(model, tmp_path / "a.pt2", "pt2", dynamic=True, image_size=31)
    assert list(tmp_path.iterdir()) == []


# --- exports that fail ---


def add_format(monkeypatch, load, write=lambda job, path: path.write_bytes(b"new")):
    monkeypatch.setitem(FORMATS, "other", Format(write, load, "torch"))


@pytest.mark.parametrize(("wrong", "factor", "reason"), [(2, float("nan"), "off by nan"), (1, 1.1, "off by 1.0e")])
def test_all_images_are_checked(model, tmp_path, monkeypatch, wrong, factor, reason):
    """Not a number in the last, wrong logits in the second: each is found."""
    calls = []

    def run(job, x):
        calls.append(tuple(x.shape))
        return job.network(x) * (factor if len(calls) == wrong + 1 else 1)

    add_format(monkeypatch, lambda job, path: (partial(run, job), job.metadata))
    with pytest.raises(ExportError, match=reason):
        export(model, tmp_path / "a.file", "other", dynamic=True)
    assert calls == [(2, 3, 32, 32), (1, 3, 32, 64), (3, 3, 72, 41)]


def test_a_network_that_magnifies_rounding_is_compared_with_itself(model, tmp_path, monkeypatch):
    """What the same network in bfloat16 is off by is allowed, twice; more is not."""
    factor = 1.0

    def run(job, x):
        return copy.deepcopy(job.network).bfloat16()(x.bfloat16()).float() * factor

    add_format(monkeypatch, lambda job, path: (partial(run, job), job.metadata))
    monkeypatch.setitem(TOLERANCE, "bf16", 1e-9)
    export(model, tmp_path / "a.file", "other", precision="bf16")
    factor = 1.1
    with pytest.raises(ExportError, match="expected at most"):
        export(model, tmp_path / "a.file", "other", precision="bf16")


def no_file_of_ours(job, path):
    raise RuntimeError("no file of ours\nat line 1")


def nothing_to_say(job, path):
    raise MemoryError


RUNTIMES = {
    "expected at most 1e-05 in fp32": lambda job, path: (lambda x: job.network(x) * 1.0001, job.metadata),
    "off by nan": lambda job, path: (lambda x: job.network(x) * float("nan"), job.metadata),
    "expected logits of shape (1, 10), got (1, 9)": lambda job, path: (lambda x: job.network(x)[:, 1:], job.metadata),
    "lost metadata: license": lambda job, path: (job.network, {**job.metadata, "license": "none"}),
    "torch does not load it: no file of ours": no_file_of_ours,
    "torch does not load it: MemoryError": nothing_to_say,
}


@pytest.mark.parametrize("reason", RUNTIMES)
@pytest.mark.parametrize("before", [None, b"mine"])
def test_a_mismatch_leaves_the_file_as_it_was(model, tmp_path, monkeypatch, reason, before):
    add_format(monkeypatch, RUNTIMES[reason])
    out = tmp_path / "a.file"
    if before is not None:
        out.write_bytes(before)
    with pytest.raises(ExportError) as caught:
        export(model, out, "other")
    assert str(caught.value).startswith(f"{out}: not written: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])


def test_an_exporter_that_fails(model, tmp_path, monkeypatch):
    def write(job, path):
        path.write_bytes(b"new")
        raise KeyError("a node that nobody knows\nat line 1")

    add_format(monkeypatch, None, write)
    with pytest.raises(ExportError, match=r"a\.file: not written: .*a node that nobody knows"):
        export(model, tmp_path / "a.file", "other")
    assert list(tmp_path.iterdir()) == []


def test_the_weights_in_the_file_are_those_that_are_checked(model, tmp_path, monkeypatch):
    def write(job, path):
        FORMATS["safetensors"].write(job, path)
        tensors = safetensors.torch.load_file(path)
        tensors["fc.weight"] *= 1.001
        safetensors.torch.save_file(tensors, path, {"record": json.dumps(job.metadata)})

    monkeypatch.setitem(FORMATS, "other", replace(FORMATS["safetensors"], write=write))
    with pytest.raises(ExportError, match="off by"):
        export(model, tmp_path / "a.safetensors", "other")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["onnx", "safetensors", "torchscript", "pt2"])
@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
def test_a_full_disk(model, tmp_path, format):
    """Writing fails after 10 kB, in a way that ends the process where it happens in torch's own writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ExportError, match=r"a\.pt2: not written: File too large$"):
            export(model, tmp_path / "a.pt2", format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
