"""Command lines, run in this process."""

import importlib.util

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
