"""timm takes the networks as its own: its registry, its factory and what its scripts do, from the real package."""

import copy
import importlib
import sys
import warnings

import pytest
import torch

import resnext
from resnext import zoo
from resnext.architecture import Architecture
from tests.helpers.networks import TINY, randomize, relative_error
from tests.helpers.pretrained import NAME, assert_right

MODULE = "resnext.integrations.timm"
SMALL = "resnext17_2x4d"  # four stages of one bottleneck, but for the second, which has two
CIFAR = f"{NAME}_typec"
PUBLISHED = [f"resnext{size}_type{form}" for size in ("50_32x4d", "101_32x4d", "101_64x4d") for form in "abc"]


@pytest.fixture(scope="module")
def timm(torchvision):
    """timm imports torchvision, so that comes first."""
    for module in (MODULE, "timm.optim", "timm.loss", "timm.utils"):
        importlib.import_module(module)
    return importlib.import_module("timm")


@pytest.fixture
def small(timm, monkeypatch):
    """A network without weights for ImageNet's images, in form C."""
    monkeypatch.setitem(zoo.ARCHITECTURES, SMALL, Architecture((1, 2, 1, 1), 2, 4))
    for form in "ABC":
        sys.modules[MODULE].register(f"{SMALL}_type{form}")
    return f"{SMALL}_typec"


@pytest.fixture
def published(timm, hosted, home):
    """A small network with published weights, as the large ones have them."""
    for form in "ABC":
        sys.modules[MODULE].register(f"{NAME}_type{form}")


@pytest.fixture
def cifar(timm, monkeypatch):
    """A small network without weights for CIFAR's images."""
    monkeypatch.setitem(zoo.ARCHITECTURES, NAME, TINY)
    sys.modules[MODULE].register(f"{NAME}_typeC")
    return CIFAR


# --- the registry ----------------------------------------------------------------------------------------------------


def test_every_network_is_registered(timm):
    listed = timm.list_models("resnext*_type?")
    for name in resnext.list_models():
        assert timm.is_model(name.lower())
        assert name.lower() in listed
        assert name in timm.model_entrypoint(name.lower()).__doc__
        assert name.lower() in sys.modules[MODULE].__all__


def test_what_was_published_is_listed_as_pretrained(timm):
    listed = timm.list_models("resnext*type*", pretrained=True)
    assert [name for name in listed if not name.startswith(NAME)] == PUBLISHED
    for name in resnext.list_models():
        assert timm.models.is_model_pretrained(name.lower()) == (name.lower() in PUBLISHED)


def test_configuration(timm):
    cfg = timm.get_pretrained_cfg("resnext101_64x4d_typeb")
    assert isinstance(cfg, timm.models.PretrainedCfg)
    assert (cfg.architecture, cfg.first_conv, cfg.classifier) == ("resnext101_64x4d_typeb", "conv1", "fc")
    assert (cfg.num_classes, cfg.input_size, cfg.pool_size) == (1000, (3, 224, 224), (7, 7))
    assert cfg.url.endswith("resnext_101_64x4d.t7")
    assert cfg.license == "cc-by-nc-4.0"
    assert cfg.notes == ("top-1 error 20.4 %: README of facebookresearch/ResNeXt",)
    with torch.device("meta"):
        model = timm.create_model("resnext50_32x4d_typec")
    assert model.pretrained_cfg is model.default_cfg
    assert timm.data.resolve_model_data_config(model) == {
        "input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
        "mean": timm.data.IMAGENET_DEFAULT_MEAN, "std": timm.data.IMAGENET_DEFAULT_STD,
    }  # fmt: skip
    assert timm.get_pretrained_cfg("resnext50_1x64d_typec").url is None
    assert timm.get_pretrained_cfg("resnext29_8x64d_typec").input_size == (3, 32, 32)


def test_means_of_cifar_are_on_timms_scale(timm):
    cfg = timm.get_pretrained_cfg("resnext29_8x64d_typec")
    assert [value * 255 for value in cfg.mean] == pytest.approx([125.3, 123.0, 113.9])
    assert [value * 255 for value in cfg.std] == pytest.approx([63.0, 62.1, 66.7])


def test_registering_again_replaces_our_own(timm):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = importlib.reload(sys.modules[MODULE])
    assert timm.model_entrypoint("resnext50_32x4d_typec") is module.resnext50_32x4d_typec
    assert timm.list_models("resnext50_32x4d_type?") == PUBLISHED[:3]


def test_nothing_else_is_replaced(timm, monkeypatch):
    entry = timm.model_entrypoint("resnext50_32x4d_typec")
    monkeypatch.setattr(entry, "__module__", "another.module")
    with pytest.raises(RuntimeError, match="another network called resnext50_32x4d_typec, of another"):
        sys.modules[MODULE].register("resnext50_32x4d_typeC")
    assert timm.model_entrypoint("resnext50_32x4d_typec") is entry


def test_without_timm(timm, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, MODULE)
    with pytest.raises(ImportError, match="needs timm: pip install timm"):
        importlib.import_module(MODULE)


# --- the factory's options -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
def test_create_model(timm, small):
    model = timm.create_model(
        small, num_classes=5, in_chans=1, drop_rate=0.1, drop_path_rate=0.2, global_pool="max", scriptable=True
    )
    assert isinstance(model, resnext.ResNeXt)
    assert (model.num_classes, model.in_chans, model.global_pool, model.dropout.p) == (5, 1, "max", 0.1)
    assert model.layer4[0].drop_path.rate == pytest.approx(0.2)
    assert model.num_features == model.head_hidden_size == 2048
    assert [info["num_chs"] for info in model.feature_info] == [64, 256, 512, 1024, 2048]
    x = torch.randn(2, 1, 64, 64)
    logits = model.eval()(x)
    assert logits.shape == (2, 5)
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), logits)
    assert torch.equal(model.get_classifier()(model.forward_head(features, pre_logits=True)), logits)
    assert torch.equal(torch.jit.script(model)(x), logits)
    assert torch.equal(copy.deepcopy(model)(x), logits)
    model.reset_classifier(0, "")
    assert model.num_classes == 0
    assert torch.equal(model(x), features)


def test_forms(timm, small):
    for form in "ABC":
        assert timm.create_model(f"{SMALL}_type{form.lower()}").form == form


def test_device_and_dtype(timm, small):
    model = timm.create_model(small, device="meta", dtype=torch.bfloat16)
    assert {(value.device.type, value.dtype) for value in model.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(
    ("stride", "reduction"), [(32, [2, 4, 8, 16, 32]), (16, [2, 4, 8, 16, 16]), (8, [2, 4, 8, 8, 8])]
)
def test_output_stride(timm, small, stride, reduction):
    body = timm.create_model(small, features_only=True, output_stride=stride)
    assert body.feature_info.reduction() == reduction
    assert [64 // value.shape[-1] for value in body(torch.zeros(2, 3, 64, 64))] == reduction


def test_features_only(timm, small):
    body = timm.create_model(small, features_only=True, out_indices=(1, -1), in_chans=4).eval()
    assert isinstance(body.feature_info, timm.models.FeatureInfo)
    assert body.feature_info.channels() == [256, 2048]
    assert body.feature_info.reduction() == [4, 32]
    assert [tuple(value.shape) for value in body(torch.zeros(1, 4, 64, 64))] == [(1, 256, 16, 16), (1, 2048, 2, 2)]


def test_features_of_a_network_for_cifar(timm, cifar):
    body = timm.create_model(cifar, features_only=True)
    assert body.feature_info.reduction() == [1, 1, 2, 4]
    assert [value.shape[-1] for value in body(torch.zeros(2, 3, 32, 32))] == [32, 32, 16, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "output_stride=4 for .* expected 8, 16 or 32"),
        ({"output_stride": 8, "replace_stride_with_dilation": [True] * 3}, "output_stride=8 and replace_stride_with"),
        ({"global_pool": ""}, "global_pool='' and num_classes=1000 cannot be combined"),
        ({"pretrained": True, "cache_dir": "weights"}, "cache_dir='weights' and the authors' .* set TORCH_HOME"),
    ],
)
def test_options_that_cannot_be_combined(timm, small, options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(small, **options)


def test_output_stride_is_not_for_cifar(timm, cifar):
    with pytest.raises(ValueError, match=f"output_stride=16 for {NAME}_typeC; expected .* on networks for ImageNet"):
        timm.create_model(cifar, output_stride=16)


def test_unknown_option(timm, small):
    with pytest.raises(TypeError, match="no option drop_block_rate"):
        timm.create_model(small, drop_block_rate=0.1)


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twins(timm):
    """timm's network and ours, with the same weights."""
    theirs = timm.models.ResNet(timm.models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=5, cardinality=2, base_width=4)
    ours = resnext.ResNeXt([1, 2, 1, 1], num_classes=5, cardinality=2, base_width=4)
    ours.load_state_dict(randomize(theirs).state_dict())
    return theirs.eval(), ours.eval()


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options",
    [{}, {"indices": 2}, {"indices": [1, 3]}, {"indices": (3, 1)}, {"indices": [-1, 0]}, {"indices": [2, 2]},
     {"indices": [1], "stop_early": True}, {"indices": [0], "stop_early": True}, {"intermediates_only": True},
     {"indices": 1, "norm": True, "output_fmt": "NCHW", "intermediates_only": True}],
    ids=str,
)  # fmt: skip
def test_intermediates_are_timms(twins, options):
    theirs, ours = (model.forward_intermediates(IMAGES, **options) for model in twins)
    if not options.get("intermediates_only"):
        (features, theirs), (our_features, ours) = theirs, ours
        assert torch.equal(our_features, features)
    assert len(ours) == len(theirs)
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize(
    "options",
    [{}, {"indices": 2}, {"indices": [1, 3]}, {"indices": [0]}, {"indices": [-3]}, {"indices": 1, "prune_norm": True},
     {"prune_head": False}, {"indices": [2], "prune_head": False}],
    ids=str,
)  # fmt: skip
def test_pruned_as_by_timm(twins, options):
    theirs, ours = copy.deepcopy(twins)
    assert ours.prune_intermediate_layers(**options) == theirs.prune_intermediate_layers(**options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(ours(IMAGES), theirs(IMAGES))
    for name in ("num_features", "head_hidden_size", "num_classes"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("feature_cls", ["getter", "list", "dict", "fx"])
@pytest.mark.parametrize("indices", [(1, -1), (2,), (0,), (3, 1)])
def test_feature_classes(timm, small, feature_cls, indices):
    body = timm.create_model(small, features_only=True, feature_cls=feature_cls, out_indices=indices).eval()
    torch.manual_seed(0)
    maps = body(IMAGES)
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    channels = body.feature_info.channels()
    assert [value.shape[1] for value in maps] == (channels if feature_cls == "getter" else sorted(channels))


def test_getter_gives_the_maps_of_the_network(timm, cifar):
    body = timm.create_model(cifar, features_only=True, feature_cls="getter", out_indices=(0, 2)).eval()
    whole = timm.create_model(cifar).eval()
    assert whole.load_state_dict(body.model.state_dict(), strict=False).unexpected_keys == []
    images = IMAGES[..., :32, :32]
    expected = whole.forward_intermediates(images, [0, 2], intermediates_only=True)
    assert all(map(torch.equal, body(images), expected))
    assert not any(name.startswith(("layer3", "fc")) for name in body.model.state_dict())


def test_what_transformers_calls(timm, small):
    """`TimmWrapperModel` and `TimmWrapperForImageClassification` with output_hidden_states, as True and as a list."""
    model = timm.create_model(small, num_classes=5, pretrained=False).eval()
    features, maps = model.forward_intermediates(IMAGES)
    assert torch.equal(model.forward_head(features), model(IMAGES))
    assert len(maps) == 5
    assert torch.equal(maps[-1], features)
    assert len(model.forward_intermediates(IMAGES, indices=[1, 3])[1]) == 2
    backbone = timm.create_model(small, num_classes=0, pretrained=False).eval()
    assert backbone.forward_head(backbone.forward_features(IMAGES)).shape == (2, 2048)


def test_catavgmax(timm, twins, small):
    theirs, ours = copy.deepcopy(twins)
    for model in (theirs, ours):
        model.reset_classifier(3, "catavgmax")
    ours.load_state_dict(theirs.state_dict())
    assert torch.allclose(ours(IMAGES), theirs(IMAGES), rtol=1e-5, atol=1e-6)
    for model in (theirs, ours):
        assert (model.num_features, model.head_hidden_size, model.fc.in_features) == (2048, 4096, 4096)
        features = model.forward_features(IMAGES)
        assert model.forward_head(features, pre_logits=True).shape == (2, 4096)
        model.reset_classifier(2, "avg")
        assert model.head_hidden_size == model.fc.in_features == 2048
    model = timm.create_model(small, global_pool="catavgmax", num_classes=0)
    assert model(IMAGES).shape == (2, 4096)


def test_pretrained_with_catavgmax_has_a_new_classifier(timm, published):
    with pytest.raises(ValueError, match="pretrained=True and global_pool='catavgmax' cannot be combined"):
        timm.create_model(CIFAR, pretrained=True, global_pool="catavgmax")
    model = timm.create_model(CIFAR, pretrained=True, global_pool="catavgmax", num_classes=3)
    official = timm.create_model(CIFAR, pretrained=True)
    assert model.fc.weight.shape == (3, 2 * official.num_features)
    assert torch.equal(model.conv1.weight, official.conv1.weight)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", "abc")
def test_pretrained(timm, published, site, form):
    assert_right(timm.create_model(f"{NAME}_type{form}", pretrained=True))
    assert_right(timm.create_model(f"{NAME}_type{form}", pretrained=True))
    assert len(site.asked) == 1


def test_nothing_was_published(timm, small):
    with pytest.raises(resnext.WeightsError, match=f"no weights were published for {SMALL}"):
        timm.create_model(small, pretrained=True)


def test_pretrained_with_other_classes_and_channels(timm, published):
    """The body is kept, and nothing is said, as timm has it."""
    official = timm.create_model(CIFAR, pretrained=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = timm.create_model(CIFAR, pretrained=True, num_classes=3, in_chans=1)
        headless = timm.create_model(CIFAR, pretrained=True, num_classes=0)
    assert model.fc.out_features == model.num_classes == 3
    assert torch.equal(model.conv1.weight, official.conv1.weight.sum(1, keepdim=True))
    assert torch.equal(model.layer3[0].conv3.weight, official.layer3[0].conv3.weight)
    assert isinstance(headless.fc, torch.nn.Identity)
    assert torch.equal(headless.conv1.weight, official.conv1.weight)


def test_pretrained_features(timm, published):
    x = torch.randn(1, 3, 32, 32)
    body = timm.create_model(CIFAR, pretrained=True, features_only=True).eval()
    expected = resnext.create(NAME, pretrained=True, features_only=True).eval()
    for got, value in zip(body(x), expected(x), strict=True):
        assert relative_error(got, value) <= 1e-6


def test_the_validation_script_hands_the_configuration_back(timm, record, home):
    """With the URL of the authors' file, which timm itself could not read."""
    sys.modules[MODULE].register(f"{NAME}_typeC")
    arguments = timm.models.resolve_model_input_args(CIFAR, {}, pretrained=True)
    assert arguments["pretrained_cfg"]["url"].endswith(".t7")
    assert_right(timm.create_model(**arguments))


@pytest.mark.parametrize("form", "abc")
def test_weights_of_ones_own_of_any_form(timm, cifar, pth, state_dict, form):
    """`--pretrained-path` of timm's train.py."""
    sys.modules[MODULE].register(f"{NAME}_type{form.upper()}")
    overlay = {"file": str(pth), "num_classes": -1}
    model = timm.create_model(f"{NAME}_type{form}", pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay)
    assert model.fc.out_features == 3
    expected = resnext.forms.convert_state_dict(state_dict, "C", model.form)
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, expected[name])


def test_checkpoint_path(timm, cifar, pth, state_dict):
    model = timm.create_model(cifar, checkpoint_path=pth)
    assert torch.equal(model.fc.weight, state_dict["fc.weight"])
    again = timm.create_model(cifar)
    timm.models.load_checkpoint(again, str(pth))
    assert torch.equal(again.layer1[0].bn2.running_var, state_dict["layer1.0.bn2.running_var"])


@pytest.mark.parametrize("form", "ab")
def test_initial_checkpoint_of_form_c(timm, cifar, pth, state_dict, form):
    """`--initial-checkpoint` of timm's train.py, into the other forms."""
    sys.modules[MODULE].register(f"{NAME}_type{form.upper()}")
    model = timm.create_model(f"{NAME}_type{form}", checkpoint_path=str(pth))
    expected = resnext.forms.convert_state_dict(state_dict, "C", form.upper())
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match=r"size mismatch for fc\.weight"):
        timm.create_model(f"{NAME}_type{form}", checkpoint_path=str(pth), num_classes=3)
    wrapped = torch.nn.Sequential(timm.create_model(f"{NAME}_type{form}"))  # as DataParallel does
    wrapped.load_state_dict({f"0.{name}": value for name, value in state_dict.items()})
    assert torch.equal(wrapped[0].fc.weight, state_dict["fc.weight"])


def test_initial_checkpoint_that_a_training_left(timm, cifar, state_dict, tmp_path):
    """A training of form C, whose averaged weights start one of form A."""
    sys.modules[MODULE].register(f"{NAME}_typeA")
    model = timm.create_model(cifar)
    average = timm.utils.ModelEmaV3(model)
    average.module.load_state_dict(state_dict)
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", lr=0.1)
    timm.utils.CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=tmp_path).save_checkpoint(0, 1.0)
    again = timm.create_model(f"{NAME}_typea", checkpoint_path=str(tmp_path / "last.pth.tar"))
    assert torch.equal(again.fc.weight, state_dict["fc.weight"])
    found = resnext.forms.convert_state_dict(again.state_dict(), "A", "C")
    assert torch.equal(found["layer2.0.conv2.weight"], state_dict["layer2.0.conv2.weight"])


def test_folder_that_timm_saved(timm, cifar, tmp_path):
    model = randomize(timm.create_model(cifar, num_classes=3, in_chans=1)).eval()
    timm.models.save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(again(x), model(x))


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", "abc")
def test_learning_rates_by_depth(timm, small, form):
    """One layer for the stem, one for each bottleneck, one for the classifier, whatever the form."""
    model = timm.create_model(f"{SMALL}_type{form}")
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scales = {id(value): group["lr_scale"] for group in optimizer.param_groups for value in group["params"]}
    layers = (model.conv1, model.layer1, model.layer2[0], model.layer2[1], model.layer3, model.layer4, model.fc)
    for depth, layer in enumerate(layers):
        assert {scales[id(value)] for value in layer.parameters()} == {0.5 ** (6 - depth)}
    coarse = timm.models.group_parameters(model, model.group_matcher(coarse=True))
    assert len(coarse) == 6
    assert sum(map(len, coarse.values())) == len(list(model.named_parameters()))


def test_what_the_training_script_does(timm, cifar, tmp_path):
    """A step of timm's train.py with gradient checkpointing and averaging, its checkpoint, and resuming from it."""
    model = timm.create_model(
        cifar, pretrained=False, in_chans=3, num_classes=None, drop_rate=0.0, drop_path_rate=None, drop_block_rate=None,
        global_pool=None, bn_momentum=None, bn_eps=None, scriptable=False, checkpoint_path="",
    )  # fmt: skip
    model.set_grad_checkpointing(enable=True)
    optimizer = timm.optim.create_optimizer_v2(model, "momentum", lr=0.1, weight_decay=1e-4)
    average = timm.utils.ModelEmaV3(model, decay=0.9)
    loss = timm.loss.LabelSmoothingCrossEntropy()(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    optimizer.step()
    average.update(model)
    saver = timm.utils.CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=tmp_path)
    saver.save_checkpoint(0, metric=1.0)
    again = timm.create_model(cifar)
    timm.models.resume_checkpoint(again, str(tmp_path / "last.pth.tar"), optimizer=optimizer)
    assert torch.equal(again.fc.weight, model.fc.weight)


def test_pooling_at_a_larger_size(timm, small):
    """`--test-pool` of timm's validate.py."""
    model = timm.create_model(small, num_classes=5).eval()
    pooled, done = timm.layers.apply_test_time_pool(model, {"input_size": (3, 288, 288)})
    assert done
    assert pooled(torch.zeros(1, 3, 288, 288)).shape == (1, 5)


def test_options_have_timms_names(timm):
    with pytest.raises(TypeError, match="timm's name for in_channels is in_chans"):
        timm.create_model("resnext29_8x64d_typec", in_channels=1)
