"""What this processor is, and whether it survives its own AMX.

Some virtual machines announce AMX without permitting it: the first convolution in low precision ends the process with
SIGILL. That can only be found out in a process that may die. This module does not import torch, because `rule_out_amx`
has to run first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VARIABLE, CAP = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16"
# The values of the variable under which oneDNN uses no AMX.
CAPS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI", CAP, "AVX512_CORE_FP16")
TRIAL = """
import torch
with torch.no_grad():
    torch.nn.Linear(64, 64).bfloat16()(torch.zeros(16, 64).bfloat16())
    torch.nn.Conv2d(64, 64, 3).bfloat16()(torch.zeros(2, 64, 8, 8).bfloat16())
"""
PATIENCE = 120  # seconds that the trial may take
RUNS, DIES = "runs", "dies: "  # what the cache says


class ProcessorError(RuntimeError):
    """Computing in low precision would or might end this process. Says what to do."""


def describe() -> str:
    """Name and instruction sets of the processor."""
    try:
        content = CPUINFO.read_text(encoding="utf-8")
    except OSError:  # not Linux
        content = ""
    lines = re.findall(r"^(?:model name|flags|Features)\s*:.*", content, re.MULTILINE)
    return "\n".join(sorted(set(lines))) or f"{platform.machine()} {platform.processor()}"


def announces_amx() -> bool:
    """Whether the processor says that it has AMX."""
    return re.search(r"\bamx_", describe()) is not None


def amx_fault(trial: str = TRIAL) -> str | None:
    """What happens to a child process that computes in low precision with AMX, e.g. "is killed by SIGILL".

    None where it works. Raises ProcessorError where that cannot be found out.
    """
    # The child looks for torch where this process does, and may use all that the processor announces.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop(VARIABLE, None)
    try:
        child = subprocess.run(
            [sys.executable, "-c", trial], env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _error(f"testing whether it works failed ({error})") from None
    if child.returncode > 0:
        last = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise _error(f"testing whether it works failed ({last[0]})")
    return f"is killed by {signal.Signals(-child.returncode).name}" if child.returncode else None


def check_low_precision(trial: str = TRIAL) -> None:
    """Raise ProcessorError where computing in low precision would kill this process.

    Where AMX is announced and `ONEDNN_MAX_CPU_ISA` does not rule it out, a child process tries it. That happens once,
    for the answer is kept in torch.hub's folder by processor, kernel and torch. Elsewhere it costs nothing.
    """
    if os.environ.get(VARIABLE, "").upper() in CAPS or not announces_amx():
        return
    known = _known_answer()
    try:
        answer = known.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        answer = ""
    if answer != RUNS and not answer.startswith(DIES):
        fault = amx_fault(trial)
        answer = RUNS if fault is None else DIES + fault
        _keep(answer, known)
    if answer != RUNS:
        raise _error(f"a process that uses it {answer.removeprefix(DIES)}")


def rule_out_amx(trial: str = TRIAL) -> None:
    """Set `ONEDNN_MAX_CPU_ISA`, for this process and its children, where AMX is announced and does not work.

    Must be called before torch is imported. Raises ProcessorError where that cannot be found out.
    """
    if os.environ.get(VARIABLE, "").upper() not in CAPS and announces_amx() and amx_fault(trial):
        os.environ[VARIABLE] = CAP


def _known_answer() -> Path:
    import torch

    parts = (describe(), platform.release(), platform.version(), str(torch.__version__))
    return Path(torch.hub.get_dir()) / "processors" / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _keep(answer: str, path: Path) -> None:
    from resnext.weights.atomic import replacing

    with contextlib.suppress(OSError):  # then it is found out again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(f"{answer}\n", encoding="utf-8")


def _error(what: str) -> ProcessorError:
    return ProcessorError(
        f"this machine announces AMX, but {what}; set {VARIABLE}={CAP} in the environment before Python starts, "
        "or compute in fp32"
    )
