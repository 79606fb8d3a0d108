"""Files of training scripts and of other ports, from the file to the logits of the network."""

import argparse
import collections
import os
import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import resnext
from resnext.architecture import Architecture
from resnext.weights.files import WeightsError
from resnext.weights.layouts import LAYOUTS, write_layout

SMALL = Architecture((1, 2, 1, 1), cardinality=4, base_width=8, num_classes=5)
CIFAR = Architecture((1, 1, 1, 1), cardinality=2, base_width=8, stem="cifar", num_classes=10)


def make(architecture=SMALL, seed=0):
    """A network whose statistics are not those of a new one."""
    torch.manual_seed(seed)
    model = architecture.build().eval()
    for name, buffer in model.named_buffers():
        if buffer.dim():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else 0.0))
    return model


def logits(model, size=64):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(images)


def assert_loads(path, expected, *remarks, exact=True, **options):
    """The file gives the logits of `expected`, and one warning with these remarks, or none without."""
    with pytest.warns() if remarks else _no_warning() as caught:
        model = resnext.from_checkpoint(path, **options)
    if remarks:
        assert len(caught) == 1
        assert caught[0].filename == __file__
        for remark in remarks:
            assert remark in str(caught[0].message)
    if exact:
        assert torch.equal(logits(model), logits(expected))
    else:
        torch.testing.assert_close(logits(model), logits(expected), rtol=1e-4, atol=1e-5)
    return model


class _no_warning(pytest.WarningsRecorder):  # noqa: N801 - reads as a function
    def __init__(self):
        super().__init__(_ispytest=True)

    def __exit__(self, *error):
        super().__exit__(*error)
        assert not self.list


# --- training checkpoints, written by the packages' own code ----------------------------------------------------------


@pytest.fixture
def timm(torchvision):
    return pytest.importorskip("timm")


@pytest.fixture
def average():
    """As ExponentialMovingAverage in the training script of torchvision."""
    model = make(seed=2)
    averaged = AveragedModel(model, avg_fn=lambda mean, value, count: 0.9 * mean + 0.1 * value, use_buffers=True)
    averaged.update_parameters(make(seed=3))
    averaged.update_parameters(make(seed=4))
    return averaged


def test_timms_checkpoints(timm, tmp_path):
    from timm.utils import CheckpointSaver, ModelEmaV3

    model, options = make(), argparse.Namespace(model="resnext50_32x4d", lr=0.1, amp=False, mean=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    ema = ModelEmaV3(make(seed=1), decay=0.5)
    ema.update(model)
    folder = str(tmp_path)
    saver = CheckpointSaver(model, optimizer, options, ema, checkpoint_dir=folder, recovery_dir=folder)
    saver.save_checkpoint(0, metric=51.5)
    for name in ("last.pth.tar", "model_best.pth.tar"):
        path = tmp_path / name
        assert_loads(path, ema.module, "took the moving average of the weights, ['state_dict_ema']; ema=False takes")
        assert_loads(path, ema.module, "took ['state_dict_ema']", ema=True)
        assert_loads(path, model, "took ['state_dict']", ema=False)


def test_torchvisions_checkpoints(average, tmp_path):
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
            "epoch": 3,
            "args": argparse.Namespace(model="resnext50_32x4d", lr=0.1, data_path="data", norm_weight_decay=None),
            "model_ema": average.state_dict(),
        },
        tmp_path / "model_3.pth",
    )
    path = tmp_path / "model_3.pth"
    assert_loads(path, average.module, "moving average", "['model_ema']", "removed the prefix module.")
    assert_loads(path, model, "took ['model']", ema=False)


def test_lightnings_checkpoints(tmp_path):
    """The keys that its documentation names; a LightningModule holds the network as an attribute."""
    model = make()
    torch.save(
        {
            "epoch": 1,
            "global_step": 10,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": {f"net.{name}": value for name, value in model.state_dict().items()},
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [torch.optim.SGD(model.parameters(), lr=0.1).state_dict()],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {"lr": 0.1},
        },
        tmp_path / "last.ckpt",
    )
    assert_loads(tmp_path / "last.ckpt", model, "took ['state_dict']; removed the prefix net.")


def test_lightnings_averaged_checkpoints(average, tmp_path):
    """Its WeightAveraging puts the average in the place of the weights."""
    model = make()
    state = {f"net.{name.removeprefix('module.')}": value for name, value in average.state_dict().items()}
    state.pop("net.n_averaged")
    current = {f"net.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "current_model_state": current}, tmp_path / "last.ckpt")
    assert_loads(tmp_path / "last.ckpt", average.module, "took the moving average of the weights, ['state_dict']")
    assert_loads(tmp_path / "last.ckpt", model, "took ['current_model_state']", ema=False)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (torch.compile, "_orig_mod."),
        (nn.DataParallel, "module."),
        (lambda model: torch.compile(nn.DataParallel(model)), "_orig_mod."),
    ],
)
def test_wrappers(wrap, prefix, tmp_path):
    model = make()
    torch.save({"net": wrap(model).state_dict(), "acc": 91.2, "epoch": 7}, tmp_path / "ckpt.pth")
    assert_loads(tmp_path / "ckpt.pth", model, "took ['net']", f"removed the prefix {prefix}")


def test_options_are_allowed_by_name_and_nothing_else_is(tmp_path):
    content = {"model": make().state_dict(), "args": argparse.Namespace(inner=collections.Counter())}
    content["args"].inner = os.getcwd  # a function, which a pickle names
    torch.save(content, tmp_path / "args.pth")
    with pytest.raises(WeightsError, match="getcwd, and loading that could run code"):
        resnext.from_checkpoint(tmp_path / "args.pth")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_file_as_pytorch_of_2017_wrote_it(tmp_path):
    """The old format of files, names in bytes as Python 2 has them, no counters of batches."""
    model = make()
    state = {
        name.encode(): value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_loads(tmp_path / "old.pth", model)


# --- other ports ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ports_that_are_written_too(layout, suffix, tmp_path):
    model = make()
    state = write_layout(model.state_dict(), layout)
    if suffix == "pth":
        torch.save(state, tmp_path / "port.pth")
    else:  # in the order of the names
        pytest.importorskip("safetensors.torch").save_file(state, tmp_path / "port.safetensors")
    remarks = () if layout in ("torchvision", "timm") else (f"recognised by {LAYOUTS[layout].title}",)
    if layout == "detectron2":
        remarks += ("BGR",)
    assert_loads(tmp_path / f"port.{suffix}", model, *remarks)


def test_a_backbone_has_no_classifier(tmp_path):
    model = make()
    body = {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    detector = {f"backbone.bottom_up.{name}": value for name, value in write_layout(body, "detectron2").items()}
    detector["proposal_generator.anchors.weight"] = torch.zeros(8, 8, 1, 1)
    torch.save({"model": detector, "iteration": 9}, tmp_path / "model_final.pth")
    model.reset_classifier(0)
    loaded = assert_loads(
        tmp_path / "model_final.pth", model, "left out 1 entries", "proposal_generator", "BGR", "no classifier"
    )
    assert loaded.num_classes == 0
    with pytest.warns(UserWarning, match=r"has no classes, 7 were asked for: .* is new"):
        assert resnext.from_checkpoint(tmp_path / "model_final.pth", num_classes=7).fc.weight.shape == (7, 2048)


def test_cifars_port_with_grouped_reductions(tmp_path):
    """weiaicunzai/pytorch-cifar100: CIFAR's stem, four stages, the first 1x1 grouped."""
    model = make(CIFAR)
    names = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4", "conv3": "6", "bn3": "7"}
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            dense = block.conv1
            block.conv1 = nn.Conv2d(dense.in_channels, dense.out_channels, 1, groups=2, bias=False)
    theirs = {}
    for name, value in model.state_dict().items():
        match = re.fullmatch(r"layer(\d)\.(\d+)\.(\w+)\.(.*)", name)
        if match is None:
            theirs[re.sub(r"^(conv|bn)1", lambda m: f"conv1.{'cb'.index(m[0][0])}", name)] = value
        elif match[3] == "downsample":
            theirs[f"conv{int(match[1]) + 1}.{match[2]}.shortcut.{match[4]}"] = value
        else:
            theirs[f"conv{int(match[1]) + 1}.{match[2]}.split_transforms.{names[match[3]]}.{match[4]}"] = value
    torch.save(theirs, tmp_path / "port.pth")
    loaded = assert_loads(tmp_path / "port.pth", model, "weiaicunzai/pytorch-cifar100", exact=False)
    assert loaded.layer4[0].conv1.groups == 1
    assert [info["reduction"] for info in loaded.feature_info] == [1, 1, 2, 4, 8]


def keras(model):
    """The arrays of keras-applications' port: channels last, grouped convolutions as depthwise ones."""
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for name, tensor in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        value = tensor.numpy()
        match = re.fullmatch(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))", module)
        if match:
            kind = match[3] or ("conv", "bn")[int(match[5])]
            layer = f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}_{match[4] or 0}_{kind}"
        else:
            layer = {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "probs"}[module]
        if leaf == "num_batches_tracked":
            continue
        if module == "fc":
            leaf, value = {"weight": "kernel", "bias": "bias"}[leaf], value.T
        elif value.ndim == 4 and value.shape[2] == 3:
            outputs, width = value.shape[:2]
            grouped = value.reshape(outputs // width, width, width, 3, 3).transpose(3, 4, 0, 2, 1)
            leaf, value = "depthwise_kernel", grouped.reshape(3, 3, outputs, width)
        elif value.ndim == 4:
            leaf, value = "kernel", value.transpose(2, 3, 1, 0)
        else:
            leaf = leaves[leaf]
        yield f"{layer}/{layer}/{leaf}:0", np.ascontiguousarray(value)


@pytest.mark.parametrize("whole", [False, True])
def test_keras_files(whole, tmp_path):
    """Weights only, and a model with its optimizer."""
    h5py = pytest.importorskip("h5py")
    model = make()
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        root = file.create_group("model_weights") if whole else file
        for name, value in keras(model):
            root[name] = value
        root.attrs["layer_names"] = list(dict.fromkeys(name.partition("/")[0].encode() for name, _ in keras(model)))
        if whole:
            file["optimizer_weights/adam/iteration:0"] = np.int64(7)
    assert_loads(tmp_path / "weights.h5", model, "the names of keras-applications", "eps of 1.001e-5")


def test_numpy_archives(tmp_path):
    model = make()
    np.savez(tmp_path / "weights.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
    assert_loads(tmp_path / "weights.npz", model)
    np.savez_compressed(tmp_path / "keras.npz", **dict(keras(model)))
    assert_loads(tmp_path / "keras.npz", model, "the names of keras-applications")


# --- what is refused --------------------------------------------------------------------------------------------------


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("pickler", ["pdparams", "npz"])
def test_pickles_of_arrays_are_never_read(pickler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights.{pickler}"
    if pickler == "npz":
        np.savez(path, names=np.array(["a"], object), values=np.array([Trap()], object))
    else:
        path.write_bytes(pickle.dumps({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32), "trap": Trap()}, 2))
    with pytest.raises(WeightsError, match=r"could run code from the file.*numpy\.savez\('weights\.npz'"):
        resnext.from_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_hdf5_that_is_no_file_of_weights(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(WeightsError, match="expected a whole HDF5 file, but"):
        resnext.from_checkpoint(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        (tmp_path / "other").write_bytes(bytes(400))
        file.create_dataset("kernel:0", (100,), "f4", external=[(str(tmp_path / "other"), 0, 400)])
    with pytest.raises(WeightsError, match="got references to other files"):
        resnext.from_checkpoint(tmp_path / "elsewhere.h5")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("kernel:0", (2**30,), "f4", chunks=True, compression="gzip")
    with pytest.raises(WeightsError, match="expected the values of every tensor, got"):
        resnext.from_checkpoint(tmp_path / "bomb.h5")
    with h5py.File(tmp_path / "words.h5", "w") as file:
        file["words"] = "text"
    with pytest.raises(WeightsError, match="expected arrays of real numbers, got"):
        resnext.from_checkpoint(tmp_path / "words.h5")


def test_a_torch7_file_has_no_average(sample):
    with pytest.raises(WeightsError, match="ema=True, but a Torch7 file has no moving average"):
        resnext.from_checkpoint(sample, ema=True)


def test_ema_without_a_file():
    with pytest.raises(ValueError, match="no weights= and ema=True cannot be combined"):
        resnext.create("resnext50_32x4d", ema=True)
    with pytest.raises(TypeError, match="ema 'yes' is of type str; expected True or False"):
        resnext.from_checkpoint("x.pth", ema="yes")


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("seresnext50_32x4d", "squeeze-and-excitation modules"),
        ("resnext50d_32x4d", "deep stem"),
        ("resnet18", "basic blocks"),
        ("res2next50", "several 3x3 convolutions, as in Res2Net"),
        ("vgg16_bn", "basic blocks"),
        ("vgg16", "no batch norms"),
        ("resnetv2_50", "pre-activation"),
        ("regnetx_002", "not of the sizes that a ResNeXt has"),
    ],
)
def test_other_networks_are_named_by_what_they_have(timm, name, mark, tmp_path):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    with pytest.raises(ValueError, match=mark) as caught:
        resnext.weights.layouts.read_layout(state)
    message = str(caught.value)
    assert "\n" not in message
    assert " more" in message or "not those of a known layout" in message
    assert "save its weights under torchvision's names" in message


def test_a_shortcut_with_pooling_is_another_network():
    state = {
        name.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1."): value
        for name, value in make().state_dict().items()
    }
    with pytest.raises(ValueError, match="average pooling, as in ResNet-D"):
        resnext.weights.layouts.read_layout(state)
