"""`python -m resnext info`: the networks, and one of them in full."""

import subprocess
import sys

import pytest

from resnext.__main__ import main
from resnext.zoo import ARCHITECTURES
from tests.helpers.recorded import ROOT


def test_info_lists_every_network(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ARCHITECTURES)
    assert lines[5].split() == ["resnext50_32x4d", "50", "25.0", "M", "4.2", "G", "224", "px", "22.2", "%"]


def test_info_on_one_network(capsys):
    assert main(["info", "resnext101_64x4d_typeA"]) == 0
    text = capsys.readouterr().out
    for part in (
        "resnext101_64x4d_typeA",
        "83,455,272 (83.5 M)",
        "(15.5 G) for 224 x 224 px",
        "CC BY-NC 4.0",
        "20.4 %",
    ):
        assert part in text
    assert main(["info", "resnext29_8x64d"]) == 0
    assert "none were published" in capsys.readouterr().out


def test_info_on_a_typo(capsys):
    assert main(["info", "resnext50_32x4"]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "unknown architecture 'resnext50_32x4'; did you mean resnext50_32x4d" in seen.err
    assert len(seen.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("redirect", "status"), [(">&-", 0), ("| true", 1)])
def test_a_reader_that_has_left_is_no_traceback(redirect, status):
    command = f"set -o pipefail; {sys.executable} -m resnext info resnext50_32x4d {redirect}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == ""
    assert done.returncode in (0, status)  # 0 where all was written before the reader left
