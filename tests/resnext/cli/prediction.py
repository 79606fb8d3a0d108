"""What the tests of `predict` share: networks in files, photographs, and the command line."""

import torch

from resnext.__main__ import main
from resnext.architecture import Architecture
from tests.conftest import randomize
from tests.pictures import make_images

SIZES = ((40, 33), (32, 32), (32, 32), (64, 48))  # width, height
TINY = {"layers": (1, 1, 1), "cardinality": 4, "base_width": 8, "stem": "cifar"}
NETWORKS = {
    "cifar10": Architecture(**TINY, num_classes=10),
    "imagenet": Architecture((1, 1, 1, 1), cardinality=2, base_width=4),
    "three": Architecture(**TINY, num_classes=3),  # nobody's
    "grey": Architecture(**TINY, in_channels=1),
}


def make_weights(folder):
    """A file for each network, by its name in `NETWORKS`."""
    for name, architecture in NETWORKS.items():
        torch.manual_seed(0)
        model = randomize(architecture.build())
        with torch.no_grad():
            model.fc.weight.mul_(3)  # so that probabilities differ between images
        torch.save(model.state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in NETWORKS}


def make_photos(folder):
    """Images of several sizes; neighbours that are alike go through the network together."""
    folder.mkdir()
    for number, size in enumerate(SIZES):
        next(make_images(1, size, seed=number)).save(folder / f"{number}.png")
    return folder


def run(capsys, *arguments, status=0):
    """What the command says on stdout and stderr."""
    try:
        got = main(["predict", *map(str, arguments)])
    except SystemExit as error:
        got = error.code
    said = capsys.readouterr()
    assert got == status, said.err
    return said.out, said.err


def refused(capsys, *arguments):
    out, error = run(capsys, *arguments, status=2)
    assert out == ""
    assert error.count("\n") == 1
    return error
