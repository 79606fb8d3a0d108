"""The error of a network on a folder of images."""

import csv
import io
import json
import os
import sys

import pytest
import torch

from resnext.classes import class_names, wordnet_ids
from resnext.evaluate import _reported
from resnext.evaluation_run import logits_of
from resnext.model import ResNeXt
from resnext.preprocess import get_preprocess
from tests.conftest import randomize, relative_error
from tests.resnext.evaluation.conftest import CIFAR_NAMES
from tests.resnext.evaluation.labelled import LabelledSet, read_report


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


def test_a_subset_of_imagenet_is_matched_by_wordnet_id(imagenet, tmp_path):
    assert imagenet.evaluate("--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert (report["images"], report["top1_error"], report["top5_error"]) == (8, 25.0, 12.5)
    assert report["preprocessing"] == {"pipeline": "torch7", "resize": 256, "crop": 224, "ten_crop": False}
    with (tmp_path / "report.csv").open(newline="") as file:
        named = [(row["class"], row["name"]) for row in csv.DictReader(file)]
    known = list(zip(wordnet_ids(), class_names("imagenet"), strict=True))
    assert named == [known[target] for target in sorted(set(imagenet.targets))]


def test_bf16(cifar, tmp_path):
    assert cifar.evaluate("--precision", "bf16", "--output", tmp_path / "report.json") == 0
    assert read_report(tmp_path / "report.json")["precision"] == "bf16"
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = randomize(ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)).eval()
    logits = [logits_of(model, images, precision) for precision in ("fp32", "bf16")]
    assert all(value.dtype == torch.float32 for value in logits)
    assert 0 < relative_error(logits[1], logits[0]) < 0.05


def test_logits_of_ten_crops_are_their_mean():
    model = randomize(ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)).eval()
    crops = torch.randn(2, 10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([logits_of(model, image, "fp32").mean(0) for image in crops])
    assert relative_error(logits_of(model, crops, "fp32"), expected) < 1e-5


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
