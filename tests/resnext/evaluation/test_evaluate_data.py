"""WebDataset shards, and reading in worker processes."""

import io
import os
import pickle
import shutil
import tarfile

import pytest
import webdataset

from resnext.classes import wordnet_ids
from resnext.evaluation import DataError
from resnext.evaluation.batches import load
from resnext.evaluation.data import Tars, open_data
from resnext.evaluation.labels import Outputs
from resnext.images import EXTENSIONS
from resnext.preprocess import get_preprocess
from tests.resnext.evaluation.conftest import CIFAR_NAMES
from tests.resnext.evaluation.labelled import LabelledSet, evaluate, make_images, read_report

NO_IMAGE = "expected an image that Pillow reads (JPEG, PNG, …), got something else"
TEN = Outputs.of("cifar10", 10)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """20 images, of which 4 are wrong; in folders, and in three shards."""
    folder = tmp_path_factory.mktemp("labelled")
    labelled = LabelledSet(
        folder, [0] * 16 + [1, 2, 6, 9], transform=get_preprocess("cifar10"), names=CIFAR_NAMES
    ).fill()
    labelled.tars = folder / "tars"
    labelled.tars.mkdir()
    for shard, numbers in enumerate((range(9), range(9, 10), range(10, 20))):
        samples = ((f"{number:03d}", labelled.images[number], labelled.targets[number]) for number in numbers)
        write_tar(labelled.tars / f"val-{shard:03d}.tar", samples)
    return labelled


def png(image):
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def write_tar(path, samples):
    with webdataset.TarWriter(str(path)) as tar:
        for key, image, target in samples:
            tar.write({"__key__": key, "png": image if isinstance(image, bytes) else png(image), "cls": target})


@pytest.fixture(scope="module")
def figures(labelled, tmp_path_factory):
    """What the report says of the folder."""
    output = tmp_path_factory.mktemp("folder") / "report.json"
    assert labelled.evaluate("--output", output) == 0
    return figures_of(output)


def figures_of(path):
    report = read_report(path)
    return {key: report[key] for key in ("images", "top1_error", "top5_error", "confidence_interval")}


PIPE = "pipe:cat {tars}/val-{{000..002}}.tar"


@pytest.mark.parametrize(
    ("pattern", "workers"),
    [("{tars}", 2), ("{tars}/val-{{000..002}}.tar", 0), ("file:{tars}/val-{{000..002}}.tar", 0), (PIPE, 0)],
)
def test_shards_give_what_the_folder_gives(labelled, figures, tmp_path, pattern, workers):
    data, output = pattern.format(tars=labelled.tars), tmp_path / "tars.json"
    assert evaluate(data, "--weights", labelled.weights, "--workers", workers, "--batch", 4, "--output", output) == 0
    assert figures_of(output) == figures
    assert read_report(output)["data"]["format"] == "WebDataset"


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http with curl, which is not installed")
def test_shards_over_http(labelled, figures, tmp_path, httpserver):
    for path in labelled.tars.iterdir():
        httpserver.expect_request(f"/{path.name}").respond_with_data(path.read_bytes())
    data, output = httpserver.url_for("/val-{000..002}.tar"), tmp_path / "tars.json"
    assert evaluate(data, "--weights", labelled.weights, "--workers", 0, "--output", output) == 0
    assert figures_of(output) == figures


def test_labels_as_text(tmp_path):
    write_tar(tmp_path / "a.tar", [("1", next(make_images(1)), "truck"), ("2", next(make_images(1)), "3")])
    (batch, end) = open_data(str(tmp_path / "a.tar"), TEN, 8).read(0, get_preprocess("cifar10"))
    assert batch.targets.tolist() == [9, 3]
    assert end.last


def test_images_in_shards_that_cannot_be_read_are_named(labelled, tmp_path):
    write_tar(tmp_path / "a.tar", [("x/1", labelled.images[0], labelled.targets[0]), ("x/2", b"no image", 3)])
    assert (
        evaluate(
            tmp_path / "a.tar", "--weights", labelled.weights, "--workers", 0, "--output", tmp_path / "report.json"
        )
        == 0
    )
    report = read_report(tmp_path / "report.json")
    assert (report["images"], report["top1_wrong"]) == (2, 1)
    reason = NO_IMAGE
    assert report["unreadable"]["images"] == [{"image": "a.tar/x/2.png", "reason": reason}]


def test_an_empty_shard_among_others_is_nothing(labelled, tmp_path):
    write_tar(tmp_path / "a.tar", [("1", labelled.images[0], labelled.targets[0])])
    tarfile.open(tmp_path / "b.tar", "w").close()
    assert evaluate(tmp_path, "--weights", labelled.weights, "--workers", 0, "--output", tmp_path / "report.json") == 0
    assert read_report(tmp_path / "report.json")["images"] == 1


def broken(tmp_path, labelled):
    path = tmp_path / "cut.tar"
    whole = (labelled.tars / "val-000.tar").read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 100])
    return path


def without(tmp_path, **sample):
    path = tmp_path / "odd.tar"
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        tar.write({"__key__": "7", **sample})
    return path


REFUSED_SHARDS = [
    (lambda tmp_path, labelled: tmp_path / "no.tar", ("1 of 1 shards are not there", "no.tar")),
    (
        lambda tmp_path, labelled: f"{labelled.tars}/val-{{000..004}}.tar",
        ("2 of 5 shards are not there", "val-003.tar"),
    ),
    (lambda tmp_path, labelled: f"{labelled.tars}/val-00{{0,1,0}}.tar", ("named twice", "val-000.tar")),
    (lambda tmp_path, labelled: f"{labelled.tars}/val-${{x}}.tar", ("not a pattern", "WDS_x")),
    (broken, ("cut.tar: ",)),
    (
        lambda tmp_path, labelled: without(tmp_path, png=b"x"),
        ("none of 1 images", "odd.tar/7.png: a sample of png;", "its label, cls"),
    ),
    (lambda tmp_path, labelled: without(tmp_path, cls=b"1"), ("odd.tar/7: a sample of cls;", "one image (avif, ")),
    (lambda tmp_path, labelled: without(tmp_path, cls=b"12", png=b""), ("odd.tar/7.png: label '12'; ", "0 to 9")),
    (lambda tmp_path, labelled: "pipe:exit 3", ("pipe:exit 3: the command failed with exit status 3",)),
    (lambda tmp_path, labelled: f"pipe:cat {labelled.tars}/val-000.tar; exit 3", ("exit status 3",)),
    # after the archive's end, where tarfile stops reading
    (lambda tmp_path, labelled: f"pipe:cat {labelled.tars}/val-000.tar && head -c 1000000 /dev/zero && exit 3", ("3",)),
    (lambda tmp_path, labelled: "nothing:there.tar", ("nothing:there.tar: ",)),
    (lambda tmp_path, labelled: tmp_path / "nowhere", ("expected a folder of class folders", "there is nothing")),
    (lambda tmp_path, labelled: labelled.weights, ("expected a folder of class folders", "got another file")),
]


@pytest.mark.parametrize(("make", "parts"), REFUSED_SHARDS)
def test_data_that_is_refused(labelled, tmp_path, capfd, make, parts):
    assert evaluate(make(tmp_path, labelled), "--weights", labelled.weights, "--workers", 0) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("resnext: ")
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err


def test_what_is_wrong_with_a_shard_comes_from_the_worker_in_one_line(labelled, tmp_path, capfd):
    data = broken(tmp_path, labelled)
    assert evaluate(data, "--weights", labelled.weights, "--workers", 1) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"resnext: {data}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("policy", "images", "wrong"), [("wrong", 6, 5), ("exclude", 1, 0)])
@pytest.mark.parametrize("workers", [0, 1])
def test_samples_without_an_image_and_its_label_are_named(labelled, tmp_path, policy, images, wrong, workers):
    image, cls = png(labelled.images[0]), str(labelled.targets[0]).encode()
    samples = {
        "1": {"png": image, "cls": b"12"}, "2": {"png": image}, "3": {"cls": b"3"}, "4": {"json": b"{}"},
        "5": {"png": image, "jpg": image, "cls": cls}, "6": {"png": image, "cls": cls},
    }  # fmt: skip
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as tar:
        for key, sample in samples.items():
            tar.write({"__key__": key, **sample})
    options = ["--weights", labelled.weights, "--workers", workers, "--on-error", policy, "--batch", 4]
    assert evaluate(tmp_path / "a.tar", *options, "--output", tmp_path / "report.json") == 0
    report = read_report(tmp_path / "report.json")
    assert (report["images"], report["top1_wrong"], report["top5_wrong"]) == (images, wrong, wrong)
    expected = f"; expected one image ({', '.join(kind[1:] for kind in EXTENSIONS)}) and its label, cls"
    assert {entry["image"]: entry["reason"] for entry in report["unreadable"]["images"]} == {
        "a.tar/1.png": "label '12'; the network takes 0 to 9, or the name of one of its classes",
        "a.tar/2.png": f"a sample of png{expected}",
        "a.tar/3": f"a sample of cls{expected}",
        "a.tar/4": f"a sample of json{expected}",
        "a.tar/5.jpg": f"a sample of cls, jpg, png{expected}",
    }
    rows = (tmp_path / "report.csv").read_text().splitlines()[1:]  # of the three with a label alone
    assert sum(int(row.split(",")[2]) for row in rows) == (3 if policy == "wrong" else 1)
    assert not any(row.startswith("-1,") for row in rows)


def test_without_webdataset(labelled, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "webdataset" else name)
    assert evaluate(labelled.tars, "--weights", labelled.weights) == 2
    assert "pip install webdataset" in capsys.readouterr().err


def test_hidden_shards_are_left_out(labelled, tmp_path):
    shutil.copy(labelled.tars / "val-001.tar", tmp_path / "a.tar")
    (tmp_path / "._a.tar").write_bytes(b"what macOS leaves there")
    (tmp_path / ".cache").mkdir()
    assert open_data(str(tmp_path), TEN, 8).urls == [str(tmp_path / "a.tar")]


def test_readers_can_be_sent_to_worker_processes(labelled):
    """As where processes are spawned, not forked."""
    for data, images in ((labelled.data, 20), (labelled.tars, 20)):
        source = pickle.loads(pickle.dumps(open_data(str(data), TEN, 8)))
        transform = pickle.loads(pickle.dumps(get_preprocess("cifar10")))
        batches = load(source, range(len(source)), transform, workers=0, pin=False)
        assert sum(len(batch.targets) for batch in batches) == images


def test_a_worker_that_dies_is_one_line(labelled):
    def die(image):
        os._exit(1)

    source = open_data(str(labelled.data), TEN, 8)
    with pytest.raises(DataError, match=r"reading images failed.*--workers 0"):
        list(load(source, [0], die, workers=1, pin=False))


def test_wordnet_ids_of_shards_are_the_rows_of_the_table(tmp_path):
    write_tar(tmp_path / "a.tar", [("1", next(make_images(1)), "n02102040")])
    tars = open_data(str(tmp_path), Outputs.of("imagenet", 1000), 8)
    assert isinstance(tars, Tars)
    assert tars.labels[217] == wordnet_ids()[217] == "n02102040"
