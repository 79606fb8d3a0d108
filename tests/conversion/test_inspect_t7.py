"""inspect_t7.py: the tree as it stands in the file, without reading values, and errors of one line."""

import subprocess
import sys

import pytest

from conversion import inspect_t7
from conversion.t7 import Storage
from tests.conftest import FIXTURES, ROOT


def test_inspect_prints_the_tree(capsys, sample):
    assert inspect_t7.main([str(sample)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nn.Sequential train=false"
    assert lines[1].startswith("  1: cudnn.SpatialConvolution ")
    assert "weight=float32[64x3x3x3]" in lines[1]
    assert lines[-1] == f"{sample.name}: 27 modules with parameters, 996,298 parameters"


def test_inspect_reads_no_values(capsys, sample, monkeypatch):
    monkeypatch.setattr(Storage, "read", None)
    assert inspect_t7.main([str(sample)]) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cyc", "  self: table of 2, the same as the root"), ("boolkey", "table of 1 true='x'"),
     ("s_sharedmod", "    3: nn.Linear, the same as model.modules[1]"),
     ("sizes", "table of 6 is=int32[1], ls=int64[2] (storage), bs=uint8[2], cs=int8[2], ds=float64[1], ss=int16[1]")],
)  # fmt: skip
def test_inspect_of_odd_files(capsys, name, expected):
    assert inspect_t7.main([str(FIXTURES / "variants" / f"{name}.t7")]) == 0
    assert expected in capsys.readouterr().out.splitlines()


def test_inspect_refuses_in_one_line(capsys, tmp_path):
    assert inspect_t7.main([str(tmp_path / "absent.t7")]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr == f"inspect_t7: {tmp_path / 'absent.t7'}: cannot be read: No such file or directory\n"


def test_inspect_bad_usage_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        inspect_t7.main([])
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n")) == ("", 1)


def test_inspect_piped_into_head(sample):
    command = f"{sys.executable} {ROOT / 'conversion' / 'inspect_t7.py'} {sample} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("nn.Sequential train=false\n", "")
