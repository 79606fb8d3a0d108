"""inspect_t7.py: the tree as it stands in the file, without reading values, and errors of one line."""

import os
import subprocess
import sys

import pytest

from conversion import inspect_t7
from tests.helpers.recorded import FIXTURES, ROOT
from tests.helpers.torch7_writer import TABLE, TORCH, Writer, write

SCRIPT = [sys.executable, str(ROOT / "conversion" / "inspect_t7.py")]
W = Writer()


def tree(capsys, tmp_path, data):
    """What is printed for a file of these bytes, less the last line."""
    assert inspect_t7.main([str(write(tmp_path, data))]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("file.t7: ")
    return lines


def test_the_tree_of_a_network(capsys, sample):
    assert inspect_t7.main([str(sample)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nn.Sequential train=false"
    assert lines[1].startswith("  1: cudnn.SpatialConvolution ")
    assert "weight=float32[64x3x3x3]" in lines[1]
    assert lines[-1] == f"{sample.name}: 27 modules with parameters, 996,298 parameters"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cyc", "  self: table of 2, the same as the root"), ("boolkey", "table of 1 true='x'"),
     ("s_sharedmod", "    3: nn.Linear, the same as model.modules[1]"), ("keys", "table of 1 <table of 1>='x'"),
     ("sizes", "table of 6 is=int32[1], ls=int64[2] (storage), bs=uint8[2], cs=int8[2], ds=float64[1], ss=int16[1]")],
)  # fmt: skip
def test_odd_files(capsys, name, expected):
    assert inspect_t7.main([str(FIXTURES / "variants" / f"{name}.t7")]) == 0
    assert expected in capsys.readouterr().out.splitlines()


def test_no_values_are_read(capsys, tmp_path):
    path = write(tmp_path, W.ref(TORCH, 1) + W.text("V 1") + W.text("torch.FloatStorage") + W.long(2**40))
    os.truncate(path, path.stat().st_size + 2**42)  # a hole of 4 TiB
    assert inspect_t7.main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("float32[1099511627776] (storage)\n")


def test_what_is_left_out_is_noted(capsys, tmp_path):
    first, *notes = tree(capsys, tmp_path, W.number(90) + W.table(1))
    assert first == "90"
    assert notes == ["note: read only the first object, as Lua's torch.load does; left out 12 bytes of further objects"]


def test_an_object_that_is_met_again_is_not_walked_again(capsys, tmp_path):
    """45 levels of Sequential{m, m}: 2^45 paths."""
    module = W.object(1 + 3 * 45, "nn.Identity")
    for level in range(44, -1, -1):
        index = 1 + 3 * level
        twice = W.table(index + 2, module, W.ref(TORCH, index + 3))
        module = W.torch(index, "nn.Sequential", W.table(index + 1, modules=twice))
    lines = tree(capsys, tmp_path, module)
    assert len(lines) == 1 + 2 * 45
    assert lines[-1] == "  2: nn.Sequential, the same as modules[1]"


def test_keys_are_shown_in_one_line_without_control_characters(capsys, tmp_path):
    keys = [b"\xff", b"\x1b[31mred", b"two\nlines", b"\xe2\x80\xae", "größe".encode()]
    data = W.fields(1, *((W.string(key), W.table(2 + i)) for i, key in enumerate(keys)))
    names = [line.partition(":")[0].strip() for line in tree(capsys, tmp_path, data)[1:]]
    assert names == ["\\udcff", "\\x1b[31mred", "two lines", "\\u202e", "größe"]


def test_long_lines_are_cut(capsys, tmp_path):
    many = W.fields(1, *((W.number(i), W.number(i)) for i in range(10_000)), (W.string("k" * 10**6), W.table(2)))
    lines = tree(capsys, tmp_path, many)
    assert len(lines) == 2
    assert [len(line) for line in lines] == [2000, 2002]
    assert all(line.endswith("...") for line in lines)


def test_deep_references_are_not_looked_up_each_time(capsys, tmp_path):
    deep = W.table(150, W.table(151), *[W.ref(TABLE, 151)] * 1000)
    for index in range(149, 0, -1):
        deep = W.table(index, deep)
    steps = 0

    def count(frame, event, argument):
        nonlocal steps
        steps += event == "call" and frame.f_code.co_name == "format_key"

    sys.setprofile(count)
    try:
        lines = tree(capsys, tmp_path, deep)
    finally:
        sys.setprofile(None)
    assert sum("the same as [1][1]" in line for line in lines) == 1000
    assert steps < 1000


def test_any_encoding_of_stdout_does(tmp_path):
    path = write(tmp_path, W.table(1, größe=W.table(2), 日本=W.table(3)))
    done = subprocess.run([*SCRIPT, path], env={"PYTHONIOENCODING": "latin-1"}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    names = [line.partition(b":")[0].strip() for line in done.stdout.splitlines()[1:3]]
    assert names == [b"gr\xf6\xdfe", b"\\u65e5\\u672c"]


def test_errors_are_one_line(capsys, tmp_path):
    assert inspect_t7.main([str(tmp_path / "absent.t7")]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr == f"inspect_t7: {tmp_path / 'absent.t7'}: cannot be read: No such file or directory\n"
    assert inspect_t7.main([str(write(tmp_path, W.fields(1, (W.string("a\n\x1b" * 10), W.int(77))) + bytes(9)))]) == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n"), "\x1b" in stderr) == ("", 1, False)


def test_bad_usage_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        inspect_t7.main([])
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr == "inspect_t7: the following arguments are required: file (see --help)\n"


def test_piped_into_head_and_onto_a_full_disk(sample):
    def shell(line):
        return subprocess.run(["bash", "-c", line, "-", *SCRIPT, sample], capture_output=True, text=True, check=False)

    done = shell('"$@" | head -n 1')
    assert (done.stdout, done.stderr) == ("nn.Sequential train=false\n", "")
    done = shell('"$@" > /dev/full')
    assert (done.returncode, done.stderr) == (2, "inspect_t7: [Errno 28] No space left on device\n")
