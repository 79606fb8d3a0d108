"""Labelled images: which class they are of, and how they are read from folders and from WebDataset shards."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
import webdataset

from resnext.classes import class_names, wordnet_ids
from resnext.evaluation import DataError
from resnext.evaluation.data import Folder, Outputs, Tars, load, match_folders, match_label, open_data, read_tar
from resnext.images import EXTENSIONS, MAX_IMAGE_FILE
from resnext.preprocess import get_preprocess
from tests.helpers.evaluation import CIFAR_NAMES, LabelledSet, evaluate, read_report
from tests.helpers.pictures import encoded, make_images

TEN = Outputs.of("cifar10", 10)
IMAGENET = Outputs.of("imagenet", 1000)
FOUR = Outputs.of("imagenet", 4)
NO_IMAGE = "expected an image that Pillow reads (JPEG, PNG, …), got something else"


def test_wordnet_ids_are_matched_by_id():
    assert match_folders(["n02102040", "n01440764"], IMAGENET, "data") == [217, 0]
    assert match_folders(wordnet_ids(), IMAGENET, "data") == list(range(1000))


def test_other_names_are_matched_in_sorted_order():
    assert match_folders(["b", "10", "a", "9"], FOUR, "data") == [3, 0, 2, 1]
    thousand = [f"class {number:03d}" for number in range(1000)]
    assert match_folders(thousand, IMAGENET, "data") == list(range(1000))


def test_folders_with_the_names_of_the_networks_classes_are_matched_by_name():
    own = Outputs.of("imagenet", 3, ["zebra", "cat", "dog"])
    assert match_folders(["cat", "dog", "zebra"], own, "data") == [1, 2, 0]
    assert match_folders(["zebra"], own, "data") == [0]
    assert match_folders(["a", "b", "c"], own, "data") == [0, 1, 2]  # names that say nothing: in sorted order
    assert match_folders(["truck", "airplane"], TEN, "data") == [9, 0]
    assert match_label("cat", own) == 1
    ids = Outputs.of(
        "imagenet", 2, ["n02102040", "n01440764"]
    )  # as ImageFolder names the classes of a part of ImageNet
    assert match_folders(["n01440764", "n02102040"], ids, "data") == [1, 0]


def test_wordnet_ids_are_names_like_others_for_a_network_of_other_classes():
    assert match_folders(["n01440764", "n02102040", "n02979186", "n03000684"], FOUR, "data") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("folders", "outputs", "parts"),
    [
        (["a", "b", "c"], FOUR, ("data: 3 class folders (a, b, c)", "4 classes")),
        (list("abcde"), FOUR, ("5 class folders (a, b, c, …)", "4 classes")),
        (["train", "val"], IMAGENET, ("2 class folders (train, val)", "1,000 classes", "WordNet id")),
        (["n01440764", "n02102040", "n00000000"], IMAGENET, ("1 of 3", "n00000000", "1,000")),
        (["n01440764", "dog", "n02102040"], IMAGENET, ("2 class folders", "1 are not (dog)")),
        (["n01440764", "n02102040"], FOUR, ("2 class folders", "4 classes")),
        (["cat", "lorry"], TEN, ("1 class folders have the name of a class", "1 have not (lorry)")),
        (["a", "b"], TEN, ("2 class folders", "10 classes", "or folders with the names of its classes")),
    ],
)
def test_folders_that_do_not_fit_are_refused_with_both_counts(folders, outputs, parts):
    with pytest.raises(DataError) as caught:
        match_folders(folders, outputs, "data")
    for part in parts:
        assert part in str(caught.value)


def test_labels_of_samples():
    assert [match_label(text, IMAGENET) for text in ("7", "007", "n02102040", "tench")] == [7, 7, 217, 0]
    assert match_label("truck", Outputs.of("cifar10", 10)) == class_names("cifar10").index("truck")


@pytest.mark.parametrize(
    ("label", "outputs", "expected"),
    [
        ("1000", IMAGENET, "0 to 999, or a WordNet id or name"),
        ("-1", IMAGENET, "0 to 999"),
        ("n00000000", IMAGENET, "0 to 999"),
        ("tench", FOUR, "0 to 3"),
        ("lorry", Outputs.of("cifar10", 10), "0 to 9, or the name"),
        ("", FOUR, "label ''"),
        ("²", FOUR, "0 to 3"),
    ],
)
def test_labels_that_are_refused(label, outputs, expected):
    with pytest.raises(ValueError, match=expected):
        match_label(label, outputs)


@pytest.mark.parametrize(
    ("folders", "expected"), [((), "there are neither"), (CIFAR_NAMES, "no images in 10 class folders")]
)
def test_folders_without_images_are_refused(tmp_path, folders, expected):
    for name in folders:
        (tmp_path / name).mkdir()
    (tmp_path / "readme.txt").write_text("no image")
    with pytest.raises(DataError, match=expected):
        open_data(str(tmp_path), TEN, 8)


@pytest.fixture
def odd_folder(tmp_path):
    """What ImageFolder takes and what it does not."""
    names = "b/10.png b/9.PNG b/Z.jpeg b/deep/x.webp b/deep/er/y.bmp b/z/1.png"
    names += " b/alpha/1.png b/m/1.png b/a.txt B/1.ppm"
    for name in names.split():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for empty in "ac":
        (tmp_path / "data" / empty).mkdir()
    (tmp_path / "data" / "d").symlink_to(tmp_path / "data" / "b" / "deep")
    (tmp_path / "data" / "loose.png").write_bytes(b"")
    return tmp_path / "data"


def test_the_folder_is_read_as_by_torchvision(torchvision, odd_folder):
    from torchvision.datasets import ImageFolder

    expected = ImageFolder(odd_folder, allow_empty=True)
    folder = open_data(str(odd_folder), Outputs(5), 2)
    assert isinstance(folder, Folder)
    assert [(str(odd_folder / name), target) for name, target in folder.samples] == expected.samples
    assert folder.labels == dict(enumerate(expected.classes))
    assert {*EXTENSIONS} - {*torchvision.datasets.folder.IMG_EXTENSIONS} == {".avif", ".gif"}


def test_what_is_hidden_is_left_out(odd_folder):
    expected = open_data(str(odd_folder), Outputs(5), 2).samples
    (odd_folder / "b" / "._10.png").write_bytes(b"what macOS leaves there")
    for hidden in (odd_folder / ".cache", odd_folder / "b" / ".ipynb_checkpoints"):
        hidden.mkdir()
        shutil.copy(odd_folder / "b" / "10.png", hidden)
    assert open_data(str(odd_folder), Outputs(5), 2).samples == expected


@pytest.mark.parametrize("target", [".", "..", "../..", "deep"])
def test_a_link_back_counts_no_image_twice(odd_folder, target):
    expected = open_data(str(odd_folder), Outputs(5), 2).samples
    (odd_folder / "b" / "loop").symlink_to(target)
    assert open_data(str(odd_folder), Outputs(5), 2).samples == expected


@pytest.mark.parametrize("name", ["a", "b/deep"])
def test_a_folder_that_cannot_be_read_is_named(odd_folder, monkeypatch, name):
    scan = os.scandir

    def refuse(path):
        if Path(path) == odd_folder / name:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)  # root may read everything
    with pytest.raises(DataError, match=rf"data/{name}: cannot be read: Permission denied; "):
        open_data(str(odd_folder), Outputs(5), 2)


def test_digests_tell_data_sets_apart(odd_folder):
    def digests():
        data = open_data(str(odd_folder), Outputs(5), 2)
        return data.digest, data.modified

    content, times = digests()
    assert digests() == (content, times)
    os.utime(odd_folder / "b" / "10.png", (1, 1))
    assert digests()[0] == content
    assert digests()[1] != times
    (odd_folder / "b" / "10.png").write_bytes(b"longer than before")
    assert digests()[0] != content


@pytest.mark.timeout(20)
def test_a_fifo_among_images_is_an_unreadable_one(odd_folder):
    os.mkfifo(odd_folder / "c" / "pipe.png")
    batch, end = open_data(str(odd_folder), Outputs(5), 100).read(0, get_preprocess("cifar10"))
    reasons = {image.image: image.reason for image in batch.unreadable}
    assert reasons["c/pipe.png"] == "expected a regular file, got a FIFO"
    assert end.last


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


def write_tar(path, samples):
    with webdataset.TarWriter(str(path)) as tar:
        for key, image, target in samples:
            tar.write({"__key__": key, "png": image if isinstance(image, bytes) else encoded(image), "cls": target})


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
    (lambda tmp_path, labelled: tmp_path / "no.tar", ("1 of 1 shards are missing", "no.tar")),
    (
        lambda tmp_path, labelled: f"{labelled.tars}/val-{{000..004}}.tar",
        ("2 of 5 shards are missing", "val-003.tar"),
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
    (lambda tmp_path, labelled: "nothing:there.tar", ("refused nothing:there.tar: expected https://", "pipe:COMMAND")),
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
    image, cls = encoded(labelled.images[0]), str(labelled.targets[0]).encode()
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
    rows = (tmp_path / "report.csv").read_text().splitlines()[1:]  # three have only a label
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
    assert open_data(str(tmp_path), TEN, 8).shards == [str(tmp_path / "a.tar")]


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


def tar_of(*members, **options):
    """An archive as bytes; members are names and contents, or headers and contents."""
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", **options) as archive:
            for name, content in members:
                header = tarfile.TarInfo(name) if isinstance(name, str) else name
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
        return file.getvalue()


def read(archive):
    return dict(read_tar(io.BufferedReader(io.BytesIO(archive))))


THREE = {"1.png": b"x" * 700, "1.cls": b"1", "2.png": bytes(1024)}
DAMAGE = (ValueError, EOFError, OSError, lzma.LZMAError, tarfile.TarError)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_cut_off_anywhere_is_refused(compress):
    """tarfile takes the end of a file between two members, or inside a header, for the archive's end."""
    plain = tar_of(*THREE.items())
    whole = compress(plain)
    assert read(whole) == THREE
    end = len(whole) if compress is not bytes else 6 * tarfile.BLOCKSIZE + 1024 + 2 * tarfile.BLOCKSIZE
    assert read(plain[: 6 * tarfile.BLOCKSIZE + 1024 + 2 * tarfile.BLOCKSIZE]) == THREE  # all after it is padding
    for cut in range(0, end, 128 if compress is bytes else 1):
        with pytest.raises(DAMAGE):
            read(whole[:cut])


def test_a_damaged_header_does_not_end_an_archive():
    damaged = bytearray(tar_of(*THREE.items()))
    damaged[3 * tarfile.BLOCKSIZE + 10] ^= 1  # in the second member's name
    with pytest.raises(tarfile.ReadError, match="the archive is damaged or cut off: bad checksum"):
        read(damaged)


def test_two_archives_in_one_shard_are_refused():
    with pytest.raises(ValueError, match="something after the archive's end; expected one archive in each shard"):
        read(tar_of(*THREE.items()) + tar_of(("3.png", b"")))


def test_members_that_are_sparse_or_too_large_are_named():
    sparse = tarfile.TarInfo("1.png")
    sparse.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**50), "GNU.sparse.name": "1.png"}
    archive = tar_of((sparse, b"x"), ("2.png", bytes(MAX_IMAGE_FILE + 1)), ("2.json", b"{}"), format=tarfile.PAX_FORMAT)
    content = read(archive)
    assert str(content["1.png"]) == "a sparse file in the archive; expected a plain one"
    assert str(content["2.png"]) == "67,108,865 bytes; expected an image of at most 64 MiB"
    assert content["2.json"] == b""


def test_an_endless_header_is_refused():
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**30
    with pytest.raises(tarfile.ReadError, match="extended header of 1,073,741,824 bytes"):
        read(header.tobuf())


def test_a_truncated_shard_ends_the_evaluation(labelled, tmp_path, capsys):
    whole = (labelled.tars / "val-000.tar").read_bytes()
    with tarfile.open(labelled.tars / "val-000.tar") as archive:
        third = archive.getmembers()[2].offset
    (tmp_path / "a.tar").write_bytes(whole[:third])  # between two samples
    assert evaluate(tmp_path, "--weights", labelled.weights, "--workers", 0) == 2
    assert (
        f"resnext: {tmp_path / 'a.tar'}: the archive is damaged or cut off: empty header\n" == capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.com/a.tar", "refused http://example.com/a.tar: http is not safe"),
        ("s3://bucket/a.tar", "refused s3://bucket/a.tar: expected https://"),
        ("file://elsewhere/a.tar", "refused file://elsewhere/a.tar: "),
    ],
)
def test_urls_that_are_refused(url, message):
    with pytest.raises(DataError, match=message):
        open_data(url, TEN, 8)


def test_what_a_server_does_wrong(labelled, site, httpserver, monkeypatch):
    def problem():
        (batch,) = open_data(f"{httpserver.url_for('/a.tar')}", TEN, 8).read(0, get_preprocess("cifar10"))
        return batch.problem.removeprefix(f"{httpserver.url_for('/a.tar')}: ")

    assert problem() == "HTTP status 404 NOT FOUND"
    elsewhere = {"Location": "http://example.com/a.tar"}
    httpserver.expect_oneshot_request("/a.tar").respond_with_data(status=302, headers=elsewhere)
    assert problem().startswith("refused http://example.com/a.tar: http is not safe")
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    assert "RESNEXT_OFFLINE=1 forbids" in problem()


@pytest.mark.timeout(20)
def test_a_command_that_never_ends_is_ended():
    (batch,) = open_data("pipe:yes", TEN, 8).read(0, get_preprocess("cifar10"))
    assert batch.problem.startswith("pipe:yes: the archive is damaged or cut off: ")
