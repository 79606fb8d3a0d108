import numpy as np
import pytest

from conversion import t7
from tests.helpers.torch7_trees import Rewriter


def huge_biases(obj, fields):
    """So large that not even double precision leaves the digits that the proof wants."""
    if obj.class_name == "cudnn.SpatialConvolution":
        fields["bias"] = np.full(fields["nOutputPlane"], 1e6)
    if obj.class_name == "nn.SpatialBatchNormalization":
        fields["running_mean"] = fields["running_mean"].numpy() + np.float32(1e6)
    return fields


@pytest.fixture
def unprovable(sample, tmp_path):
    path = tmp_path / "huge.t7"
    path.write_bytes(Rewriter(change=huge_biases).dump(t7.load(sample)))
    return path
