"""What a network is, bit for bit: names, initial weights, graph, outputs. `test_model.py` holds it against the record.

    python -m tests.resnext.record_model > tests/fixtures/model.json

Written by the code of commit 0a1e4e1, before the network was put into one file. Digests are of bytes and of names, so
that they do not depend on the version of torch; outputs are in double precision, and compared with a tolerance.
"""

import functools
import hashlib
import json

import torch
from torch import nn

from resnext.architecture import Architecture
from tests.conftest import randomize

IMAGENET = Architecture((1, 2, 1, 1), cardinality=2, base_width=4, num_classes=5)
CIFAR = Architecture((2, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)
NETWORKS = {
    "imagenet, form C": (IMAGENET, {}),
    "imagenet, form B": (IMAGENET, {"form": "B"}),
    "cifar, form A": (CIFAR, {"form": "A"}),
    "cifar, form B": (CIFAR, {"form": "B"}),
    "shortcut C, grey": (Architecture((2, 1, 1), 2, 12, "cifar", "C", 100, 1), {"form": "A"}),
    "dilated": (IMAGENET, {"replace_stride_with_dilation": (False, True, True)}),
    "training": (IMAGENET, {"drop_rate": 0.2, "drop_path_rate": 0.3, "zero_init_residual": True}),
    "maximum": (CIFAR, {"global_pool": "max"}),
    "average and maximum": (CIFAR, {"global_pool": "avgmax"}),
    "no classifier": (CIFAR, {"global_pool": "", "num_classes": 0}),
    "group norm": (IMAGENET, {"norm_layer": functools.partial(nn.GroupNorm, 4)}),
    "maps": (IMAGENET, {"features_only": True}),
    "two maps, form A": (CIFAR, {"form": "A", "features_only": True, "out_indices": (0, -2)}),
}


def digest(parts):
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else f"{part}\n".encode())
    return found.hexdigest()


def graph_of(model):
    """The operations that fx records, each with its arguments."""
    for node in torch.fx.symbolic_trace(model).graph.nodes:
        yield node.op, getattr(node.target, "__name__", node.target), node.args, sorted(node.kwargs.items())


def outputs_of(model, training):
    """Three sums over what comes out, and over the gradients and the buffers, in double precision."""
    size = (2, model.in_channels, 12, 8) if model.stem == "cifar" else (2, model.in_channels, 40, 48)
    images = torch.rand(size, generator=torch.Generator().manual_seed(1)).double()
    torch.manual_seed(2)
    out = model.train(training)(images)
    out = torch.cat([value.flatten() for value in (out if isinstance(out, list) else [out])])
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype)
    (out * weights).sum().backward()
    moments = {"out": out.detach()}
    moments["gradients"] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    moments["buffers"] = torch.cat([b.flatten().double() for b in model.buffers()] or [torch.zeros(1).double()])
    model.zero_grad()
    return {
        name: [value.sum().item(), value.abs().sum().item(), value.norm().item()] for name, value in moments.items()
    }


def record(architecture, options):
    torch.manual_seed(0)
    if "num_classes" in options:
        architecture = Architecture(**{**vars(architecture), "num_classes": options["num_classes"]})
    model = architecture.build(**{name: value for name, value in options.items() if name != "num_classes"})
    state_dict = model.state_dict()
    return {
        "names": digest((name, tuple(value.shape), value.dtype) for name, value in state_dict.items()),
        "parameters": digest((name, tuple(value.shape)) for name, value in model.named_parameters()),
        "modules": digest(
            (name, repr(module)) for name, module in model.named_modules() if not list(module.children())
        ),
        "initial": digest(value.numpy().tobytes() for value in state_dict.values()),
        "graph": digest(graph_of(model.eval())),
        "evaluation": outputs_of(randomize(model).double(), False),
        "training": outputs_of(model, True),
        "feature_info": [list(model.feature_info), model.num_features],
    }


if __name__ == "__main__":
    print(json.dumps({name: record(*network) for name, network in NETWORKS.items()}, indent=1))
