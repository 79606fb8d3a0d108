"""What runs an optimized network: each backend gives the same logits, and "auto" finds one that works."""

import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from resnext.inference import backends, onednn, onednn_graph
from resnext.inference.backends import find_compiler
from resnext.inference.optimize import optimize, prepare
from tests.conftest import relative_error
from tests.resnext.inference.test_inference import LIMITS, images, logits, tiny

on_x86 = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="torch has oneDNN Graph for x86 alone"
)
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.mark.parametrize(
    "backend", [pytest.param("onednn", marks=on_x86), pytest.param("inductor", marks=needs_compiler)]
)
def test_compiled(model, backend):
    result = optimize(model, [images(2)], backend=backend)
    assert result.backend == backend
    assert f"backend={backend}, precision=fp32, pieces of (2, 3, 16, 16), cpu" in repr(result)
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
    assert not torch._C._jit_llga_enabled()  # it is a setting of the whole process


@on_x86
def test_no_compiler_is_imported_for_the_graph():
    """Inductor alone would take as long as all the rest."""
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
    assert 1e-5 < relative_error(result(images(4)), logits(model, images(4))) < LIMITS["bf16"]


@on_x86
def test_several_threads(model):
    graph = optimize(model, images(4), backend="onednn")
    expected = [logits(model, images(3, seed=seed)) for seed in range(4)]
    errors = [[] for _ in expected]

    def work(seed):
        for _ in range(20):
            errors[seed].append(relative_error(graph(images(3, seed=seed)), expected[seed]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(some) == 20 and max(some) < 1e-5 for some in errors)


@on_x86
def test_the_setting_of_the_process_comes_back(model):
    torch._C._jit_set_llga_enabled(True)
    try:
        optimize(model, images(1), backend="onednn")
        assert torch._C._jit_llga_enabled()
    finally:
        torch._C._jit_set_llga_enabled(False)
    with pytest.raises(TypeError), onednn_graph._fusing():
        raise TypeError
    assert not torch._C._jit_llga_enabled()


@on_x86
def test_the_setting_comes_back_after_two_threads():
    entered, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def work(number):
        with onednn_graph._fusing():
            entered[number].set()
            leave[number].wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    threads[0].start()
    entered[0].wait()
    threads[1].start()
    entered[1].wait(0.2)  # in vain
    for number in range(2):  # in this order, in which the setting was left on
        leave[number].set()
        threads[number].join()
    try:
        assert not torch._C._jit_llga_enabled()
    finally:
        torch._C._jit_set_llga_enabled(False)


@pytest.mark.parametrize("compiler", [None, "g++"])
def test_a_torch_without_the_graph(model, monkeypatch, compiler):
    monkeypatch.delattr(torch._C, "_jit_set_llga_enabled")
    monkeypatch.setattr(backends, "find_compiler", lambda: compiler)
    monkeypatch.setitem(backends.RUNNERS, "inductor", lambda network, piece: network.forward)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert optimize(model, images(1)).backend == ("inductor" if compiler else "eager")
    with pytest.raises(RuntimeError, match=r"torch has no oneDNN Graph: .*_jit_set_llga_enabled"):
        optimize(model, images(1), backend="onednn")


def test_a_type_that_the_graph_does_not_take(model):
    with pytest.raises(RuntimeError, match=r"torch has no oneDNN Graph for torch\.float16 on this processor"):
        optimize(model, images(1), "fp16", "onednn")


def test_a_compiler_that_fails(model, monkeypatch):
    def fail(*_):
        raise OSError("no space left\non the device")

    monkeypatch.delattr(torch._C, "_jit_set_llga_enabled")
    monkeypatch.setattr(backends, "find_compiler", lambda: "g++")
    monkeypatch.setattr(backends, "write_package", fail)
    with pytest.warns(UserWarning, match="backend 'inductor' failed, trying the next: OSError: no space left$"):
        result = optimize(model, images(1))
    assert result.backend == "eager"
    assert relative_error(result(images(1)), logits(model, images(1))) < 1e-5
    with pytest.raises(OSError, match="no space left"):
        optimize(model, images(1), backend="inductor")


def test_auto_on_a_gpu():
    piece = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.bfloat16)
    assert backends._candidates(piece) == ["inductor", "eager"]


def test_the_output_of_a_graph_on_a_gpu_is_overwritten_by_the_next(model, monkeypatch):
    """What CUDA graphs do: one input, one output, whoever calls. On the CPU here."""
    modes = []

    def compile(network, mode, dynamic):
        assert (mode, dynamic) == ("max-autotune", False)
        out = torch.empty(2, 10)

        def run(x):
            modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return out.copy_(network(x))

        return run

    monkeypatch.setattr(torch, "compile", compile)
    run = backends._compile_for_gpu(prepare(model, images(2), "fp32")[0], images(2))
    with torch.inference_mode():
        first, second = run(images(2)), run(images(2, seed=2))
    assert relative_error(first, logits(model, images(2))) < 1e-5
    assert relative_error(second, logits(model, images(2, seed=2))) < 1e-5
    assert set(modes) == {(False, False)}  # another would compile it again


def test_no_compiler(model):
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nonexistent/c++")}):
        assert find_compiler() is None
        with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler.*backend='eager'"):
            optimize(model, images(1), backend="inductor")


def test_unsupported_precision_is_not_compiled(model, monkeypatch):
    monkeypatch.setattr(onednn, "supports", lambda dtype: False)
    assert optimize(model, images(1), "bf16").backend == "eager"


def test_the_graph_is_for_the_cpu():
    with pytest.raises(RuntimeError, match="'onednn' is for the CPU, the network is on cuda:0; give backend='auto'"):
        backends.check("onednn", torch.device("cuda:0"))
