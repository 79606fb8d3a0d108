"""What is done where a torch lacks a name that is not public."""

from types import SimpleNamespace

import pytest
import torch

from resnext.inference.optimize import optimize
from resnext.inference.private_torch import compile_package, onednn_computes_in, open_package
from tests.helpers.networks import images, logits, relative_error


def test_without_packed_weights(model, monkeypatch):
    monkeypatch.delattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    result = optimize(model, images(2), backend="eager")
    assert relative_error(result(images(2)), logits(model, images(2))) < 1e-5


def test_a_torch_that_does_not_say_what_onednn_computes_in(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert not onednn_computes_in(torch.bfloat16)
    assert not onednn_computes_in(torch.float64)
    assert onednn_computes_in(torch.float32)


@pytest.mark.parametrize("error", [TypeError, AttributeError])
def test_the_documented_loader_of_packages(monkeypatch, error):
    def older(*arguments):
        raise error("it takes two arguments")

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", older)
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: lambda images: (path, images))
    assert open_package("a.pt2")(1) == ("a.pt2", 1)


@pytest.mark.slow
def test_a_full_disk_raises(tmp_path):
    """Where torch's own writer would end the process."""
    program = torch.export.export(torch.nn.Linear(2, 1).eval(), (torch.zeros(1, 2),))
    (tmp_path / "a.pt2").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        compile_package(program, tmp_path / "a.pt2")
