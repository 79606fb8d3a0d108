"""Every way in which a file of weights can be the wrong one: it is named, with what was expected and what came."""

import os

import pytest
import torch
from safetensors.torch import save_file

import resnext
from resnext.architecture import Architecture
from resnext.weights.files import WeightsError
from tests.conftest import FIXTURES
from tests.resnext.conftest import TINY


def refused(path, *parts, load=resnext.from_checkpoint):
    with pytest.raises(WeightsError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (os.fspath(path), *parts):
        assert part in message
    return message


@pytest.mark.parametrize(
    ("content", "got"),
    [(b"", "an empty file"), (b"<!DOCTYPE html>", "an HTML or XML page"),
     (b"\x89PNG\r\n\x1a\n123", "starts with b'\\x89PNG"),
     (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer")],
)  # fmt: skip
def test_what_is_not_a_weights_file_is_named(tmp_path, content, got):
    (tmp_path / "weights.pth").write_bytes(content)
    refused(tmp_path / "weights.pth", "expected a .pth, .safetensors or Torch7 .t7 file", got)


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "absent.pth", "cannot be read: No such file")
    refused(tmp_path, "cannot be read: Is a directory")


@pytest.mark.parametrize("cut", [100, 1000, -100])
def test_truncated_files(pth, state_dict, sample, tmp_path, cut):
    for path in (pth, sample):
        (tmp_path / "cut").write_bytes(path.read_bytes()[:cut])
        refused(tmp_path / "cut")
    save_file(dict(state_dict), tmp_path / "whole.safetensors")
    (tmp_path / "cut").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:cut])
    refused(tmp_path / "cut", "expected a whole .safetensors file")


@pytest.mark.parametrize("content", [b"\x80", b"\x80\x02N.", b"\x80\x02\x8a\x0al\xfc", b"\x80\x02Q" + bytes(50)])
def test_broken_pickles(tmp_path, content):
    (tmp_path / "old.pth").write_bytes(content)
    refused(tmp_path / "old.pth", "expected a")


@pytest.mark.parametrize(
    "value",
    [torch.zeros(64, dtype=torch.int8), torch.zeros(64, dtype=torch.complex64), torch.zeros(64).to_sparse(),
     torch.zeros(64, device="meta")],
)  # fmt: skip
def test_tensors_that_are_no_weights(state_dict, tmp_path, value):
    torch.save({**state_dict, "bn1.weight": value}, tmp_path / "odd.pth")
    refused(tmp_path / "odd.pth", "expected dense tensors of real numbers", "bn1.weight")


def test_pickled_code_is_not_run(tmp_path):
    torch.save(TINY.build(), tmp_path / "module.pth")
    refused(tmp_path / "module.pth", "expected a .pth with a plain state_dict")


@pytest.mark.parametrize(
    ("content", "got"),
    [([1, 2], "expected a state_dict, got list"), ({}, "expected a state_dict, got dict"),
     ({"epoch": 3}, "got int under 'epoch'"),
     ({"a": torch.zeros(1)}, "not the weights of a ResNeXt: no entry 'conv1.weight'"),
     ({"conv1.weight": torch.zeros(1), "layer1.0.conv2.weight": torch.zeros(()), "fc.weight": torch.zeros(())},
      "an entry of the wrong shape")],
)  # fmt: skip
def test_pth_without_these_weights(tmp_path, content, got):
    torch.save(content, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", got)


def test_entries_missing_left_over_and_of_another_shape_are_all_named(state_dict, tmp_path):
    changed = {k: v for k, v in state_dict.items() if k != "bn1.bias"}
    changed |= {"extra": torch.zeros(1), "bn1.weight": torch.zeros(65)}
    torch.save(changed, tmp_path / "changed.pth")
    refused(
        tmp_path / "changed.pth",
        "not the weights of resnext11_4x8d",
        "missing: bn1.bias",
        "left over: extra",
        "wrong shape: bn1.weight is (65,), expected (64,)",
    )


def test_weights_of_another_network_are_refused(pth):
    refused(
        pth,
        "expected the weights of resnext29_8x64d, got those of resnext11_4x8d",
        "cardinality 4, expected 8",
        load=lambda path: resnext.create("resnext29_8x64d", weights=path),
    )


def test_only_weights_for_rgb_are_adapted(tmp_path):
    torch.save(Architecture((1, 1, 1), 2, 4, "cifar", in_channels=2).build().state_dict(), tmp_path / "two.pth")
    refused(
        tmp_path / "two.pth",
        "expected weights for 3 or 5 channels, got some for 2; give in_channels=2",
        load=lambda path: resnext.from_checkpoint(path, in_channels=5),
    )


def test_damaged_t7_says_where(sample, tmp_path):
    (tmp_path / "cut.t7").write_bytes(sample.read_bytes()[:3000])
    refused(tmp_path / "cut.t7", "byte ", "truncated")


def test_t7_that_is_no_resnext(tmp_path):
    refused(FIXTURES / "variants" / "s_plain.t7", "modules[3]", "not a ResNeXt")
