"""Other preprocessing than the authors' single crop of 224 px."""

import sys

import pytest
import torch

from resnext.evaluation.transform import TorchvisionPreprocess
from resnext.preprocess import get_preprocess
from tests.helpers.evaluation import LabelledSet, read_report
from tests.helpers.pictures import make_images


@pytest.mark.parametrize(
    ("options", "transform", "described"),
    [
        (("--crop", "320"), get_preprocess("imagenet", crop=320), {"resize": 320, "crop": 320}),
        (("--ten-crop",), get_preprocess("imagenet", ten_crop=True), {"ten_crop": True}),
        (("--preprocess", "torchvision"), TorchvisionPreprocess(), {"pipeline": "torchvision"}),
    ],
)
def test_other_pipelines(torchvision, tmp_path, options, transform, described):
    data = LabelledSet(
        tmp_path, [0, 1], transform=transform, names=["a", "b", "c"], stem="imagenet", size=(280, 260)
    ).fill()
    assert data.evaluate(*options, "--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert report["top1_error"] == 50.0
    assert report["top5_error"] == 0.0  # three classes: every one is among the first five
    assert described.items() <= report["preprocessing"].items()


def test_a_missing_torchvision_is_one_line(imagenet, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert imagenet.evaluate("--preprocess", "torchvision") == 2
    error = capsys.readouterr().err
    assert error == "resnext: --preprocess torchvision needs the torchvision package: pip install torchvision\n"


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (256, 256), (256, 257), (640, 480), (100, 33)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_torchvision_pipeline_to_the_bit(torchvision, size, mode):
    from torchvision.transforms._presets import ImageClassification

    image = next(make_images(1, size)).convert(mode)
    expected = ImageClassification(crop_size=224)(image.convert("RGB"))
    assert torch.equal(TorchvisionPreprocess()(image), expected)


def test_torchvision_ten_crop_to_the_bit(torchvision):
    from torchvision.transforms import functional
    from torchvision.transforms._presets import ImageClassification

    image = next(make_images(1, (353, 300)))
    resized = functional.resize(image, [256])
    expected = torch.stack(
        [ImageClassification(crop_size=224, resize_size=224)(crop) for crop in functional.ten_crop(resized, 224)]
    )
    assert torch.equal(TorchvisionPreprocess(ten_crop=True)(image), expected)
