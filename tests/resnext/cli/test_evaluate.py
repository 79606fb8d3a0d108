"""`python -m resnext evaluate`: the report, what is refused, and what goes on after an interruption."""

import csv
import io
import json
import os
import shutil
import sys

import pytest
import torch

from resnext.classes import class_names, wordnet_ids
from resnext.evaluation.run import Processes
from resnext.model import ResNeXt
from resnext.preprocess import get_preprocess
from tests.helpers.evaluation import (
    CIFAR_NAMES,
    LabelledSet,
    evaluate,
    kill_in_the_middle,
    read_report,
    replace_keep,
    start,
    written,
)


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


def test_own_answers_are_right_and_without_output_there_is_no_file(tmp_path, capsys):
    data = LabelledSet(tmp_path, [0] * 12, transform=get_preprocess("cifar10"), names=CIFAR_NAMES).fill()
    assert data.evaluate() == 0
    assert "top-1 error  0.00 %  (95%: 0.00 to 24.25, Wilson)" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiny.pth"]


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


def test_many_unreadable_images_are_named_only_in_the_report(damaged, tmp_path, monkeypatch, capsys):
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


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RANK", "x", "RANK=x, WORLD_SIZE=1: expected a whole number and a greater one"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK=-1, LOCAL_WORLD_SIZE=1: expected a whole number and a greater one"),
        ("WORLD_SIZE", "0", "RANK=0, WORLD_SIZE=0: expected a whole number and a greater one"),
        ("LOCAL_WORLD_SIZE", "", "LOCAL_RANK=0, LOCAL_WORLD_SIZE=: expected a whole number and a greater one"),
        ("RANK", "1", "RANK=1, WORLD_SIZE=1: expected a whole number and a greater one"),
    ],
)
def test_an_environment_that_torchrun_does_not_make_is_refused(cifar, monkeypatch, capsys, name, value, expected):
    monkeypatch.setenv(name, value)
    assert cifar.evaluate() == 2
    assert capsys.readouterr().err == f"resnext: {expected}; start processes with torchrun\n"


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


def test_a_killed_run_resumes_to_the_same_report(arguments, tmp_path, expected):
    kill_in_the_middle(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json.partial"]
    assert evaluate(*arguments, "--resume") == 0
    assert written(tmp_path) == expected
    timing = json.loads((tmp_path / "report.timing.json").read_text())
    assert timing["images"] == 6  # the last two batches of four, less two that cannot be read
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.json", "report.timing.json"]


def test_resuming_another_run_is_refused(arguments, tmp_path, capsys):
    kill_in_the_middle(arguments)
    left = sorted((tmp_path / "report.json.partial").iterdir())
    assert evaluate(*arguments, "--resume", "--batch", 8, "--precision", "bf16") == 2
    err = capsys.readouterr().err
    assert "(batch: 4 then, 8 now; precision: fp32 then, bf16 now). " in err
    assert "leave out --resume" in err
    assert sorted((tmp_path / "report.json.partial").iterdir()) == left


def test_what_unreadable_images_count_as_may_change(arguments, tmp_path):
    kill_in_the_middle(arguments, 4)
    assert evaluate(*arguments, "--resume", "--on-error", "exclude") == 0
    report = read_report(tmp_path / "report.json")
    assert (report["images"], report["top1_wrong"], report["unreadable"]["counted_as"]) == (17, 5, "excluded")


def test_without_resume_all_is_counted_afresh(arguments, tmp_path, capsys, expected):
    kill_in_the_middle(arguments)
    assert evaluate(*arguments) == 0
    assert (
        "discarding the counts of 3 shards of an interrupted run; --resume would keep them" in capsys.readouterr().err
    )
    assert written(tmp_path) == expected
    assert json.loads((tmp_path / "report.timing.json").read_text())["images"] == 17


def test_resuming_where_nothing_was_begun_begins(arguments, tmp_path, expected):
    assert evaluate(*arguments, "--resume") == 0
    assert written(tmp_path) == expected


def test_data_that_changed_are_noticed_though_their_sizes_are_the_same(five_batches, arguments, tmp_path, capsys):
    arguments[0] = shutil.copytree(five_batches.data, tmp_path / "data")
    kill_in_the_middle(arguments)
    image = next(arguments[0].rglob("no.png"))
    image.write_bytes(image.read_bytes()[::-1])
    os.utime(image, (1, 1))
    assert evaluate(*arguments, "--resume") == 2
    assert "holds counts of another run (times of change: " in capsys.readouterr().err


def test_a_second_run_of_a_report_is_refused_while_the_first_goes_on(arguments, tmp_path, expected, monkeypatch, capfd):
    def keep(original, shard):
        original()
        if shard == 2:
            with pytest.MonkeyPatch.context() as patch:
                replace_keep(patch, lambda original, shard: original())
                statuses.append([*start(arguments, 1), *start([*arguments, "--resume"], 1)])

    statuses = []
    replace_keep(monkeypatch, keep)
    assert evaluate(*arguments) == 0
    assert statuses == [[2, 2]]
    assert capfd.readouterr().err.count("report.json.partial is in use by another run; wait until it ends, or ") == 2
    assert written(tmp_path) == expected


def test_a_report_that_cannot_be_written_leaves_the_counts_for_the_next_run(arguments, tmp_path, monkeypatch, capsys):
    def keep(original, shard):
        original()
        (tmp_path / "report.json").mkdir(exist_ok=True)

    replace_keep(monkeypatch, keep)
    assert evaluate(*arguments) == 2
    assert "report.json" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.csv", "report.timing.json", "report.json", "report.json.partial"
    }  # fmt: skip
    (tmp_path / "report.json").rmdir()
    assert evaluate(*arguments, "--resume") == 0
    assert json.loads((tmp_path / "report.timing.json").read_text())["images"] == 0
