"""The formats that a network can be exported to: how each is written, and how its own runtime reads it again."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from resnext.forms import convert_state_dict
from resnext.inference import aoti
from resnext.inference.optimize import PRECISIONS
from resnext.weights.files import read_weights
from resnext.weights.layouts import write_layout

if TYPE_CHECKING:
    from resnext.export.job import Job

OPSET = 20  # of ONNX
METADATA = "metadata.json"  # name of the extra file in the archives of torch
Function = Callable[[Tensor], Tensor]


class Exported(nn.Module):
    """What a file holds: images -> logits, by a preprocessing (or none) and a network.

    Takes float32 (N, C, H, W), or uint8 where there is a preprocessing; returns float32 (N, num_classes).
    """

    def __init__(self, preprocess: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.network = preprocess, network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images))


@dataclass(frozen=True)
class Format:
    """A format. `load` returns what the file computes, and the metadata in it.

    Archives are made in memory and written by Python: on a full disk torch's own writer ends the process.
    """

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
    from safetensors.torch import save

    network = copy.deepcopy(job.network).to(PRECISIONS[job.options.precision])
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    if job.options.layout is not None:
        tensors = write_layout(convert_state_dict(tensors, network.form, "C"), job.options.layout)
    # one key, for the order of several is not the same from one run to the next
    path.write_bytes(save(tensors, metadata={"record": json.dumps(dict(job.metadata))}))


def _load_safetensors(job: Job, path: Path) -> tuple[Function, Mapping[str, str]]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    network = copy.deepcopy(job.network)
    if job.options.layout is None:
        network.load_state_dict(load_file(path))
    else:  # read as any file of that layout is
        network.load_state_dict(convert_state_dict(read_weights(path).state_dict, "C", network.form))
    with safe_open(path, "pt") as file:
        return network, json.loads(file.metadata()["record"])


def _write_torchscript(job: Job, path: Path) -> None:
    network = torch.jit.trace(job.module.network, job.module.preprocess(job.images[0]))
    script = torch.jit.freeze(torch.jit.script(Exported(job.module.preprocess, network).eval()))
    archive = io.BytesIO()
    torch.jit.save(script, archive, _extra_files={METADATA: json.dumps(dict(job.metadata))})
    path.write_bytes(archive.getbuffer())


def _load_torchscript(job: Job, path: Path) -> tuple[Function, Mapping[str, str]]:
    extra = {METADATA: ""}
    script = torch.jit.load(path, _extra_files=extra)
    return script, json.loads(extra[METADATA])


def _program(job: Job) -> torch.export.ExportedProgram:
    shapes = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),) if job.options.dynamic else None
    return torch.export.export(job.module, (job.images[0],), dynamic_shapes=shapes)


def _write_pt2(job: Job, path: Path) -> None:
    archive = io.BytesIO()
    torch.export.save(_program(job), archive, extra_files={METADATA: json.dumps(dict(job.metadata))})
    path.write_bytes(archive.getbuffer())


def _load_pt2(job: Job, path: Path) -> tuple[Function, Mapping[str, str]]:
    extra = {METADATA: ""}
    return torch.export.load(path, extra_files=extra).module(), json.loads(extra[METADATA])


def _write_aoti(job: Job, path: Path) -> None:
    aoti.save(_program(job), path, job.metadata)


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
