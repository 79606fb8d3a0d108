"""A chart for each subject."""

import importlib.util
import struct

import pytest

from benchmarks import plot
from benchmarks.measure import Result
from tests.benchmarks.test_measure import BARS

if importlib.util.find_spec("matplotlib") is None:
    pytest.skip("matplotlib is not installed", allow_module_level=True)

MANY = Result("inference", "fp32", "time per image", "s", {name: [0.1, 0.2] for name in "abcd"}, {"e": "absent"})
CURVES = [
    Result("size", f"batch {batch}", "growth", "bytes", {"a": [1e6 * batch], "b": [2e6 * batch]}, batch=batch)
    for batch in (1, 2, 4)
]


def test_a_file_for_each_subject(tmp_path):
    plot.save([BARS, MANY, *CURVES], tmp_path, "caption")
    sizes = {}
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        sizes[path.name] = struct.unpack(">II", content[16:24])
    assert sizes.keys() == {"loading.png", "inference.png", "size.png"}
    assert len({width for width, _ in sizes.values()}) == 1
    assert sizes["size.png"][1] > sizes["inference.png"][1] > sizes["loading.png"][1]  # 3 bars, 5 bars, curves


def test_subjects_without_values_have_no_chart(tmp_path):
    plot.save([Result("inference", "nothing", "time", "s", {}, {"a": "absent"})], tmp_path, "caption")
    assert not list(tmp_path.iterdir())


def test_one_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(self, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    (tmp_path / "loading.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        plot.save([BARS], tmp_path, "caption")
    assert (tmp_path / "loading.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["loading.png"]
