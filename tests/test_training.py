"""docs/training.md: its launcher, and its recipes in the calls that the scripts of timm and torchvision make.

Neither package brings its script along. What they call is called here in their order, with the options of the page.
"""

import argparse
import importlib
import itertools
import re
import runpy
import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

import resnext
from tests.helpers.recorded import ROOT

PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
CLASSES = 2


def options_of(script):
    """The options of the command that runs a script, as strings by name, without dashes."""
    [command] = [text for text in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if f" launch.py {script}" in text]
    words = shlex.split(command.replace("\\\n", " "))
    words = words[words.index(script) + 1 :]
    return {
        name.lstrip("-").replace("-", "_"): value for name, value in itertools.pairwise(words) if name.startswith("-")
    }


@pytest.fixture(scope="module")
def packages(torchvision):
    """Both packages, with our names in them."""
    for module in ("resnext.integrations.torchvision", "resnext.integrations.timm", "timm.optim", "timm.scheduler"):
        importlib.import_module(module)
    return torchvision, importlib.import_module("timm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder of two classes, with two images each for training and for validation."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(8):
        path = folder / ("train", "val")[number % 2] / f"class{number // 2 % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(path)
    return folder


def assert_recipe(optimizer, groups):
    """What section 4 of the paper says, and train.lua."""
    assert isinstance(optimizer, torch.optim.SGD)
    for group in groups:
        assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.1, 0.9, 1e-4, True)


def train(model, optimizer, batches):
    """Two steps; whether they changed the weights."""
    before = model.conv1.weight.detach().clone()
    steps = 0
    for _, (images, labels) in zip(range(2), batches, strict=False):
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
        steps += 1
    assert steps == 2
    assert not torch.equal(model.conv1.weight, before)


@pytest.mark.parametrize("script", ["pytorch-image-models/train.py", "vision/references/classification/train.py"])
def test_a_step_has_256_images(script):
    [processes] = re.findall(rf"--nproc-per-node (\d+) launch.py {script}", PAGE)
    assert int(processes) * int(options_of(script)["b"]) == 256


def test_the_launcher_runs_a_script_with_our_names(packages, tmp_path, monkeypatch, capsys):
    [launcher] = [text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "runpy" in text]
    assert len(launcher.strip().splitlines()) == 3
    (tmp_path / "launch.py").write_text(launcher)
    (tmp_path / "train.py").write_text(
        "import sys, timm, torchvision\n"
        "if __name__ == '__main__':\n"
        "    name = sys.argv[2]\n"
        "    print(sys.argv[1:], timm.is_model(name), name in torchvision.models.list_models())\n"
    )
    monkeypatch.setattr(sys, "argv", ["launch.py", str(tmp_path / "train.py"), "--model", "resnext50_32x4d_typec"])
    runpy.run_path(str(tmp_path / "launch.py"), run_name="__main__")
    assert capsys.readouterr().out == "['--model', 'resnext50_32x4d_typec'] True True\n"


@pytest.mark.slow
def test_timm(packages, folder, tmp_path):
    _, timm = packages
    options = options_of("pytorch-image-models/train.py")
    numbers = {name: float(options[name]) for name in ("lr", "momentum", "weight_decay", "decay_rate", "smoothing")}
    counts = {name: int(options[name]) for name in ("epochs", "decay_epochs", "warmup_epochs")}
    args = argparse.Namespace(**{**options, **numbers, **counts, "num_classes": CLASSES, "img_size": 64})
    assert args.smoothing == 0
    opt_kwargs = dict([options["opt_kwargs"].split("=")])
    assert opt_kwargs == {"filter_bias_and_bn": "False"}

    model = timm.create_model(args.model, pretrained=False, num_classes=CLASSES, scriptable=False, checkpoint_path="")
    optimizer = timm.optim.create_optimizer_v2(
        model, **timm.optim.optimizer_kwargs(cfg=args), filter_bias_and_bn=opt_kwargs["filter_bias_and_bn"] != "False"
    )
    groups = optimizer.param_groups
    assert_recipe(optimizer, groups)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))

    data = timm.data.resolve_data_config(vars(args), model=model)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder), split="train", is_training=True, batch_size=2),
        input_size=data["input_size"], batch_size=2, is_training=True, color_jitter=0.4, mean=data["mean"],
        std=data["std"], interpolation=args.train_interpolation, num_workers=0, device=torch.device("cpu"),
    )  # fmt: skip
    scheduler, epochs = timm.scheduler.create_scheduler_v2(
        optimizer, **timm.scheduler.scheduler_kwargs(args), updates_per_epoch=len(loader)
    )
    assert epochs == 90
    train(model.train(), optimizer, loader)
    rates = {}
    for epoch in range(epochs):
        rates[epoch] = groups[0]["lr"]
        scheduler.step(epoch + 1)
    assert [rates[epoch] for epoch in (0, 29, 30, 59, 60, 89)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])

    saver = timm.utils.CheckpointSaver(model, optimizer, args, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    saver.save_checkpoint(0, metric=50.0)
    for name in ("last.pth.tar", "model_best.pth.tar"):
        again = resnext.from_checkpoint(tmp_path / name)
        assert torch.equal(again.fc.weight, model.fc.weight)


@pytest.mark.slow
def test_torchvision(packages, folder, tmp_path):
    torchvision, _ = packages
    transforms = importlib.import_module("torchvision.transforms")
    options = options_of("vision/references/classification/train.py")
    args = argparse.Namespace(**options)
    train_set = torchvision.datasets.ImageFolder(
        folder / "train", transforms.Compose([transforms.RandomResizedCrop(64), transforms.ToTensor()])
    )
    loader = torch.utils.data.DataLoader(train_set, batch_size=2, shuffle=True)
    model = torchvision.models.get_model(args.model, weights=None, num_classes=len(train_set.classes))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=float(args.lr), momentum=float(args.momentum), weight_decay=float(args.wd),
        nesterov="nesterov" in args.opt,
    )  # fmt: skip
    assert_recipe(optimizer, optimizer.param_groups)
    assert (args.lr_scheduler, int(args.epochs)) == ("steplr", 90)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, int(args.lr_step_size), float(args.lr_gamma))
    train(model.train(), optimizer, loader)
    rates = []
    for _ in range(int(args.epochs)):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert [rates[epoch] for epoch in (0, 29, 30, 59, 60, 89)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])

    checkpoint = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict(),
        "epoch": 89, "args": args,
    }  # fmt: skip
    torch.save(checkpoint, tmp_path / "model_89.pth")
    again = resnext.from_checkpoint(tmp_path / "model_89.pth")
    assert torch.equal(again.fc.weight, model.fc.weight)
