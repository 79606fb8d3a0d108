"""The records of what is published, and JSON that may be anything."""

import json
import os
import re

import pytest
import torch

import resnext
from resnext import zoo
from resnext.preprocess import get_preprocess
from resnext.weights import records


def test_records_agree_with_the_architectures():
    assert set(records.records()) < set(zoo.ARCHITECTURES)
    for name, record in records.records().items():
        assert record.architecture == name
        model = zoo.ARCHITECTURES[name].build_empty()
        assert record.parameters == sum(p.numel() for p in model.parameters())
        assert record.multiply_adds == zoo.ARCHITECTURES[name].multiply_adds()
        assert record.license == "CC BY-NC 4.0"
        assert all(url.startswith("https://") and url.endswith(f"/{record.torch7.file}") for url in record.torch7.urls)


def test_every_figure_names_its_source():
    for record in json.loads(records.RECORDS.read_text()).values():
        figures = {**record, "size": record["torch7"]["size"], "size_source": record["torch7"]["size_source"]}
        for figure in ("top1_error", "top5_error", "parameters", "multiply_adds", "preprocessing", "license", "size"):
            assert figure in figures
            assert re.search("facebookresearch/ResNeXt|counted on the architecture", figures[f"{figure}_source"])


def test_a_download_may_be_a_little_larger_than_its_stated_size():
    assert records.get_record("resnext50_32x4d").torch7.limit == 192 * 2**20


def test_networks_without_published_weights_say_so(home):
    with pytest.raises(resnext.WeightsError, match=r"no weights were published for resnext29_8x64d; .*weights=PATH"):
        resnext.create("resnext29_8x64d_typeC", pretrained=True)


@pytest.mark.parametrize("record", records.records().values(), ids=lambda record: record.architecture)
def test_preprocessing_of_the_records_is_there(record):
    assert get_preprocess(record.preprocessing)(torch.zeros(3, 300, 256, dtype=torch.uint8)).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"a": [1, "\xc2\xb2"]}', {"a": [1, "²"]}), (b"{}", {}), (b"", None), (b'{"a": 1', None), (b"[1]", None),
     (b"null", None), (b"\xff\xfe", None), (b'{"a": "\xe4"}', None), (b"[" * 10**6, None),
     (b'{"a": ' + b"9" * 5000 + b"}", None), (b"{}" + b" " * 2**26, None)],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_json_that_may_be_bad(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    assert records.read_json(tmp_path / "a.json") == expected


def test_json_that_is_not_there(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", "pipe", "a\0b", ".", "x" * 300):
        assert records.read_json(tmp_path / name) is None
