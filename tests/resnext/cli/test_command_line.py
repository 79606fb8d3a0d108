"""What command lines share, and the commands that have no tests of their own."""

import io
import subprocess
import sys

import pytest

from resnext.__main__ import main
from resnext.cli.command_line import CommandError, Parser, find_checkpoint, one_line, run, table, whole_number
from tests.helpers.recorded import ROOT


def test_without_a_command_help_is_printed(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: resnext ")
    for command in ("info", "weights", "predict", "evaluate", "export"):
        assert f"\n    {command} " in out


def test_an_unknown_command_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["convert"])
    error = capsys.readouterr().err
    assert error.startswith("resnext: argument command: invalid choice: 'convert'")
    assert error.endswith(" (see --help)\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "program", "package"),
    [(["-m", "resnext", "weights"], "resnext", "torch"), (["conversion/inspect_t7.py", "a.t7"], "inspect_t7", "numpy")],
)  # fmt: skip
def test_without_the_packages_that_it_needs_it_says_so(command, program, package):
    """-S: nothing but Python's own library."""
    ran = subprocess.run([sys.executable, "-S", *command], capture_output=True, text=True, cwd=ROOT)
    error = f"{program}: No module named '{package}'; install what is missing with pip\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", error)


class BadStateError(RuntimeError):
    exit_status = 1


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (CommandError("a  problem\nin lines"), 2, "a problem in lines"),
        (BadStateError("off"), 1, "off"),
        (OSError(28, "No space left on device", "a.json"), 2, "a.json: No space left on device"),
        (OSError("no drive"), 2, "no drive"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "not enough memory"),
        (ImportError("No module named 'x'"), 2, "No module named 'x'; install what is missing with pip"),
    ],
)
def test_an_error_is_one_line_and_a_status(capsys, error, status, message):
    def command():
        raise error

    assert run("tool", command) == status
    assert capsys.readouterr() == ("", f"tool: {message}\n")


def test_a_bug_is_no_message():
    with pytest.raises(ZeroDivisionError):
        run("tool", lambda: 1 // 0)


def test_what_stdout_cannot_encode_is_escaped(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert run("tool", lambda: print("数.png") or 3) == 3
    assert stdout.buffer.getvalue() == b"\\u6570.png\n"


@pytest.mark.parametrize("command", ["evaluate", "export", "predict"])
def test_help_is_printed_where_stdout_lacks_some_letters(monkeypatch, command):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a\n b\t", "a b"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\udcff", r"\udcff"),
        ("x" * 2000, "x" * 2000),
        ("x" * 2001, "x" * 1997 + "..."),
        ("\x00" * 1000, (r"\x00" * 500)[:1997] + "..."),
    ],
)
def test_text_for_one_line(text, shown):
    assert one_line(text) == shown


def test_columns():
    assert table([("a", "bb", ""), ("ccc", "d", "e")]) == "a    bb\nccc  d   e"


def test_whole_numbers(capsys):
    parser = Parser(prog="tool sub")
    parser.add_argument("-n", type=whole_number(2))
    assert parser.parse_args(["-n", "2"]).n == 2
    for wrong in ("1", "-1", "1.5", "x", "²"):
        with pytest.raises(SystemExit):
            parser.parse_args([f"-n={wrong}"])
        assert (
            capsys.readouterr().err
            == f"tool: argument -n: expected a whole number from 2 up, got {wrong} (see --help)\n"
        )


def test_which_checkpoint_is_meant(home, hosted, pth):
    published = find_checkpoint("resnext11_4x8d_typeB", None)
    assert (published.arch, published.published) == ("resnext11_4x8d_typeB", True)
    assert (published.path, published.sha256) == (home / hosted["file"], hosted["sha256"])
    assert published.load().form == "B"

    mine = find_checkpoint(None, str(pth))
    assert (mine.path, mine.arch, mine.published) == (pth, None, False)
    assert find_checkpoint(None, pth.as_uri()).path.read_bytes() == pth.read_bytes()
    assert not mine.load().training
    assert find_checkpoint("resnext11_4x8d", str(pth)).load().form == "C"
    with pytest.raises(RuntimeError, match="expected the weights of resnext50_32x4d"):
        find_checkpoint("resnext50_32x4d", str(pth)).load()
    with pytest.raises(CommandError, match="argument --arch: unknown architecture 'resnet'"):
        find_checkpoint("resnet", str(pth))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("resnext50_32x4d_typeA", ["network        resnext50_32x4d_typeA", "parameters     25,028,904 (25.0 M)"]),
        ("resnext29_8x64d", ["network        resnext29_8x64d", "weights        none were published"]),
    ],
)
def test_info_on_a_network(capsys, name, lines):
    assert main(["info", name]) == 0
    assert set(lines) <= set(capsys.readouterr().out.splitlines())


def test_info_on_all_networks_and_on_an_unknown_one(capsys):
    assert main(["info"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["network", "depth", "parameters", "multiply-adds", "image", "top-1", "error"]
    assert any(row.split()[:3] == ["resnext101_64x4d", "101", "83.5"] for row in rows)
    assert main(["info", "resnet"]) == 2
    assert "unknown architecture 'resnet'; did you mean" in capsys.readouterr().err
