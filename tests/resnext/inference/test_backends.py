"""What runs an optimized network: each backend gives the same logits, and "auto" finds one that works."""

import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch

from resnext.inference import backends
from resnext.inference.backends import find_compiler, plain_arithmetic, run_by
from resnext.inference.optimize import optimize, prepare
from tests.helpers.networks import images, logits, relative_error

on_x86 = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="torch has oneDNN Graph only for x86"
)
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
GPU = torch.device("cuda:0")


@pytest.fixture
def no_graph(monkeypatch):
    """A torch without oneDNN Graph."""
    monkeypatch.delattr(torch.jit, "enable_onednn_fusion")


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")


@pytest.mark.parametrize(
    "backend",
    [pytest.param("onednn", marks=on_x86), pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow])],
)
def test_compiled(model, backend):
    result = optimize(model, [images(3)], backend=backend)
    assert result.backend == backend
    assert f"backend={backend}, precision=fp32, pieces of (2 or 1, 3, 16, 16), cpu" in repr(result)
    for count in (0, 1, 2, 3, 16):
        x = images(count, seed=4).to(memory_format=torch.channels_last)
        got = result(x)
        assert got.shape == (count, 10)
        assert count == 0 or relative_error(got, logits(model, x)) < 1e-5
    with torch.inference_mode():
        assert relative_error(result(images(2)), logits(model, images(2))) < 1e-5


@pytest.mark.parametrize("backend", ["eager", pytest.param("onednn", marks=on_x86)])
def test_autocast_changes_nothing(model, backend):
    """The limit of fp32 holds in it, whether it is on where the network is made or where it is used."""
    with torch.autocast("cpu"):
        made_in_it = optimize(model, images(2), backend=backend)
        used_in_it = made_in_it(images(2))
    assert relative_error(made_in_it(images(2)), logits(model, images(2))) < 1e-5
    assert relative_error(used_in_it, logits(model, images(2))) < 1e-5


@on_x86
def test_auto_takes_the_fastest_and_says_nothing(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert optimize(model, images(1)).backend == "onednn"


@on_x86
@pytest.mark.slow
def test_no_compiler_is_imported_for_the_graph():
    """Inductor would take longer than all the rest."""
    script = """
import sys, torch, resnext
model = resnext.ResNeXt((1, 1, 1), cardinality=1, base_width=4, stem="cifar")
assert resnext.optimize(model, torch.zeros(1, 3, 8, 8)).backend == "onednn"
assert "torch._inductor.cpp_builder" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).resolve().parents[3])


@on_x86
def test_the_graph_in_bf16(model):
    result = optimize(model, images(4), "bf16", "onednn")
    assert 1e-5 < relative_error(result(images(4)), logits(model, images(4))) < 2e-2


@pytest.mark.parametrize("backend", ["eager", pytest.param("onednn", marks=on_x86)])
def test_several_threads(model, backend):
    network = optimize(model, images(4), backend=backend)
    expected = [logits(model, images(3, seed=seed)) for seed in range(4)]
    errors = [[] for _ in expected]

    def work(seed):
        for _ in range(20):
            errors[seed].append(relative_error(network(images(3, seed=seed)), expected[seed]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(some) == 20 and max(some) < 1e-5 for some in errors)


@on_x86
@pytest.mark.parametrize("before", [True, False])
def test_the_setting_of_the_process_comes_back(model, before, monkeypatch):
    torch.jit.enable_onednn_fusion(before)
    try:
        optimize(model, images(1), backend="onednn")
        assert torch.jit.onednn_fusion_enabled() == before
        monkeypatch.setattr(torch.jit, "trace", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            optimize(model, images(1), backend="onednn")
        assert torch.jit.onednn_fusion_enabled() == before
    finally:
        torch.jit.enable_onednn_fusion(False)


@on_x86
def test_the_setting_comes_back_after_two_threads(model, monkeypatch):
    """The second to come must not find the setting that the first has made, and put that back after it."""
    entered, leave, trace = [], [threading.Event(), threading.Event()], torch.jit.trace

    def wait(*arguments, **options):
        entered.append(leave[len(entered)])
        entered[-1].wait(10)
        return trace(*arguments, **options)

    monkeypatch.setattr(torch.jit, "trace", wait)
    threads = [threading.Thread(target=optimize, args=(model, images(1), "fp32", "onednn")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for event, thread in zip(leave, threads, strict=True):
        event.set()
        thread.join(1)
    for thread in threads:
        thread.join()
    assert len(entered) == 2
    assert not torch.jit.onednn_fusion_enabled()


def test_a_torch_without_the_graph(model, no_graph, monkeypatch):
    monkeypatch.setitem(backends.ON_CPU, "inductor", lambda network, piece: network.forward)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert optimize(model, images(1)).backend == ("inductor" if find_compiler() else "eager")
        monkeypatch.setenv("CXX", "/nonexistent/c++")
        assert optimize(model, images(1)).backend == "eager"
    with pytest.raises(RuntimeError, match=r"torch has no oneDNN Graph: .*enable_onednn_fusion"):
        optimize(model, images(1), backend="onednn")


def test_a_type_that_the_graph_does_not_take(model):
    with pytest.raises(RuntimeError, match=r"torch has no oneDNN Graph for torch\.float16 on this processor"):
        optimize(model, images(1), "fp16", "onednn")


@needs_compiler
def test_a_compiler_that_fails(model, no_graph, monkeypatch):
    def fail(*_):
        raise OSError("no space left\non the device")

    monkeypatch.setitem(backends.ON_CPU, "inductor", fail)
    with pytest.warns(UserWarning, match="backend 'inductor' failed, trying the next: OSError: no space left$"):
        result = optimize(model, images(1))
    assert result.backend == "eager"
    assert relative_error(result(images(1)), logits(model, images(1))) < 1e-5
    with pytest.raises(OSError, match="no space left"):
        optimize(model, images(1), backend="inductor")


def test_no_compiler(model, no_compiler):
    assert find_compiler() is None
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler.*backend='eager'"):
        optimize(model, images(1), backend="inductor")


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_a_precision_without_onednn_is_not_compiled(model):
    with torch.backends.mkldnn.flags(enabled=False):
        assert optimize(model, images(1), "bf16").backend == "eager"


def test_the_graph_is_for_the_cpu():
    with pytest.raises(RuntimeError, match="'onednn' is for the CPU, the network is on cuda:0; give backend='auto'"):
        backends.check("onednn", GPU)


@pytest.mark.parametrize("backend", ["auto", "inductor"])
def test_on_a_gpu_torch_compiles(model, monkeypatch, backend):
    """With everything on the CPU: what is called, and how."""
    calls = []

    def compile(function):
        def compiled(x):
            calls.append(x.shape)
            return function(x)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    network, expected = prepare(model, images(2), "fp32")
    run, used = run_by(backend, network, images(2), GPU)
    assert used == "inductor"
    assert calls == [(2, 3, 16, 16)]  # compiled where it is made, not where it is used first
    assert relative_error(run(images(2)), expected) < 1e-5
    assert len(calls) == 2


def test_on_a_gpu_without_triton(model, monkeypatch):
    def compile(function):
        raise RuntimeError("Cannot find a working triton installation")

    monkeypatch.setattr(torch, "compile", compile)
    network, expected = prepare(model, images(2), "fp32")
    with pytest.warns(UserWarning, match="backend 'inductor' failed, trying the next: RuntimeError: Cannot find"):
        run, used = run_by("auto", network, images(2), GPU)
    assert used == "eager"
    assert relative_error(run(images(2)), expected) < 1e-5


def test_settings_of_a_gpu_come_back_after_two_threads():
    """The second to come must not find what the first has set, and put that back after it."""
    entered, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def work(number):
        with plain_arithmetic(GPU):
            entered[number].set()
            leave[number].wait(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    threads[0].start()
    entered[0].wait(10)
    threads[1].start()
    entered[1].wait(0.2)  # in vain
    for number in range(2):
        leave[number].set()
        threads[number].join()
    assert torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), plain_arithmetic(GPU):
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32
