"""Options that matter in training: dropout, stochastic depth, checkpointing."""

import pytest
import torch

from resnext.architecture import Architecture
from resnext.model import DropPath

TINY = Architecture((2, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_drop_rate_is_ahead_of_the_classifier(images):
    model = TINY.build(drop_rate=0.5)
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    assert (pooled == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(model.eval()(images), model(images))


def test_drop_path_rates_rise_linearly_to_the_last_block():
    rates = [m.rate for m in TINY.build(drop_path_rate=0.3).modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_drop_path_zeroes_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    out = layer(torch.ones(4000, 2, 1, 1))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(out), out)


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("form", ["A", "C"])
def test_checkpointing_changes_neither_gradients_nor_statistics(images, form, features_only):
    results = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = TINY.build(form=form, drop_path_rate=0.4, features_only=features_only)
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        out = model(images)
        (out[-1] if features_only else out).square().sum().backward()
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        results.append({**buffers, **{name: p.grad for name, p in model.named_parameters()}})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert results[0]["bn1.num_batches_tracked"] == results[0]["layer1.0.bn3.num_batches_tracked"] == 1


def test_checkpointing_takes_a_second_backward(images):
    """Two losses over one forward pass."""
    results = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = TINY.build()
        model.set_grad_checkpointing(enable)
        loss = model(images).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        results.append({**dict(model.named_buffers()), **{name: p.grad for name, p in model.named_parameters()}})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_checkpointing_keeps_less(images):
    def kept(enable):
        model, sizes = TINY.build(), []
        model.set_grad_checkpointing(enable)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()), lambda _: None):
            model(images)
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_checkpointing_can_be_switched_off_again(images):
    model = TINY.build()
    model.set_grad_checkpointing()
    assert all(stage.checkpointed for stage in (model.layer1, model.layer3))
    model.set_grad_checkpointing(False)
    assert not model.layer1.checkpointed
