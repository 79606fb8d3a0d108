"""pretrained=True in processes: many at once, killed ones, and from the hub with the full-size file."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import resnext
from conversion import build
from resnext.weights import cache, records
from resnext.weights import pretrained as weights
from tests.conftest import ROOT
from tests.resnext.conftest import NAME, Site, assert_right

fork = multiprocessing.get_context("fork")  # torch is imported already, and is not made to compute in the children


def resolve():
    weights.resolve_pretrained(NAME, progress=False)


def test_eight_processes_make_one_transfer(hosted, home, site):
    site.delay = 0.01
    processes = [fork.Process(target=resolve) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 8
    assert site.asked == [hosted["file"]]
    assert_right(resnext.create(NAME, pretrained=True, progress=False))


def test_a_process_killed_at_any_moment_leaves_nothing_that_passes_for_whole(hosted, home, site):
    site.delay = 0.001  # 62 steps: about 0.1 s for the whole file
    moments, killed = random.Random(0), 0
    while killed < 20:
        process = fork.Process(target=resolve)
        process.start()
        time.sleep(moments.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        for path in home.glob("*.pth"):
            assert build.sha256_of(path) == hosted["sha256"]
            path.unlink()
    site.delay = 0.0
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert cache.verify_cached(records.get_record(NAME), home / hosted["file"]) is None
    assert not list(home.glob("*.partial*"))


def test_hub_entry_end_to_end_with_the_full_size_file(home, tmp_path, httpserver, full_size):
    """In processes of their own, as users run it; the second one with the network cut."""
    site = Site(httpserver)
    site.files[full_size.name] = full_size.read_bytes()
    script = f"""
import socket, sys, torch
if sys.argv[1] == 'cut':
    def refuse(*arguments): raise OSError('the network is cut')
    socket.socket.connect = refuse
model = torch.hub.load({str(ROOT)!r}, 'resnext50_32x4d_typeC', source='local', pretrained=True)
print(sum(p.numel() for p in model.parameters()))
"""
    for network in ("up", "cut"):
        done = subprocess.run(
            [sys.executable, "-c", script, network], env={**os.environ, "RESNEXT_MIRROR": site.url},
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout == "25028904\n"
    assert site.asked == [full_size.name]
    assert [path.name[:24] for path in home.glob("*.pth")] == ["resnext50_32x4d_typeC-2d"]
