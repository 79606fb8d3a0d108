"""Command lines, run in this process or in a copy of it, which need not import torch again."""

import contextlib
import fcntl
import importlib.util
import os
import pty
import struct
import sys
import termios
import traceback

from conversion import convert_graph
from resnext.__main__ import main as resnext_main


def run(capsys, main, *arguments):
    """The exit status of a command, and what it says on stdout and stderr."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        status = stopped.code
    return status, *capsys.readouterr()


def refused(capsys, main, *arguments, status=2):
    """The one line on stderr of a command that gives up; nothing is on stdout."""
    got, out, error = run(capsys, main, *arguments)
    assert (got, out) == (status, ""), error
    assert error.endswith("\n")
    assert error.count("\n") == 1
    return error


def on_a_terminal(main, *arguments, stdout=None):
    """The exit status of a command, and what it shows on a terminal of 100 columns. Its stdout may be a file."""
    child, terminal = pty.fork()
    if child == 0:
        status = 3
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
            if stdout is not None:
                os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT), 1)
            with open(1, "w") as sys.stdout, open(2, "w") as sys.stderr:
                status = main([str(argument) for argument in arguments])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def predicted(capsys, *arguments, status=0):
    """What `python -m resnext predict` says on stdout and stderr."""
    got, out, error = run(capsys, resnext_main, "predict", *arguments)
    assert got == status, error
    return out, error


def not_predicted(capsys, *arguments):
    """What `predict` says when it refuses."""
    return refused(capsys, resnext_main, "predict", *arguments)


def converted(capsys, path, out, *arguments):
    """The module that `convert_graph.py` wrote, after it was imported, and what was printed."""
    status, stdout, error = run(capsys, convert_graph.main, path, "--out", out, *arguments)
    assert (status, error) == (0, "")
    assert out.with_suffix(".pth").exists()
    spec = importlib.util.spec_from_file_location(out.name, f"{out}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, stdout
