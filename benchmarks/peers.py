"""The same network by others: torchvision, timm, ONNX Runtime, OpenVINO. For `inference.py` to measure against."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnext.inference.optimize import PRECISIONS
from resnext.model import ResNeXt

PEERS = {  # and the package that each needs
    "torchvision": "torchvision",
    "torchvision, torch.compile": "torchvision",
    "timm": "timm",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
}
Run = Callable[[], Tensor]


def run_torch(network: Any, x: Tensor, precision: str) -> Run:
    network = network.to(PRECISIONS[precision])

    def run() -> Tensor:
        with torch.no_grad():
            return network(x.to(PRECISIONS[precision])).float()

    return run


def torchvision(model: ResNeXt) -> nn.Module:
    network: nn.Module = import_torchvision().models.resnext50_32x4d().eval()
    network.load_state_dict(model.state_dict())
    return network


def timm(model: ResNeXt) -> nn.Module:
    import_torchvision()  # timm imports it
    network: nn.Module = importlib.import_module("timm").create_model("resnext50_32x4d").eval()
    network.load_state_dict(model.state_dict())
    return network


def import_torchvision() -> Any:
    return importlib.import_module("tests.torchvision_shim").import_torchvision()


def write_onnx(model: ResNeXt, onnx: Path) -> str:
    """The ONNX file, made at the first call."""
    if not onnx.exists():
        torch.onnx.export(
            model,
            (torch.randn(2, 3, 224, 224),),
            onnx,
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["logits"],
        )
    return str(onnx)


def run_onnxruntime(onnx: str, x: Tensor) -> Run:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return lambda: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def run_openvino(onnx: str, x: Tensor, precision: str) -> Run:
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    network = core.read_model(onnx)
    network.reshape(list(x.shape))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    return lambda: torch.from_numpy(next(iter(request.infer([x.numpy()], share_inputs=True).values())))
