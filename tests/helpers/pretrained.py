"""A network with published weights, small: its records, and what is right and what is refused of them."""

import json

import pytest
import torch

import resnext
from resnext import zoo
from resnext.weights import records
from tests.helpers.networks import TINY, relative_error
from tests.helpers.recorded import torch7_output

NAME = "resnext11_4x8d"
T7 = "resnext_11_4x8d.t7"


def use_records(monkeypatch, tmp_path, record):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({NAME: record}))
    monkeypatch.setattr(records, "RECORDS", path)
    records.records.cache_clear()
    monkeypatch.setitem(zoo.ARCHITECTURES, NAME, TINY)


def assert_right(model):
    images, expected = torch7_output("cifar10_resnext11_4x8d_C_nested")
    with torch.no_grad():
        assert relative_error(model.eval()(images), expected) <= 5e-5


def refused(*parts):
    with pytest.raises(resnext.WeightsError) as caught:
        resnext.create(NAME, pretrained=True, progress=False)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message
