"""Files of weights: every kind that is read, and every way in which one can be the wrong one."""

import hashlib
import mmap
import os
import pickle
import shutil
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils import serialization

import resnext
from resnext.weights.files import WeightsError, find_format, read_state_dict, tensor_digest
from tests.helpers.networks import TINY, relative_error
from tests.helpers.recorded import FIXTURES, torch7_output


def same(found, expected):
    return list(found) == list(expected) and all(torch.equal(found[k], v) for k, v in expected.items())


def refused(path, *parts):
    with pytest.raises(WeightsError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    for part in (os.fspath(path).replace("\0", r"\x00"), *parts):
        assert part in message


def is_mapped(path):
    return str(path) in Path("/proc/self/maps").read_text()


# --- what is read ----------------------------------------------------------------------------------------------------


def test_pth(pth, state_dict):
    assert same(read_state_dict(pth), state_dict)


def test_safetensors(state_dict, tmp_path):
    save_file(dict(state_dict), tmp_path / "tiny.safetensors")
    assert same(read_state_dict(str(tmp_path / "tiny.safetensors")), dict(sorted(state_dict.items())))


def test_safetensors_whose_first_byte_is_that_of_a_pickle(state_dict, tmp_path):
    path = tmp_path / "tiny.safetensors"
    for length in range(0, 512, 8):
        save_file(dict(state_dict), path, metadata={"x": "x" * length})
        if path.read_bytes()[:1] == b"\x80":  # the last byte of the header's length
            break
    assert find_format(path.read_bytes()[:64]) == "safetensors"
    assert same(read_state_dict(path), dict(sorted(state_dict.items())))


def test_files_are_told_apart_by_content(pth, state_dict, tmp_path):
    save_file(dict(state_dict), tmp_path / "misnamed.pth")
    assert read_state_dict(tmp_path / "misnamed.pth").keys() == state_dict.keys()
    assert same(read_state_dict(shutil.copy(pth, tmp_path / "misnamed.t7")), state_dict)


def test_older_pickles(state_dict, tmp_path):
    torch.save(dict(state_dict), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_state_dict(tmp_path / "old.pth"), state_dict)


def test_pth_without_checksums(state_dict, tmp_path):
    """torch.save leaves them out where it is told to, and torch.load does not look at them."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(state_dict), tmp_path / "fast.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_state_dict(tmp_path / "fast.pth"), state_dict)


@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_training_checkpoints_are_unwrapped(key, prefix, state_dict, tmp_path):
    training = {
        key: OrderedDict(
            (f"{prefix}{k}", nn.Parameter(v) if v.is_floating_point() else v) for k, v in state_dict.items()
        ),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "momentum_buffer": torch.zeros(4, dtype=torch.int32)}}},
        "epoch": 90,
    }
    torch.save(training, tmp_path / "train.pth")
    assert same(read_state_dict(tmp_path / "train.pth"), state_dict)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_precisions_become_float32_and_missing_counters_zero(dtype, state_dict, tmp_path):
    other = {k: v.to(dtype) for k, v in state_dict.items() if v.is_floating_point()}
    torch.save(other, tmp_path / "other.pth")
    found = read_state_dict(tmp_path / "other.pth")
    assert found.pop("bn1.num_batches_tracked") == 0
    assert all(torch.equal(found[k], v.float()) for k, v in other.items())


def test_tensors_are_on_the_cpu_whatever_the_default_device(pth, state_dict, sample):
    with torch.device("meta"):
        assert same(read_state_dict(pth), state_dict)
        assert {value.device.type for value in read_state_dict(sample).values()} == {"cpu"}


def test_variances_of_zero_and_denormals_are_fine(state_dict, tmp_path):
    """A channel that died has them."""
    variance = torch.ones(64)
    variance[:2] = torch.tensor([0.0, 1e-42])
    torch.save({**state_dict, "bn1.running_var": variance}, tmp_path / "dead.pth")
    assert torch.equal(read_state_dict(tmp_path / "dead.pth")["bn1.running_var"], variance)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_checkpoint_can_be_overwritten_while_it_is_in_use(suffix, state_dict, tmp_path):
    """`m = from_checkpoint(path)`, train, save under the same name."""
    path = tmp_path / f"mine.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save(dict(state_dict), path)
    model = resnext.from_checkpoint(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    save(dict(model.state_dict()), path)
    assert torch.equal(resnext.from_checkpoint(path).fc.weight, state_dict["fc.weight"] + 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_only_published_weights_are_mapped(suffix, state_dict, tmp_path):
    path = tmp_path / f"mine.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(dict(state_dict), path)
    with serialization.config.patch("load.mmap", True):
        found = read_state_dict(path)
    assert not is_mapped(path)
    if suffix == "pth":
        found = read_state_dict(path, published=True)
        assert is_mapped(path)
    assert same(dict(sorted(found.items())), dict(sorted(state_dict.items())))


@pytest.mark.skipif(sys.platform == "win32", reason="has no such default")
def test_nothing_is_written_back_into_published_weights(pth):
    before = pth.read_bytes()
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        found = read_state_dict(pth, published=True)
        for value in found.values():
            value.zero_()
        assert serialization.config.load.mmap_flags == mmap.MAP_SHARED
    assert pth.read_bytes() == before


def test_tensors_that_share_memory_are_copied(state_dict, tmp_path):
    """Training would move several values at once."""
    weights = torch.arange(128.0)
    shared = {
        "bn1.weight": torch.ones(1).expand(64),
        "bn1.bias": weights[:64],
        "bn1.running_mean": weights[32:96],
        "layer1.0.bn1.weight": torch.as_strided(torch.arange(64.0), (8, 8), (1, 8))[0],
        "conv1.weight": state_dict["conv1.weight"].to(memory_format=torch.channels_last),
    }
    torch.save({**state_dict, **shared}, tmp_path / "shared.pth")
    found = read_state_dict(tmp_path / "shared.pth")
    for name, value in shared.items():
        assert torch.equal(found[name], value)
    starts = [value.untyped_storage().data_ptr() for value in found.values()]
    assert len(set(starts)) == len(starts)
    for value in found.values():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    assert found["conv1.weight"].is_contiguous(memory_format=torch.channels_last)
    found["bn1.weight"][0] = 7
    assert found["bn1.weight"].sum() == 7 + 63


@pytest.mark.parametrize("key", ["fc.weight", "conv1.weight", "bn1.running_var"])
@pytest.mark.parametrize("shape", [(2**19, 1024), (2**40,), (2**30, 2**30)])
def test_expanded_tensors_must_not_take_more_memory_than_the_file_has_bytes(key, shape, state_dict, tmp_path):
    value = torch.ones([1] * len(shape)).expand(*shape)
    torch.save({**state_dict, key: value}, tmp_path / "bomb.pth")
    refused(tmp_path / "bomb.pth", "expected the values of every tensor, got")


def test_many_views_of_one_tensor(tmp_path):
    one = torch.ones(2**20)
    torch.save({f"{i}.weight": one for i in range(200)}, tmp_path / "bomb.pth")
    refused(tmp_path / "bomb.pth", f"for {200 * 2**20} values")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "got"),
    [(b"", "an empty file"), (b"<!DOCTYPE html>", "an HTML or XML page"),
     (b"\x89PNG\r\n\x1a\n123", "starts with b'\\x89PNG"),
     (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer")],
)  # fmt: skip
def test_what_is_not_a_weights_file_is_named(tmp_path, content, got):
    (tmp_path / "weights.pth").write_bytes(content)
    refused(tmp_path / "weights.pth", "expected a .pth, .safetensors or Torch7 .t7 file", got)


def test_missing_files(tmp_path):
    refused(tmp_path / "absent.pth", "cannot be read: No such file")
    refused("a\0b.pth", "cannot be read: embedded null byte")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes of that kind")
def test_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "expected a file, got a pipe or a device")


def test_folders(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    refused(folder, "expected a file, got a folder without weights in it")
    for name in ("b.t7", "a.pth", "log.txt"):
        (folder / name).touch()
    refused(folder, "expected a file, got a folder; give one of the files in it: a.pth, b.t7")


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


def rewrite(path, target, change=lambda name, content: content, compressed=()):
    """Another archive with the records of `path`; `change` returns what a record becomes, None to leave it out."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            record = name.partition("/")[2]
            content = change(record, source.read(name))
            if content is not None:
                archive.writestr(name, content, zipfile.ZIP_DEFLATED if record in compressed else None)
    return target


def test_an_archive_that_was_packed_again_is_read(pth, state_dict, tmp_path):
    assert same(read_state_dict(rewrite(pth, tmp_path / "again.pth")), state_dict)


def test_records_that_are_shorter_than_their_tensor(pth, tmp_path):
    # as torch.load reads a record of another length, it goes by the record or past its end
    short = rewrite(pth, tmp_path / "short.pth", lambda name, content: content[:-4] if name == "data/3" else content)
    refused(short, "truncated: expected 256 bytes in record data/3, got 252 bytes")
    absent = rewrite(pth, tmp_path / "absent.pth", lambda name, content: None if name == "data/3" else content)
    refused(absent, "truncated: expected 256 bytes in record data/3, got none")


def test_records_that_take_more_memory_than_the_file(pth, tmp_path):
    for record in ("version", "data.pkl", "data/3"):
        packed = rewrite(pth, tmp_path / "packed.pth", compressed=[record])
        refused(packed, "expected records as torch.save writes them, got some compressed or overlapping")
    content = bytearray(pth.read_bytes())
    directory = content.index(b"PK\x01\x02")
    count = content.count(b"PK\x01\x02", directory)
    offsets, position = [], directory
    for _ in range(count):
        offsets.append(position)
        position += 46 + sum(struct.unpack_from("<HHH", content, position + 28))
    sizes = [struct.unpack_from("<I", content, offset + 24)[0] for offset in offsets]
    largest = offsets[sizes.index(max(sizes))]
    for offset in offsets[2:]:  # every record is the largest one
        content[offset + 20 : offset + 28] = content[largest + 20 : largest + 28]
        content[offset + 42 : offset + 46] = content[largest + 42 : largest + 46]
    (tmp_path / "overlapping.pth").write_bytes(content)
    refused(tmp_path / "overlapping.pth", "expected records as torch.save writes them")


def test_two_records_that_torch_takes_for_one(pth, tmp_path):
    path = shutil.copy(pth, tmp_path / "twice.pth")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/DATA/3", b"")
    refused(path, "expected records as torch.save writes them")


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    refused(tmp_path / "photos.zip", "got a zip archive that torch.save did not write")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    refused(tmp_path / "scripted.pt", "got a TorchScript archive; save the model's state_dict")


@pytest.mark.parametrize(
    "value",
    [torch.zeros(64, dtype=torch.int8), torch.zeros(64, dtype=torch.complex64), torch.zeros(64).to_sparse(),
     torch.zeros(64, device="meta")],
)  # fmt: skip
def test_tensors_that_are_no_weights(state_dict, tmp_path, value):
    torch.save({**state_dict, "bn1.weight": value}, tmp_path / "odd.pth")
    refused(tmp_path / "odd.pth", "expected dense tensors of real numbers", "bn1.weight")


@pytest.mark.parametrize("as_zip", [True, False])
def test_other_objects_than_tensors_are_named_and_not_made(state_dict, tmp_path, as_zip):
    path = tmp_path / "other.pth"
    for content, named in (
        (TINY.build(), "got a file that holds resnext.model.ResNeXt, and"),
        ({"state_dict": state_dict, "best": np.float64(0.2)}, "multiarray.scalar, and"),
        ({"state_dict": state_dict, "args": Path("a")}, "holds pathlib"),
    ):
        torch.save(content, path, _use_new_zipfile_serialization=as_zip)
        refused(path, named, "could run code from the file", "torch.save(model.state_dict(), 'weights.pth')")


class Trap:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_code_is_not_run(state_dict, tmp_path):
    torch.save({**state_dict, "trap": Trap(str(tmp_path / "sprung"))}, tmp_path / "trap.pth")
    refused(tmp_path / "trap.pth", "could run code from the file")
    assert not (tmp_path / "sprung").exists()


def test_references_to_what_is_no_storage(pth, tmp_path):
    marker = object()

    class Odd(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", 3, "3", "cpu", 4) if obj is marker else None

    with (tmp_path / "data.pkl").open("wb") as file:
        Odd(file, protocol=2).dump([marker])
    odd = (tmp_path / "data.pkl").read_bytes()
    path = rewrite(pth, tmp_path / "odd.pth", lambda name, content: odd if name == "data.pkl" else content)
    refused(path, "expected a .pth with a plain state_dict, but: unknown reference")


@pytest.mark.parametrize(
    ("content", "got"),
    [([1, 2], "expected a state_dict, got list"), ({}, "expected a state_dict, got dict"),
     ({"epoch": 3}, "got int under 'epoch'")],
)  # fmt: skip
def test_pth_without_weights(tmp_path, content, got):
    torch.save(content, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", got)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_values_that_are_not_finite(suffix, bad, state_dict, tmp_path):
    weight = state_dict["fc.weight"].double()
    weight[3, 5] = bad
    save = save_file if suffix == "safetensors" else torch.save
    save({**state_dict, "fc.weight": weight}, tmp_path / f"diverged.{suffix}")
    refused(tmp_path / f"diverged.{suffix}", "'fc.weight' holds NaN or infinity; expected finite values")


def test_large_values_are_fine(state_dict, tmp_path):
    """Their sum overflows."""
    torch.save({**state_dict, "fc.bias": torch.full((10,), 3e38)}, tmp_path / "large.pth")
    assert read_state_dict(tmp_path / "large.pth")["fc.bias"][0] == torch.tensor(3e38)


def test_negative_variances(state_dict, tmp_path):
    torch.save({**state_dict, "bn1.running_var": torch.linspace(-0.5, 1, 64)}, tmp_path / "negative.pth")
    refused(tmp_path / "negative.pth", "'bn1.running_var' is -0.5 somewhere; expected 0 or more everywhere")


# --- Torch7 ----------------------------------------------------------------------------------------------------------


def test_t7_is_converted(sample):
    model = resnext.from_checkpoint(sample).eval()
    images, expected = torch7_output("cifar10_resnext11_4x8d_C_nested")
    with torch.no_grad():
        assert relative_error(model(images), expected) < 5e-5


def test_damaged_t7_says_where(sample, tmp_path):
    (tmp_path / "cut.t7").write_bytes(sample.read_bytes()[:3000])
    refused(tmp_path / "cut.t7", "byte ", "truncated")


def test_t7_that_is_no_resnext(tmp_path):
    refused(FIXTURES / "variants" / "s_plain.t7", "modules[3]", "not a ResNeXt")


# --- digest ----------------------------------------------------------------------------------------------------------


def test_tensor_digest_is_that_of_name_dtype_shape_and_bytes():
    tensors = {"b": torch.tensor(3), "a": torch.tensor([[1.0, 2.0]])}
    content = b"a\0float32\x001x2\0" + bytes.fromhex("0000803f00000040") + b"b\0int64\0\0" + (3).to_bytes(8, "little")
    assert tensor_digest(tensors) == hashlib.sha256(content).hexdigest()


def test_tensor_digest_does_not_depend_on_order_or_memory_layout():
    a = torch.arange(6.0).reshape(2, 3)
    assert tensor_digest({"x": a, "y": a}) == tensor_digest({"y": a, "x": a.t().contiguous().t()})
    assert tensor_digest({"x": a}) != tensor_digest({"x": a.reshape(3, 2)})
