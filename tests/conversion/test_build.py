"""One pass over a file: convert and prove, with and without writing."""

import pytest
import torch

from conversion import mapping, t7
from conversion.build import ProofError, build, convert_and_prove
from resnext.forms import find_form
from tests.helpers.recorded import FIXTURES


@pytest.mark.parametrize("form", "ABC")
def test_the_conversion_and_its_proof_in_each_form(sample, form):
    conversion, proof = convert_and_prove(str(sample), form=form)
    assert conversion.form == form
    assert find_form(conversion.state_dict) == form
    assert proof.passed


def test_without_a_proof(unprovable):
    conversion, proof = convert_and_prove(unprovable, prove=False)
    assert proof is None
    assert conversion.architecture.name == "resnext11_4x8d"


def test_a_failed_proof_says_by_how_much(unprovable, tmp_path):
    with pytest.raises(ProofError, match=r"huge\.t7: the proof failed, nothing is written: logits within") as caught:
        build(unprovable, tmp_path / "out", license_="x")
    assert not caught.value.proof.passed
    assert caught.value.exit_status == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "expected", "cause"),
    [("cifar10_resnext11_4x8d_C", "resnext50_32x4d", "expected resnext50_32x4d, got resnext11_4x8d"),
     (None, None, "not a ResNeXt: expected ReLU, got nn.Linear")],
)  # fmt: skip
def test_another_network_than_expected(models, name, expected, cause):
    path = models[name] if name else FIXTURES / "variants" / "s_plain.t7"
    with pytest.raises(t7.T7Error, match=cause):
        convert_and_prove(path, expected=expected)


def test_what_is_built_is_what_was_proved(sample, tmp_path):
    built = build(sample, tmp_path, license_="x", form="B", progress=False)
    conversion = mapping.convert(t7.load(sample)).in_form("B")
    written = torch.load(built.path, weights_only=True)
    assert all(torch.equal(written[name], value) for name, value in conversion.state_dict.items())
    assert built.record["proof"] == built.proof.as_dict()
