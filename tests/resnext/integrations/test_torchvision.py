"""torchvision takes the networks as its own: its registry, its weights and its helpers, from the real package."""

import copy
import importlib
import pickle
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy

import resnext
from resnext import zoo
from resnext.architecture import Architecture
from resnext.classes import class_names
from resnext.preprocess import get_preprocess
from tests.helpers.networks import randomize, relative_error
from tests.helpers.pretrained import NAME, assert_right

MODULE = "resnext.integrations.torchvision"
SMALL = "resnext14_2x4d"  # four stages of one bottleneck
PUBLISHED = ("resnext50_32x4d", "resnext101_32x4d", "resnext101_64x4d")
FORMS = ("A", "B", "C")


@pytest.fixture(scope="module")
def tv(torchvision):
    importlib.import_module(MODULE)
    return torchvision.models


@pytest.fixture
def registry(tv):
    """torchvision's registry, put back afterwards."""
    registered = importlib.import_module("torchvision.models._api").BUILTIN_MODELS
    before = dict(registered)
    yield registered
    registered.clear()
    registered.update(before)


@pytest.fixture
def small(registry, monkeypatch):
    monkeypatch.setitem(zoo.ARCHITECTURES, SMALL, Architecture((1, 1, 1, 1), 2, 4))
    for form in FORMS:
        sys.modules[MODULE].register(f"{SMALL}_type{form}")


@pytest.fixture
def published(registry, hosted, home):
    """A small network with published weights, as the large ones have them."""
    for form in FORMS:
        sys.modules[MODULE].register(f"{NAME}_type{form}")


# --- the registry ----------------------------------------------------------------------------------------------------


def test_every_network_is_registered(tv):
    for name in resnext.list_models():
        assert name.lower() in tv.list_models()
        builder = tv.get_model_builder(name)
        for module in (tv, tv.resnet):
            assert module.__dict__[name] is module.__dict__[name.lower()] is builder
        assert name in builder.__doc__


def test_get_model(tv):
    with torch.device("meta"):
        model = tv.get_model("resnext50_32x4d_typeC", num_classes=7)
    assert (type(model), model.form, model.num_classes, model.training) == (resnext.ResNeXt, "C", 7, True)


def test_options_are_those_of_create(tv, small):
    model = tv.get_model(
        f"{SMALL}_typeB",
        num_classes=5,
        in_channels=1,
        zero_init_residual=True,
        replace_stride_with_dilation=[False, True, True],
    )
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    assert model.feature_info.reduction() == [2, 4, 8, 8, 8]
    assert not model.layer4[0].bn3.weight.any()
    with pytest.raises(TypeError, match="no option width_per_group"):
        tv.get_model(f"{SMALL}_typeB", width_per_group=8)


def test_registering_again_replaces_our_own(tv):
    importlib.reload(sys.modules[MODULE])
    weights = tv.ResNeXt50_32X4D_TypeC_Weights.DEFAULT
    assert pickle.loads(pickle.dumps(weights)) is tv.get_model_weights("resnext50_32x4d_typeC").DEFAULT is weights


def test_nothing_else_is_replaced(tv, registry):
    registry["resnext50_32x4d_typec"] = tv.resnet18
    with pytest.raises(RuntimeError, match="another network called resnext50_32x4d_typec, of torchvision"):
        sys.modules[MODULE].register("resnext50_32x4d_typeC")
    assert registry["resnext50_32x4d_typec"] is tv.resnet18


def test_without_torchvision(tv, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, MODULE)
    with pytest.raises(ImportError, match="needs torchvision: pip install torchvision"):
        importlib.import_module(MODULE)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", PUBLISHED)
@pytest.mark.parametrize("form", FORMS)
def test_weights_of_what_was_published(tv, architecture, form):
    enum = tv.get_model_weights(f"{architecture}_type{form}")
    assert enum.__name__ == f"ResNeXt{architecture[7:].upper()}_Type{form}_Weights"
    weights = tv.get_weight(f"{enum.__name__}.IMAGENET1K_V1")
    assert weights is enum.DEFAULT is enum.verify("DEFAULT")
    assert weights.meta["num_params"] == {"50_32": 25028904, "101_3": 44177704, "101_6": 83455272}[architecture[7:12]]
    assert weights.url.endswith(".t7")
    assert weights.meta["license"] == "CC BY-NC 4.0"
    assert len(weights.meta["categories"]) == 1000
    accuracy, operations, size = {"50_32": (77.8, 4.23, 191), "101_3": (78.8, 7.97, 338), "101_6": (79.6, 15.46, 638)}[
        architecture[7:12]
    ]
    assert weights.meta["_metrics"] == {"ImageNet-1K": {"acc@1": accuracy, "acc@5": None}}
    assert (weights.meta["_ops"], weights.meta["_file_size"]) == (operations, size)
    for reason in ("README of facebookresearch/ResNeXt", "acc@5 is None: it reports no top-5", "Torch7 file"):
        assert reason in weights.meta["_docs"]
    assert copy.deepcopy(weights) is pickle.loads(pickle.dumps(weights)) is weights


def test_figures_have_torchvisions_units(tv):
    """As in the entry for its own network of that shape."""
    theirs, ours = tv.ResNeXt50_32X4D_Weights.DEFAULT.meta, tv.ResNeXt50_32X4D_TypeC_Weights.DEFAULT.meta
    assert ours["_ops"] == theirs["_ops"]
    assert ours["_metrics"].keys() == theirs["_metrics"].keys()
    assert ours["_metrics"]["ImageNet-1K"].keys() == theirs["_metrics"]["ImageNet-1K"].keys()
    assert set(theirs) <= set(ours)


def test_size_of_what_is_hosted(tv, hosted, published):
    meta = tv.get_model_weights(f"{NAME}_typeC").DEFAULT.meta
    assert meta["_file_size"] == round(hosted["size"] / 2**20, 3)
    assert "Torch7 file" not in meta["_docs"]


def test_categories_are_the_names_of_the_classes(tv):
    assert tuple(tv.ResNeXt50_32X4D_TypeC_Weights.DEFAULT.meta["categories"]) == class_names("imagenet")


def test_transforms_are_the_authors_preprocessing(tv):
    image = torch.randint(256, (3, 240, 300), dtype=torch.uint8)
    weights = tv.ResNeXt50_32X4D_TypeC_Weights.DEFAULT
    expected = get_preprocess("imagenet")(image)
    assert torch.equal(weights.transforms()(image), expected)
    assert torch.equal(weights.transforms(antialias=True)(image), expected)  # as the training script calls it


def test_nothing_was_published(tv):
    assert list(tv.get_model_weights("resnext50_1x64d_typeC")) == []
    with pytest.raises(resnext.WeightsError, match="no weights were published for resnext50_1x64d; pretrained=True"):
        tv.get_model("resnext50_1x64d_typeC", weights="DEFAULT")


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_loaded_in_every_form(tv, published, site, form):
    enum = tv.get_model_weights(f"{NAME}_type{form}")
    model = tv.get_model(f"{NAME}_type{form}", weights=enum.DEFAULT, progress=False)
    assert model.form == form
    assert_right(model)
    again = tv.get_model(f"{NAME}_type{form}")
    again.load_state_dict(enum.DEFAULT.get_state_dict(progress=False, check_hash=True), strict=True)
    assert_right(again)
    assert len(site.asked) == 1  # what was downloaded is in the cache


def test_frozen_batch_norms_take_the_weights(tv, published):
    from torchvision.ops import FrozenBatchNorm2d

    model = tv.get_model(f"{NAME}_typeC", weights="DEFAULT", norm_layer=FrozenBatchNorm2d, progress=False)
    assert type(model.bn1) is FrozenBatchNorm2d
    assert_right(model)


def test_weights_and_another_number_of_classes(tv, published):
    with pytest.raises(
        ValueError, match=r"weights=DEFAULT and num_classes=5 cannot be combined.* 1000 .* reset_classifier\(5\)"
    ):
        tv.get_model(f"{NAME}_typeC", weights="DEFAULT", num_classes=5)
    assert tv.get_model(f"{NAME}_typeC", weights="DEFAULT", num_classes=0, progress=False).num_classes == 0


def test_weights_of_another_network(tv):
    with pytest.raises(TypeError, match="expected ResNeXt50_32X4D_TypeC_Weights but received ResNet50_Weights"):
        tv.get_model("resnext50_32x4d_typeC", weights=tv.ResNet50_Weights.DEFAULT)


# --- helpers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [f"{SMALL}_typec", f"{SMALL}_typeA"])
def test_fpn_backbone_helper(tv, small, spelling):
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    backbone = resnet_fpn_backbone(backbone_name=spelling, weights=None, trainable_layers=2)
    maps = backbone(torch.zeros(1, 3, 64, 64))
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        "0": (256, 16, 16), "1": (256, 8, 8), "2": (256, 4, 4), "3": (256, 2, 2), "pool": (256, 1, 1),
    }  # fmt: skip
    assert type(backbone.body.bn1) is FrozenBatchNorm2d
    trained = {name.split(".")[0] for name, value in backbone.body.named_parameters() if value.requires_grad}
    assert trained == {"layer3", "layer4"}


def test_fpn_of_a_network_for_cifar():
    """Its stages have other channels than the helper counts back to, so they are given."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    body = Architecture((1, 1, 1), 2, 4, stem="cifar").build()
    layers = {"layer1": "0", "layer2": "1", "layer3": "2"}
    maps = BackboneWithFPN(body, layers, body.feature_info.channels()[1:], 256)(torch.zeros(1, 3, 32, 32))
    assert [value.shape[-1] for value in maps.values()] == [32, 16, 8, 4]


@pytest.mark.parametrize("form", FORMS)
def test_feature_extractors(tv, small, form):
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.feature_extraction import create_feature_extractor

    model = randomize(tv.get_model(f"{SMALL}_type{form}", num_classes=5)).eval()
    x = torch.randn(2, 3, 64, 64)
    body = resnext.create(f"{SMALL}_type{form}", features_only=True).eval()
    body.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("fc.")})
    with torch.no_grad():
        expected = body(x)
        got = IntermediateLayerGetter(model, {"layer1": "a", "layer4": "b"})(x)
        assert torch.equal(got["a"], expected[1])
        assert torch.equal(got["b"], expected[4])
        got = create_feature_extractor(model, ["layer2", "flatten"])(x)
        assert torch.equal(got["layer2"], expected[2])
        assert relative_error(got["flatten"], expected[4].mean((2, 3))) <= 1e-6


def test_what_the_training_script_does(tv, small):
    """A step of torchvision's references/classification/train.py, with its options for batch norms and averaging."""
    from torch.optim.swa_utils import AveragedModel
    from torchvision.ops._utils import split_normalization_params

    model = tv.get_model(f"{SMALL}_typeC", weights=None, num_classes=4)
    norms, others = split_normalization_params(model)
    assert len(norms) + len(others) == len(list(model.parameters()))
    optimizer = torch.optim.SGD([{"params": norms, "weight_decay": 0.0}, {"params": others}], lr=0.1)
    average = AveragedModel(model, use_buffers=True)
    cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4), label_smoothing=0.1).backward()
    optimizer.step()
    average.update_parameters(model)
    assert torch.equal(average.module.fc.weight, model.fc.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "DEFAULT", "pretrained": True}, "weights=DEFAULT and pretrained=True cannot be combined"),
        (
            {"weights": "DEFAULT", "zero_init_residual": True},
            "weights=DEFAULT and zero_init_residual=True cannot be combined",
        ),
        ({"weights": "x.pth"}, "unknown weights 'x.pth'; expected one of IMAGENET1K_V1, DEFAULT"),
    ],
)
def test_refusals_name_what_was_given(tv, options, message):
    with pytest.raises(ValueError, match=message):
        tv.get_model("resnext50_32x4d_typeC", **options)
