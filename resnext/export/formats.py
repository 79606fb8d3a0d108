"""The formats that a network can be exported to: how each is written, and how its own runtime reads it again."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from resnext.export.job import Exported, Job
from resnext.inference import aoti
from resnext.inference.optimize import PRECISIONS

OPSET = 20  # of ONNX
METADATA = "metadata.json"  # name of the extra file in the archives of torch
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A format. `load` returns what the file computes, and the metadata in it."""

    write: Callable[[Job, Path], None]
    load: Callable[[Job, Path], tuple[Function, Mapping[str, str]]]
    runtime: str  # the package that reads it
    packages: tuple[str, ...] = ()  # what it needs besides torch
    suffix: str | None = None  # that torch insists on


def _write_onnx(job: Job, path: Path) -> None:
    import onnx

    program = torch.onnx.export(
        job.module,
        (job.images[0],),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},) if job.options.dynamic else None,
        verbose=False,
    )
    assert program is not None  # as it is with dynamo=True
    program.model.metadata_props.update(job.metadata)
    program.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)


def _load_onnx(job: Job, path: Path) -> tuple[Function, Mapping[str, str]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map


def _write_safetensors(job: Job, path: Path) -> None:
    from safetensors.torch import save_file

    network = copy.deepcopy(job.network).to(PRECISIONS[job.options.precision])
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    # one key, for the order of several is not the same from one run to the next
    save_file(tensors, path, metadata={"record": json.dumps(dict(job.metadata))})


def _load_safetensors(job: Job, path: Path) -> tuple[Function, Mapping[str, str]]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    network = copy.deepcopy(job.network)
    network.load_state_dict(load_file(path))
    with safe_open(path, "pt") as file:
        return network, json.loads(file.metadata()["record"])


def _write_torchscript(job: Job, path: Path) -> None:
    network = torch.jit.trace(job.module.network, job.module.preprocess(job.images[0]))  # type: ignore[no-untyped-call]
    script = torch.jit.freeze(torch.jit.script(Exported(job.module.preprocess, network).eval()))
    with path.open("wb") as file:  # the archive would be named after a path
        torch.jit.save(script, file, _extra_files={METADATA: json.dumps(dict(job.metadata))})


def _load_torchscript(job: Job, path: Path) -> tuple[Function, Mapping[str, str]]:
    extra = {METADATA: ""}
    script = torch.jit.load(path, _extra_files=extra)  # type: ignore[no-untyped-call]
    return script, json.loads(extra[METADATA])


def _write_pt2(job: Job, path: Path) -> None:
    program = torch.export.export(job.module, (job.images[0],), dynamic_shapes=job.dynamic_shapes)
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA: json.dumps(dict(job.metadata))})


def _load_pt2(job: Job, path: Path) -> tuple[Function, Mapping[str, str]]:
    extra = {METADATA: ""}
    return torch.export.load(path, extra_files=extra).module(), json.loads(extra[METADATA])


def _write_aoti(job: Job, path: Path) -> None:
    program = torch.export.export(job.module, (job.images[0],), dynamic_shapes=job.dynamic_shapes)
    aoti.save(program, path, job.metadata)


def _load_aoti(job: Job, path: Path) -> tuple[Function, Mapping[str, str]]:
    compiled = aoti.load(path)
    return compiled, compiled.metadata


FORMATS = {
    "onnx": Format(_write_onnx, _load_onnx, "onnxruntime", ("onnx", "onnxscript", "onnxruntime")),
    "safetensors": Format(_write_safetensors, _load_safetensors, "safetensors", ("safetensors",)),
    "torchscript": Format(_write_torchscript, _load_torchscript, "torch"),
    "pt2": Format(_write_pt2, _load_pt2, "torch", suffix=".pt2"),
    "aoti": Format(_write_aoti, _load_aoti, "torch", suffix=".pt2"),
}


def write(job: Job, path: Path) -> None:
    """Write the file, without the warnings that are meant for the authors of exporters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FORMATS[job.options.format].write(job, path)


def largest_error(job: Job, path: Path) -> float:
    """That of the logits that the file's own runtime computes; see `Job.largest_error`.

    Raises RuntimeError where the runtime does not take it, or its metadata do not come back.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run, metadata = FORMATS[job.options.format].load(job, path)
        if lost := [key for key, value in job.metadata.items() if metadata.get(key) != value]:
            raise RuntimeError(f"metadata that do not come back: {', '.join(lost)}")
        return job.largest_error(run)
