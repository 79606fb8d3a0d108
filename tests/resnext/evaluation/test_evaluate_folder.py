"""Folders of class folders, read as torchvision does."""

import os
import shutil
from pathlib import Path

import pytest

from resnext.evaluation import DataError
from resnext.evaluation.data import Folder, open_data
from resnext.evaluation.labels import Outputs
from resnext.images import EXTENSIONS
from tests.resnext.evaluation.conftest import CIFAR_NAMES

TEN = Outputs.of("cifar10", 10)


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


def test_the_digest_tells_data_sets_apart(odd_folder):
    def digest():
        return open_data(str(odd_folder), Outputs(5), 2).digest

    first = digest()
    assert digest() == first
    (odd_folder / "b" / "10.png").write_bytes(b"longer than before")
    assert digest() != first
