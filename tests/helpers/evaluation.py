"""Labelled images whose labels are a network's own answers, so that its error on them is known, and runs over them."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import pytest
import torch

from resnext.__main__ import main
from resnext.evaluation.counts import PartialCounts
from resnext.model import ResNeXt
from tests.helpers.networks import randomize
from tests.helpers.pictures import make_images

CIFAR_NAMES = [f"class_{number}" for number in range(10)]
fork = multiprocessing.get_context("fork")  # saves importing torch once more in each


class LabelledSet:
    """A tiny network, and a folder with images of which the network ranks the right class as it was told to.

    `ranks` has an entry for each image, 0 where the network is right.
    """

    def __init__(self, folder, ranks, *, transform, names, stem="cifar", size=(32, 32)):
        self.data, self.weights = folder / "data", folder / "tiny.pth"
        layers = (1, 1, 1) if stem == "cifar" else (1, 1, 1, 1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = ResNeXt(layers, cardinality=2, base_width=4, stem=stem, num_classes=len(names))
        randomize(self.model).eval()
        self.images = list(make_images(len(ranks), size))
        order = self._spread(torch.stack([transform(image) for image in self.images]))
        torch.save(self.model.state_dict(), self.weights)
        self.targets = [int(classes[rank]) for classes, rank in zip(order, ranks, strict=True)]
        self.names = names
        for number, (image, target) in enumerate(zip(self.images, self.targets, strict=True)):
            path = self.data / names[target] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)

    @torch.no_grad()
    def _spread(self, tensors):
        """A classifier that answers differently from image to image; its classes in falling order, for each image."""
        features = []
        hook = self.model.fc.register_forward_pre_hook(lambda fc, inputs: features.append(inputs[0]))
        self.model(tensors.flatten(0, -4))
        hook.remove()
        features = features[0].unflatten(0, (len(tensors), -1)).mean(1)  # of ten crops, the mean
        fc, mean = self.model.fc, features.mean(0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(100):
            fc.weight.normal_(generator=generator)
            fc.weight *= 10 / ((features - mean) @ fc.weight.T).std()
            fc.bias.copy_(-fc.weight @ mean)
            logits, order = fc(features).sort(1, descending=True)
            if (logits[:, 0] - logits[:, 1]).min() > 0.1:  # no tie, which rounding would decide
                return order
        raise AssertionError("no classifier without a tie")

    def fill(self):
        """An empty folder for each class that has no image."""
        for name in self.names:
            (self.data / name).mkdir(exist_ok=True)
        return self

    def evaluate(self, *arguments):
        """The exit status, in this process."""
        return evaluate(self.data, "--weights", self.weights, "--workers", 0, *arguments)


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def read_report(path):
    return json.loads(Path(path).read_text())


def written(folder):
    return (folder / "report.json").read_text(), (folder / "report.csv").read_text()


def start(arguments, size, before=lambda rank: None, machines=False):
    """The command in `size` processes, as torchrun would start them; `before` is called in each of them.

    With `machines`, each of them is on one of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank):
        status = 3
        try:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            local = (0, 1) if machines else (rank, size)
            os.environ.update(zip(names, map(str, (rank, size, *local)), strict=True))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            before(rank)
            status = evaluate(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    processes = [fork.Process(target=run, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def replace_keep(patch, keep):
    """`keep(original, shard)` instead of keeping a shard's counts, in this process."""
    original = PartialCounts.keep
    patch.setattr(PartialCounts, "keep", lambda self, shard, counts: keep(lambda: original(self, shard, counts), shard))


def kill_after(patch, shards):
    """This process is killed when it has kept so many shards."""
    kept = []

    def keep(original, shard):
        if len(kept) == shards:
            os.kill(os.getpid(), signal.SIGKILL)
        original()
        kept.append(shard)

    replace_keep(patch, keep)


def kill_in_the_middle(arguments, shards=3):
    """One process that is killed after so many shards."""
    with pytest.MonkeyPatch.context() as patch:
        assert start(arguments, 1, lambda rank: kill_after(patch, shards)) == [-signal.SIGKILL]
