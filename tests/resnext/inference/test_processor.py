"""Processors that announce AMX: tried in a process that may die, once, and the answer kept."""

import os
import sys

import pytest
import torch

from resnext.evaluation.run import count_shards
from resnext.export import export
from resnext.inference import processor
from resnext.inference.optimize import optimize
from resnext.inference.processor import CAP, VARIABLE, ProcessorError, check_low_precision, rule_out_amx
from tests.helpers.networks import images

ILL = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
NEVER = "raise SystemExit('it was tried')"


@pytest.fixture(autouse=True)
def folder(hub, monkeypatch):
    """Where answers are kept; nothing is ruled out."""
    monkeypatch.setenv(VARIABLE, "")  # so that what a test sets is undone
    monkeypatch.delenv(VARIABLE)
    return hub / "processors"


@pytest.fixture
def amx(tmp_path, monkeypatch):
    """A processor that announces AMX."""
    path = tmp_path / "cpuinfo"
    path.write_text("model name\t: Some Xeon\nflags\t\t: fpu avx512f amx_bf16 amx_tile\nbogomips : 1\n")
    monkeypatch.setattr(processor, "CPUINFO", path)
    return path


def test_description(amx):
    assert processor.describe() == "flags\t\t: fpu avx512f amx_bf16 amx_tile\nmodel name\t: Some Xeon"
    assert processor.announces_amx()
    amx.unlink()
    assert processor.describe()
    assert not processor.announces_amx()


def test_a_machine_that_dies(amx, folder):
    message = rf"announces AMX, but a process that uses it is killed by SIGILL; set {VARIABLE}={CAP} .* before Python"
    with pytest.raises(ProcessorError, match=message):
        check_low_precision(ILL)
    with pytest.raises(ProcessorError, match=message):
        check_low_precision(NEVER)  # it is known
    assert len(list(folder.iterdir())) == 1


def test_nothing_of_ours_dies_there(amx, model, tmp_path):
    with pytest.raises(ProcessorError):
        check_low_precision(ILL)  # which is known from here on
    with pytest.raises(ProcessorError, match="killed by SIGILL"):
        optimize(model, images(1), "bf16", "eager")
    for format in ("torchscript", "safetensors"):
        with pytest.raises(ProcessorError, match="killed by SIGILL"):
            export(model, tmp_path / "file", format, precision="bf16")
    assert not (tmp_path / "file").exists()
    with pytest.raises(ProcessorError, match="killed by SIGILL"):
        list(count_shards(model, [], torch.device("cpu"), "bf16", None))
    assert optimize(model, images(1), backend="eager").precision == "fp32"  # which has nothing to do with it


@pytest.mark.slow
def test_a_machine_that_works(amx, folder):
    check_low_precision("import torch; assert torch.__version__")
    check_low_precision(NEVER)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.slow
def test_the_trial_itself():
    assert processor.amx_fault() is None or processor.announces_amx()


@pytest.mark.parametrize("change", ["processor", "torch", "kernel"])
def test_tried_again_after_a_change(amx, monkeypatch, change):
    check_low_precision("")
    if change == "processor":
        amx.write_text(amx.read_text().replace("Some", "Another"))
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "1.0")
    else:
        monkeypatch.setattr("platform.release", lambda: "1.0")
    with pytest.raises(ProcessorError, match=r"testing whether it works failed .*it was tried"):
        check_low_precision(NEVER)


@pytest.mark.parametrize("content", [b"", b"dies", b"\xff\xfe", None])
def test_a_bad_answer_is_replaced(amx, folder, content):
    check_low_precision("")
    (known,) = folder.iterdir()
    if content is None:
        known.unlink()
        known.mkdir()  # cannot be read, nor replaced
    else:
        known.write_bytes(content)
    with pytest.raises(ProcessorError, match="SIGILL"):
        check_low_precision(ILL)
    assert content is None or "SIGILL" in known.read_text()
    assert list(folder.iterdir()) == [known]


def test_a_cache_that_cannot_be_written(amx, tmp_path):
    torch.hub.set_dir(tmp_path / "cpuinfo")  # a file
    check_low_precision("")
    with pytest.raises(ProcessorError, match="SIGILL"):
        check_low_precision(ILL)


@pytest.mark.parametrize(
    ("trial", "why"), [("raise ImportError('no torch')", "no torch"), ("exit(3)", "exit status 3")]
)
def test_what_cannot_be_found_out_is_an_error_and_not_kept(amx, folder, trial, why):
    with pytest.raises(ProcessorError, match=rf"testing whether it works failed \(.*{why}\); set {VARIABLE}={CAP}"):
        check_low_precision(trial)
    assert not folder.exists()


def test_no_python_to_try_it_with(amx, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ProcessorError, match="testing whether it works failed"):
        check_low_precision("")


def test_nothing_is_tried_without_amx(amx, folder):
    amx.write_text("model name : AMD EPYC\nflags : fpu avx512f avx512_bf16\n")
    check_low_precision(ILL)
    rule_out_amx(ILL)
    assert VARIABLE not in os.environ
    assert not folder.exists()


@pytest.mark.parametrize("value", [CAP, "avx2", "AVX512_CORE_FP16"])
def test_nothing_is_tried_where_amx_is_ruled_out(amx, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    check_low_precision(ILL)
    rule_out_amx(ILL)
    assert os.environ[VARIABLE] == value


@pytest.mark.parametrize("value", ["AVX512_CORE_AMX", "ALL", ""])
def test_other_values_do_not_rule_it_out(amx, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ProcessorError, match="SIGILL"):
        check_low_precision(ILL)
    rule_out_amx(ILL)
    assert os.environ[VARIABLE] == CAP


def test_the_trial_runs_without_the_cap(monkeypatch):
    monkeypatch.setenv(VARIABLE, CAP)
    assert processor.amx_fault(f"import os; assert '{VARIABLE}' not in os.environ") is None


def test_amx_is_ruled_out_only_where_it_kills(amx):
    rule_out_amx("")
    assert VARIABLE not in os.environ
    rule_out_amx(ILL)
    assert os.environ[VARIABLE] == CAP


def test_torch_is_not_imported():
    """It must be possible to set the variable before that."""
    assert processor.amx_fault("import sys, resnext.inference.processor; assert 'torch' not in sys.modules") is None
