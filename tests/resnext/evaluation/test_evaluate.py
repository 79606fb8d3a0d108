"""The error of a network on a folder of images."""

import csv
import io
import json
import os
import sys

import pytest
import torch

from resnext.classes import class_names, wordnet_ids
from resnext.cli.evaluate import _reported
from resnext.evaluation.counts import Counts, Errors
from resnext.evaluation.processes import Processes
from resnext.evaluation.run import logits_of, thread_pool
from resnext.model import ResNeXt
from resnext.preprocess import get_preprocess
from tests.conftest import randomize, relative_error
from tests.resnext.evaluation.conftest import CIFAR_NAMES
from tests.resnext.evaluation.labelled import LabelledSet, evaluate, read_report


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


@pytest.mark.parametrize(("cores", "workers"), [(3, 3), (20, 8)])
def test_a_worker_for_each_core_but_no_more_than_eight(cifar, tmp_path, monkeypatch, cores, workers):
    monkeypatch.setattr(Processes, "cores", cores)
    assert evaluate(cifar.data, "--weights", cifar.weights, "--output", tmp_path / "report.json") == 0
    timing = read_report(tmp_path / "report.timing.json")
    assert (timing["workers"], timing["threads"]) == (workers, 1)  # as many threads as torch was told to take


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
    assert timing["seconds"] > 0
    assert timing["images_per_second"] == pytest.approx(24 / timing["seconds"])
    assert (timing["processes"], timing["workers"]) == (1, 0)
    assert not (tmp_path / "report.json.partial").exists()


@pytest.mark.parametrize(("name", "stem"), [("run.1", "run.1"), ("run", "run"), ("run.1.json", "run.1")])
def test_reports_do_not_share_what_lies_beside_them(cifar, tmp_path, name, stem):
    cifar.evaluate("--output", tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{stem}.csv", f"{stem}.timing.json"}


def test_report_is_the_same_from_run_to_run_and_with_workers_and_threads(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "cores", 2)
    for name, workers, threads in (("a", 0, 1), ("b", 2, 1), ("c", 0, 3)):
        torch.set_num_threads(threads)
        try:
            cifar.evaluate("--batch", 20, "--workers", workers, "--output", tmp_path / f"{name}.json")
        finally:
            torch.set_num_threads(1)
        assert read_report(tmp_path / f"{name}.timing.json")["threads"] == min(threads, 2)
        for suffix in (".json", ".csv"):
            assert (tmp_path / f"{name}{suffix}").read_bytes() == (tmp_path / f"a{suffix}").read_bytes()


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
    with thread_pool(1) as pool:
        logits = [logits_of(model, images, precision, pool) for precision in ("fp32", "bf16")]
    assert all(value.dtype == torch.float32 for value in logits)
    assert 0 < relative_error(logits[1], logits[0]) < 0.05


def test_logits_of_ten_crops_are_their_mean():
    model = randomize(ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)).eval()
    crops = torch.randn(2, 10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with thread_pool(1) as pool:
        expected = torch.stack([logits_of(model, image, "fp32", pool).mean(0) for image in crops])
        assert relative_error(logits_of(model, crops, "fp32", pool), expected) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_do_not_depend_on_threads(precision):
    """Neither on those that the caller computes with; these are as many as before in the end."""
    model = randomize(ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)).eval()
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    model.register_forward_pre_hook(
        lambda model, inputs: seen.append((len(inputs[0]), torch.get_num_threads(), torch.is_inference_mode_enabled()))
    )
    logits = []
    before = torch.get_num_threads()
    try:
        for intra_op, threads in ((1, 1), (2, 1), (1, 3), (3, 2)):
            torch.set_num_threads(intra_op)
            with thread_pool(threads) as pool:
                assert torch.get_num_threads() == 1  # reading in this process as well
                logits.append(logits_of(model, images, precision, pool))
            assert torch.get_num_threads() == intra_op
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(other, logits[0]) for other in logits[1:])
    assert sorted(seen) == sorted([(8, 1, True), (8, 1, True), (4, 1, True)] * 4)


def test_reported_error_stands_beside_what_was_tested_alike():
    theirs = {"pipeline": "torch7", "resize": 256, "crop": 224, "ten_crop": False}
    setup = {"network": "resnext50_32x4d_typeC", "preprocessing": theirs, "precision": "fp32"}
    whole = Counts({target: Errors(1, 0, 0) for target in range(1000)})
    assert _reported(setup, whole) == 22.2
    for other in ({"crop": 320}, {"ten_crop": True}, {"pipeline": "torchvision"}):
        assert _reported({**setup, "preprocessing": {**theirs, **other}}, whole) is None
    assert _reported({**setup, "preprocessing": {"pipeline": "cifar10"}}, whole) is None
    assert _reported({**setup, "precision": "bf16"}, whole) is None
    assert _reported({**setup, "network": "resnext11_2x4d_typeC"}, whole) is None
    del whole.classes[7]
    assert _reported(setup, whole) is None


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
    assert named["class_0/empty.png"] == "expected an image, got an empty file"
    assert named["class_1/text.jpg"].startswith("expected an image that Pillow reads")
    captured = capsys.readouterr()
    assert f"3, counted as {'wrong' if policy == 'wrong' else 'excluded'}" in captured.out
    assert "resnext: unreadable: class_1/text.jpg: expected an image that Pillow reads (JPEG" in captured.err


def test_many_unreadable_images_are_named_in_the_report_alone(damaged, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("resnext.cli.evaluate.MAX_NAMED", 1)
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
