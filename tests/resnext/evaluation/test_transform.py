"""Other preprocessing than the authors' single crop of 224 px."""

import pytest

from resnext.export.save import save
from resnext.preprocess import Preprocessing, TorchvisionPreprocess, get_preprocess
from tests.helpers.evaluation import LabelledSet, read_report


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


@pytest.mark.parametrize(
    ("preprocessing", "stem"),
    [
        (Preprocessing(resize=72, crop=64), "imagenet"),
        (Preprocessing("torchvision", 48, 40, "bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), "imagenet"),
        (Preprocessing("cifar", mean=(100, 110, 120), std=(50, 51, 52)), "cifar"),
    ],
)
def test_a_network_is_evaluated_as_it_was_trained(tmp_path, preprocessing, stem):
    names = ["zebra", "cat", "dog"]  # not in sorted order: folders are matched by name
    data = LabelledSet(tmp_path, [0, 1, 0, 0], transform=preprocessing.make(), names=names, stem=stem, size=(96, 80))
    save(data.model, data.weights, names, preprocessing=preprocessing)
    assert data.evaluate("--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert report["top1_error"] == 25.0
    assert report["preprocessing"] == preprocessing.as_dict()
    assert report["reported_top1_error"] is None
    assert data.evaluate("--crop", "320") == 2


def test_options_for_other_preprocessing_are_refused(tmp_path, capsys):
    own = Preprocessing(resize=72, crop=64)
    data = LabelledSet(tmp_path, [0, 1], transform=own.make(), names=["a", "b"], stem="imagenet", size=(96, 80)).fill()
    save(data.model, data.weights, preprocessing=own)
    assert data.evaluate("--ten-crop") == 2
    assert "--ten-crop is for ImageNet's networks, and these weights come with preprocessing" in capsys.readouterr().err
