"""The command line: what it prints, what it writes, and that whatever goes wrong is one line and leaves nothing."""

import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys

import pytest
import torch

from conversion import build_weights, mapping, t7, verify
from resnext.forms import convert_state_dict, find_form
from tests.helpers import commands
from tests.helpers.evaluation import fork
from tests.helpers.recorded import FIXTURES, ROOT

SAMPLE_ARCH = "resnext11_4x8d"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(capsys, *arguments):
    return commands.run(capsys, build_weights.main, *arguments)


def refused(capsys, out, *arguments, status=2):
    """One line on stderr, nothing on stdout, nothing written; the line."""
    line = commands.refused(capsys, build_weights.main, *arguments, "--out", out, status=status)
    assert not out.exists()
    assert line.startswith("build_weights: ")
    return line


def test_sample_from_another_folder_as_the_readme_has_it(capsys, sample, tmp_path):
    command = [sys.executable, str(ROOT / "conversion" / "build_weights.py"), "--sample"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    path, sidecar = sorted((tmp_path / "weights").iterdir(), reverse=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"{SAMPLE_ARCH}_typeC-{digest[:8]}.pth"
    assert sidecar == path.with_suffix(".json")
    assert sorted(os.listdir(tmp_path)) == ["weights"]
    for part in (
        digest,
        SAMPLE_ARCH,
        "996,298 parameters",
        "proved: logits within",
        "cifar10_resnext11_4x8d_C_nested.t7",
    ):
        assert part in done.stdout
    state_dict = torch.load(path, weights_only=True)
    assert state_dict["fc.weight"].shape == (10, 1024)
    assert run(capsys, "--t7", sample, "--out", tmp_path / "again")[0] == 0  # the same bytes in another process
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
def test_json_is_one_object_on_stdout(capsys, sample, out, file_format):
    status, stdout, stderr = run(capsys, "--t7", sample, "--out", out, "--json", "--format", file_format)
    assert (status, stderr) == (0, "")
    result = json.loads(stdout)
    assert stdout.count("\n") == 1
    assert set(result) >= {"path", "sha256", "arch", "tensor_digest", "verification"}
    assert result["arch"] == SAMPLE_ARCH
    assert result["verification"]["passed"] is True
    assert result["path"].endswith(f"-{result['sha256'][:8]}.{file_format}")
    with open(result["path"], "rb") as file:
        assert hashlib.sha256(file.read()).hexdigest() == result["sha256"]
    with open(result["sidecar"]) as file:
        sidecar = json.load(file)
    assert sidecar["tensor_digest"] == result["tensor_digest"]
    assert sidecar["source"]["sha256"] == hashlib.sha256(sample.read_bytes()).hexdigest()
    assert sidecar["source"]["size"] == sample.stat().st_size
    assert sidecar["source"]["name"] == sample.name


def test_tensor_digest_is_the_same_whatever_the_format(capsys, sample, out):
    digests = {
        json.loads(run(capsys, "--t7", sample, "--out", out, "--json", "--format", f, "--no-verify")[1])[
            "tensor_digest"
        ]
        for f in ("pth", "safetensors")
    }
    assert len(digests) == 1


def test_no_verify_leaves_the_proof_out_and_says_so(capsys, sample, out, monkeypatch):
    monkeypatch.setattr(verify, "verify", None)
    status, stdout, _ = run(capsys, "--t7", sample, "--out", out, "--no-verify")
    assert status == 0
    assert "not proved (--no-verify)" in stdout
    assert json.loads(next(out.glob("*.json")).read_text())["proof"] is None


def test_only_files_named_like_the_official_ones_get_their_licence(capsys, sample, tmp_path):
    official = tmp_path / "resnext_50_32x4d.t7"
    official.write_bytes(sample.read_bytes())
    for path, licence in (
        (official, "CC BY-NC 4.0"),
        (sample, "not stated in the file; the terms of the original checkpoint apply"),
    ):
        _, stdout, _ = run(capsys, "--t7", path, "--out", tmp_path / "out", "--no-verify", "--json")
        assert json.loads(stdout)["license"] == licence


@pytest.mark.parametrize("name", [SAMPLE_ARCH, f"{SAMPLE_ARCH}_typeC"])
def test_arch_that_the_file_is(capsys, sample, out, name):
    assert run(capsys, "--t7", sample, "--out", out, "--arch", name, "--no-verify")[0] == 0


@pytest.mark.parametrize("form", "ABC")
@pytest.mark.parametrize("name", ["cifar10_resnext11_4x8d_B", "cifar10_resnext11_4x8d_C_nested"])
def test_every_form_from_every_form(capsys, models, out, form, name):
    status, stdout, _ = run(capsys, "--t7", models[name], "--out", out, "--form", form, "--json")
    assert status == 0
    found = json.loads(stdout)
    assert found["form"] == form
    assert f"_type{form}-" in found["path"]
    proof = found["verification"]
    assert proof["passed"]
    assert (proof["dtype"], proof["tolerance"]) in (("float64", 1e-12), ("float32", 1e-6))
    state_dict = torch.load(found["path"])
    assert find_form(state_dict) == form
    expected = mapping.convert(t7.load(models[name])).state_dict
    assert all(torch.equal(v, expected[k]) for k, v in convert_state_dict(state_dict, form, "C").items())


def test_form_in_the_name(capsys, sample, out):
    arguments = ("--t7", sample, "--no-verify", "--json", "--arch")
    assert json.loads(run(capsys, *arguments, f"{SAMPLE_ARCH}_typeB", "--out", out)[1])["form"] == "B"
    assert "--arch resnext11_4x8d_typeB and --form A cannot be used together" in refused(
        capsys, out / "none", *arguments, f"{SAMPLE_ARCH}_typeB", "--form", "A"
    )


def test_what_is_published_is_form_c(capsys, out):
    line = refused(capsys, out, "--all", "--publish", "https://example.com/release", "--form", "A")
    assert "--publish takes a proved .pth of form C; it cannot be used with form A" in line


def test_arch_that_the_file_is_not(capsys, sample, out):
    line = refused(capsys, out, "--t7", sample, "--arch", "resnext50_32x4d")
    assert f"{sample}: expected resnext50_32x4d, got {SAMPLE_ARCH}" in line


def test_misspelt_arch(capsys, sample, out):
    assert "unknown architecture 'resnxt50_32x4d'; did you mean resnext50" in refused(
        capsys, out, "--t7", sample, "--arch", "resnxt50_32x4d"
    )


def test_a_failed_proof_stops_the_build(capsys, unprovable, out):
    line = refused(capsys, out, "--t7", unprovable, status=1)
    assert line.startswith(f"build_weights: {unprovable}: the proof failed, nothing is written: logits within")
    assert "allowed 1e-12 in double precision" in line
    assert "first to differ: stem, by" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--t7", "absent.t7"], "absent.t7: cannot be read: No such file"),
     (["--t7", "."], "expected a file, got a directory"),
     (["--bogus"], "unrecognized arguments: --bogus"), (["--t7", "a", "--sample"], "not allowed with argument"),
     (["--sample", "--format", "onnx"], "invalid choice: 'onnx'"), (["--t7"], "expected one argument")],
)  # fmt: skip
def test_bad_usage(capsys, out, arguments, message):
    assert message in refused(capsys, out, *arguments)


def test_what_is_no_file_does_not_hang(capsys, out, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        assert f"{path}: expected a file, got a directory or a device" in refused(capsys, out, "--t7", path)


def test_a_termination_leaves_nothing(sample, tmp_path, capfd):
    def terminated(descriptor):
        os.kill(os.getpid(), signal.SIGTERM)

    def script():
        os.chdir(tmp_path)
        os.fsync = terminated
        sys.argv = ["build_weights.py", "--t7", str(sample), "--no-verify", "--out", "out"]
        runpy.run_path(str(ROOT / "conversion" / "build_weights.py"), run_name="__main__")

    process = fork.Process(target=script)
    process.start()
    process.join()
    assert process.exitcode == 143
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 3, 5000, -1])
def test_damaged_file(capsys, sample, out, tmp_path, cut):
    (tmp_path / "cut.t7").write_bytes(sample.read_bytes()[:cut])
    assert "cut.t7: byte " in refused(capsys, out, "--t7", tmp_path / "cut.t7")


def test_a_file_that_is_no_resnext(capsys, out):
    path = FIXTURES / "variants" / "s_plain.t7"
    assert f"{path}: modules[3]: not a ResNeXt: expected ReLU, got nn.Linear" in refused(capsys, out, "--t7", path)


def test_a_folder_that_cannot_be_written(capsys, sample, tmp_path):
    (tmp_path / "file").touch()
    status, _, stderr = run(capsys, "--t7", sample, "--out", tmp_path / "file" / "out", "--no-verify")
    assert status == 2
    assert stderr.startswith(f"build_weights: {tmp_path / 'file' / 'out'}: Not a directory")
    assert stderr.count("\n") == 1


def test_what_was_in_the_folder_stays(capsys, sample, out, tmp_path):
    out.mkdir()
    (out / "mine.pth").write_text("mine")
    (tmp_path / "bad.t7").write_bytes(b"not this")
    assert run(capsys, "--t7", tmp_path / "bad.t7", "--out", out)[0] == 2
    assert [p.name for p in out.iterdir()] == ["mine.pth"]
    assert run(capsys, "--t7", sample, "--out", out, "--no-verify")[0] == 0
    assert (out / "mine.pth").read_text() == "mine"


def test_interrupt_leaves_nothing(capsys, sample, out, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    assert refused(capsys, out, "--t7", sample, "--no-verify", status=130) == "build_weights: interrupted\n"


def test_progress_bars_on_a_terminal(sample, tmp_path):
    status, shown = commands.on_a_terminal(build_weights.main, "--t7", sample, "--out", tmp_path / "out")
    assert status == 0, shown
    assert b"reading:   0%" in shown
    assert b"proving:   0%" in shown
