"""The error of a network on a folder of images."""

import copy
import csv
import io
import json
import os
import shutil
import sys

import pytest
import torch

from resnext.classes import class_names, wordnet_ids
from resnext.evaluate import _reported
from resnext.evaluation_run import logits_of
from resnext.evaluation_transform import TorchvisionPreprocess
from resnext.model import ResNeXt
from resnext.preprocess import get_preprocess
from tests.conftest import randomize, relative_error
from tests.resnext.evaluation_set import LabelledSet, evaluate, one_thread, read_report  # noqa: F401

CIFAR_NAMES = [f"class_{number}" for number in range(10)]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """24 images: 18 right, 4 right among the first five, 2 not even that."""
    return LabelledSet(
        tmp_path_factory.mktemp("cifar"), [0] * 18 + [1, 2, 4, 3, 5, 9], transform=get_preprocess("cifar10"),
        names=CIFAR_NAMES,
    ).fill()  # fmt: skip


@pytest.fixture
def changing(cifar, tmp_path):
    """The same, to be changed."""
    copied = copy.copy(cifar)
    copied.data = shutil.copytree(cifar.data, tmp_path / "data")
    return copied


def test_errors_are_those_that_were_made(cifar, tmp_path, capsys):
    assert cifar.evaluate("--batch", 5, "--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert (report["images"], report["top1_error"], report["top5_error"]) == (24, 25.0, 100 * 2 / 24)
    assert report["network"] == "resnext11_2x4d_typeC"
    assert report["preprocessing"] == {"pipeline": "cifar10"}
    assert report["reported_top1_error"] is None
    assert report["unreadable"] == {"counted_as": "wrong", "images": []}
    out = capsys.readouterr().out
    assert "top-1 error  25.00 %  (95%: 12.00 to 44.90, Wilson)" in out
    assert "images/s" in out


def test_own_answers_are_no_error(tmp_path, capsys):
    data = LabelledSet(tmp_path, [0] * 12, transform=get_preprocess("cifar10"), names=CIFAR_NAMES).fill()
    assert data.evaluate() == 0
    assert "top-1 error  0.00 %  (95%: 0.00 to 24.25, Wilson)" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiny.pth"]  # no --output, no file


def test_what_lies_beside_the_report(cifar, tmp_path):
    cifar.evaluate("--output", tmp_path / "report.json")
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {row["class"]: int(row["images"]) for row in rows}
    assert counts == {CIFAR_NAMES[target]: cifar.targets.count(target) for target in cifar.targets}
    assert [row["name"] for row in rows] == [class_names("cifar10")[target] for target in sorted(set(cifar.targets))]
    for column, wrong in (("top1_error", 6), ("top5_error", 2)):
        assert sum(float(row[column]) * int(row["images"]) for row in rows) == pytest.approx(100 * wrong)
    timing = json.loads((tmp_path / "report.timing.json").read_text())
    assert timing["images"] == 24
    assert timing["images_per_second"] > 0
    assert not (tmp_path / "report.json.partial").exists()


def test_report_is_the_same_from_run_to_run_and_with_workers(cifar, tmp_path):
    for name, workers in (("a", 0), ("b", 2)):
        cifar.evaluate("--batch", 4, "--workers", workers, "--output", tmp_path / f"{name}.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A network of ImageNet's classes, and folders for the few that its answers are: 6 right, 2 wrong."""
    return LabelledSet(
        tmp_path_factory.mktemp("imagenet"), [0] * 6 + [1, 7], transform=get_preprocess("imagenet"),
        names=wordnet_ids(), stem="imagenet", size=(280, 260),
    )  # fmt: skip


def test_a_subset_of_imagenet_is_matched_by_wordnet_id(imagenet, tmp_path):
    assert imagenet.evaluate("--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert (report["images"], report["top1_error"], report["top5_error"]) == (8, 25.0, 12.5)
    assert report["preprocessing"] == {"pipeline": "torch7", "resize": 256, "crop": 224, "ten_crop": False}
    with (tmp_path / "report.csv").open(newline="") as file:
        named = [(row["class"], row["name"]) for row in csv.DictReader(file)]
    known = list(zip(wordnet_ids(), class_names("imagenet"), strict=True))
    assert named == [known[target] for target in sorted(set(imagenet.targets))]


@pytest.mark.parametrize(
    ("options", "transform", "described"),
    [
        (("--crop", "320"), get_preprocess("imagenet", crop=320), {"resize": 320, "crop": 320}),
        (("--ten-crop",), get_preprocess("imagenet", ten_crop=True), {"ten_crop": True}),
        (("--preprocess", "torchvision"), TorchvisionPreprocess(), {"pipeline": "torchvision"}),
    ],
)
def test_other_pipelines(tmp_path, options, transform, described):
    data = LabelledSet(
        tmp_path, [0, 1], transform=transform, names=["a", "b", "c"], stem="imagenet", size=(280, 260)
    ).fill()
    assert data.evaluate(*options, "--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert report["top1_error"] == 50.0
    assert report["top5_error"] == 0.0  # three classes: every one is among the first five
    assert described.items() <= report["preprocessing"].items()


def test_bf16(cifar, tmp_path):
    assert cifar.evaluate("--precision", "bf16", "--output", tmp_path / "report.json") == 0
    assert read_report(tmp_path / "report.json")["precision"] == "bf16"
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = randomize(ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)).eval()
    logits = [logits_of(model, images, precision) for precision in ("fp32", "bf16")]
    assert all(value.dtype == torch.float32 for value in logits)
    assert 0 < relative_error(logits[1], logits[0]) < 0.05


def test_reported_error_stands_beside_what_was_tested_alike():
    model = torch.nn.Module()
    model.num_classes = 1000
    setup = {"network": "resnext50_32x4d_typeC", "preprocessing": {"crop": 224, "ten_crop": False}}
    assert _reported(setup, model) == 22.2
    assert _reported({**setup, "preprocessing": {"crop": 320, "ten_crop": False}}, model) is None
    assert _reported({**setup, "preprocessing": {"crop": 224, "ten_crop": True}}, model) is None
    assert _reported({**setup, "network": "resnext11_2x4d_typeC"}, model) is None
    assert _reported({**setup, "preprocessing": {"pipeline": "cifar10"}}, model) is None
    model.num_classes = 10
    assert _reported(setup, model) is None


@pytest.fixture
def damaged(changing):
    """Three more files in the folders of the classes 0 and 1, none of which can be read."""
    with io.BytesIO() as file:
        changing.images[0].resize((200, 200)).save(file, "JPEG")
        (changing.data / "class_0" / "cut.jpg").write_bytes(file.getvalue()[:1000])
    (changing.data / "class_0" / "empty.png").write_bytes(b"")
    (changing.data / "class_1" / "text.jpg").write_text("no image at all")
    return changing


@pytest.mark.parametrize(("policy", "images", "top1", "top5"), [("wrong", 27, 9, 5), ("exclude", 24, 6, 2)])
def test_images_that_cannot_be_read(damaged, tmp_path, capsys, policy, images, top1, top5):
    assert damaged.evaluate("--on-error", policy, "--workers", 1, "--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert (report["images"], report["top1_wrong"], report["top5_wrong"]) == (images, top1, top5)
    named = {entry["image"]: entry["reason"] for entry in report["unreadable"]["images"]}
    assert list(named) == ["class_0/cut.jpg", "class_0/empty.png", "class_1/text.jpg"]
    assert "truncated" in named["class_0/cut.jpg"]
    assert named["class_0/empty.png"] == "an empty file"
    assert named["class_1/text.jpg"] == "not an image that Pillow reads"
    captured = capsys.readouterr()
    assert f"3, counted as {'wrong' if policy == 'wrong' else 'excluded'}" in captured.out
    assert "resnext: unreadable: class_1/text.jpg: not an image that Pillow reads\n" in captured.err


def test_many_unreadable_images_are_named_in_the_report_alone(damaged, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("resnext.evaluate.MAX_NAMED", 1)
    assert damaged.evaluate() == 0
    err = capsys.readouterr().err
    assert err.splitlines()[1:] == ["resnext: 2 more are unreadable; --output names all"]


def test_a_bar_on_a_terminal(cifar, monkeypatch, capsys):
    cifar.evaluate()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cifar.evaluate()
    assert "evaluate: 100%" in capsys.readouterr().err


def test_names_that_are_not_utf_8(changing, tmp_path):
    folder = os.fsdecode(b"class_3\xff")
    (changing.data / "class_3").rename(changing.data / folder)
    assert changing.evaluate("--output", tmp_path / "report.json") == 0
    assert b"\nclass_3\xff,cat," in (tmp_path / "report.csv").read_bytes()


def test_images_of_several_sizes_go_through_a_network_that_resizes_nothing(changing, tmp_path):
    extra = changing.images[0].resize((40, 36))
    extra.save(changing.data / "class_3" / "larger.png")
    assert changing.evaluate("--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert report["images"] == 25
    assert report["top1_wrong"] in (6, 7)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--crop", "320"), ("--crop", "CIFAR10")),
        (("--ten-crop",), ("--ten-crop", "CIFAR10")),
        (("--preprocess", "torchvision"), ("--preprocess torchvision", "CIFAR10")),
        (("--resume",), ("--resume needs --output",)),
        (("--output", "report.csv"), ("--output report.csv", ".json")),
        (("--output", "nowhere/report.json"), ("--output nowhere/report.json", "folder that exists")),
        (("--batch", "0"), ("--batch", "from 1 up", "got 0")),
        (("--workers", "-1"), ("--workers", "from 0 up", "got -1")),
    ],
)
def test_options_that_are_refused(cifar, capsys, options, parts):
    try:
        status = cifar.evaluate(*options)
    except SystemExit as exit_:  # of the argument parser
        status = exit_.code
    assert status == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err


def test_a_crop_that_nobody_tested_is_refused(imagenet, capsys):
    assert imagenet.evaluate("--crop", "300") == 2
    assert capsys.readouterr().err == "resnext: --crop 300: expected 224 or 320\n"


def test_a_network_for_other_than_rgb_is_refused(tmp_path, capsys):
    model = ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10, in_channels=1)
    torch.save(model.state_dict(), tmp_path / "grey.pth")
    assert evaluate(tmp_path, "--weights", tmp_path / "grey.pth") == 2
    assert "1 channels; expected 3" in capsys.readouterr().err


def test_without_pillow(cifar, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "PIL" else name)
    assert cifar.evaluate() == 2
    assert capsys.readouterr().err == "resnext: evaluate reads images with Pillow: pip install pillow\n"


def test_no_image_that_can_be_read(changing, tmp_path, capsys):
    for path in changing.data.rglob("*.png"):
        path.write_bytes(b"")
    assert changing.evaluate("--output", tmp_path / "report.json") == 2
    assert "none of 24 images could be read; the first, class_" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()
