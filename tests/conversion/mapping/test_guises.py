"""Checkpoints of the official architecture as its options, its users' scripts and the history of nn left them.

`NAME.t7.xz` was written by Torch7; `NAME.npz` holds an input and Torch7's own output; `INDEX.tsv` says which are the
same function (convert), which are another (refuse), and where either answer will do. A few are among the fixtures.
"""

import lzma

import numpy as np
import pytest
import torch

from conversion import t7
from conversion.build import ProofError, convert_and_prove
from tests.helpers.networks import relative_error
from tests.helpers.recorded import FIXTURES, SHARED

GUISES = SHARED / "guises" if (SHARED / "guises").is_dir() else FIXTURES / "guises"


def index(folder):
    return [tuple(line.split("\t")) for line in (folder / "INDEX.tsv").read_text().splitlines()]


def names(answer):
    """Those with this answer. The many that are not part of the repository take long."""
    few = dict(index(FIXTURES / "guises"))
    named = [name for name, stated in index(GUISES) if stated == answer]
    return [pytest.param(name, marks=[] if name in few else pytest.mark.slow) for name in named]


def unpack(folder, packed):
    path = folder / packed.name.removesuffix(".xz")
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


def assert_torch7s_output(conversion, recorded):
    model = conversion.architecture.build_empty()
    model.load_state_dict(conversion.state_dict, assign=True)
    with np.load(recorded) as arrays, torch.no_grad():
        got = model.eval()(torch.from_numpy(arrays["input"]).float())
        assert relative_error(got, torch.from_numpy(arrays["output"])) <= 2e-5


@pytest.mark.parametrize("name", names("convert"))
def test_the_same_function_converts(name, tmp_path):
    conversion, proof = convert_and_prove(unpack(tmp_path, GUISES / f"{name}.t7.xz"))
    assert proof.passed
    assert_torch7s_output(conversion, GUISES / f"{name}.npz")


@pytest.mark.parametrize("name", names("refuse"))
def test_another_function_is_refused(name, tmp_path):
    with pytest.raises(t7.T7Error):
        convert_and_prove(unpack(tmp_path, GUISES / f"{name}.t7.xz"), prove=False)


@pytest.mark.parametrize("name", names("either"))
def test_where_either_answer_will_do_none_is_wrong(name, tmp_path):
    try:
        conversion, _ = convert_and_prove(unpack(tmp_path, GUISES / f"{name}.t7.xz"))
    except (t7.T7Error, ProofError):
        return
    assert_torch7s_output(conversion, GUISES / f"{name}.npz")


def test_a_file_with_dead_channels(tmp_path):
    """cudnn flushed the running variance of channels that died to 0."""
    packed = SHARED / "models" / "cifar10_resnext11_4x4d_C_dead_channel.t7.xz"
    if not packed.exists():
        pytest.skip("this checkpoint is not part of the repository")
    conversion, proof = convert_and_prove(unpack(tmp_path, packed))
    assert proof.passed
    assert conversion.notes == ["8 running variances of 0 (channels that died)"]
    assert_torch7s_output(conversion, packed.with_name("cifar10_resnext11_4x4d_C_dead_channel.npz"))
