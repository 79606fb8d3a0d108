"""Weights of a tiny network, and data sets whose errors are known."""

import copy
import shutil

import pytest
import torch

from resnext.classes import wordnet_ids
from resnext.preprocess import get_preprocess
from tests.helpers.evaluation import CIFAR_NAMES, LabelledSet, read_report, written
from tests.helpers.networks import build


@pytest.fixture(scope="module")
def state_dict():
    return build().state_dict()


@pytest.fixture
def pth(state_dict, tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save(dict(state_dict), path)
    return path


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """A network of ImageNet's classes, and folders for the few that its answers are: 6 right, 2 wrong."""
    return LabelledSet(
        tmp_path_factory.mktemp("imagenet"), [0] * 6 + [1, 7], transform=get_preprocess("imagenet"),
        names=wordnet_ids(), stem="imagenet", size=(280, 260),
    )  # fmt: skip


@pytest.fixture(scope="session")
def five_batches(tmp_path_factory):
    """17 images, of which 5 are wrong, and three that cannot be read: 5 batches of 4."""
    labelled = LabelledSet(
        tmp_path_factory.mktemp("batches"), [0] * 12 + [1, 2, 3, 6, 9], transform=get_preprocess("cifar10"),
        names=CIFAR_NAMES,
    ).fill()  # fmt: skip
    for target in (3, 6, 9):
        (labelled.data / CIFAR_NAMES[target] / "no.png").write_bytes(b"no image")
    return labelled


@pytest.fixture
def arguments(five_batches, tmp_path):
    """Of the command, for a report in a folder of the test's own."""
    fixed = ["--weights", five_batches.weights, "--workers", 0, "--batch", 4, "--output", tmp_path / "report.json"]
    return [five_batches.data, *fixed]


@pytest.fixture(scope="session")
def expected(five_batches, tmp_path_factory):
    """The report of one process that nobody interrupted, and the table per class."""
    path = tmp_path_factory.mktemp("expected") / "report.json"
    assert five_batches.evaluate("--batch", 4, "--output", path) == 0
    report = read_report(path)
    assert (report["images"], report["top1_wrong"], len(report["unreadable"]["images"])) == (20, 8, 3)
    return written(path.parent)
