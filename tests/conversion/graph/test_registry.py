"""Every class that is supported is tested, and the classes that are the same as another give the same module."""

from pathlib import Path

import numpy as np
import pytest

from conversion import t7
from conversion.graph.registry import BUILDERS
from tests.helpers.recorded import FIXTURES
from tests.helpers.torch7_networks import Layer, build

SAME = {
    "cudnn.BatchNormalization": "nn.BatchNormalization",
    "cudnn.SpatialBatchNormalization": "nn.SpatialBatchNormalization",
    "cudnn.SpatialConvolution": "nn.SpatialConvolution",
    "cudnn.VolumetricAveragePooling": "nn.VolumetricAveragePooling",
    "cudnn.VolumetricBatchNormalization": "nn.VolumetricBatchNormalization",
    "cudnn.VolumetricFullConvolution": "nn.VolumetricFullConvolution",
    "cudnn.VolumetricMaxPooling": "nn.VolumetricMaxPooling",
    "fbnn.SpatialBatchNormalization": "nn.SpatialBatchNormalization",
    "nn.VolumetricDilatedMaxPooling": "nn.VolumetricMaxPooling",
}
FIELDS = {
    "kW": 1, "kH": 2, "kT": 3, "dW": 2, "dH": 1, "dT": 1, "padW": 0, "padH": 1, "padT": 1, "nInputPlane": 4,
    "eps": 1e-3, "nOutputPlane": 1, "bias": np.ones(1, "f4"),
    "running_mean": np.ones(1, "f4"), "running_var": np.ones(1, "f4"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_classes_that_are_the_same_as_another(tmp_path, name):
    fields = dict(FIELDS, weight=np.ones(4 * 6 if "Vol" in name else 4 * 2, "f4"))
    if "Norm" in name:
        fields["weight"] = fields["bias"]
    one, other = (build(tmp_path, Layer(kind, **fields)) for kind in (name, SAME[name]))
    assert repr(one) == repr(other)
    assert one.state_dict().keys() == other.state_dict().keys()


def test_every_supported_class_is_tested():
    """It stands in a recorded file, or in a test of this folder."""
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    recorded = {"nn.DataParallelTable"}  # of tests/fixtures/variants
    for path in (FIXTURES / "layers").glob("*.t7"):
        recorded |= {obj.class_name for obj in t7.walk(t7.load(path)) if isinstance(obj, t7.TorchObject)}
    assert [name for name in BUILDERS if name not in recorded and f'"{name}"' not in texts] == []
