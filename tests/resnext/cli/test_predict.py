"""`python -m resnext predict`, from images to names."""

import fcntl
import io
import json
import os
import pty
import struct
import sys
import termios

import pytest
import torch
from PIL import Image

import resnext
from resnext.__main__ import main
from resnext.classes import class_names, wordnet_ids
from resnext.cli import predict
from tests.conftest import ROOT
from tests.resnext.cli.prediction import SIZES, make_photos, make_weights, refused, run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def expected(weights, path, top):
    """The contract's predictions, of one image by itself."""
    model = resnext.from_checkpoint(weights).eval()
    with torch.no_grad(), Image.open(path) as image:
        probabilities = model(model.preprocess(image)[None]).softmax(1)[0]
    return [(index, probabilities[index].item()) for index in probabilities.argsort(descending=True)[:top].tolist()]


@pytest.mark.parametrize("data_set", ["cifar10", "imagenet"])
def test_json(capsys, photos, weights, data_set):
    out, error = run(capsys, photos, "--weights", weights[data_set], "--json", "--top", 3)
    assert error == ""
    document = json.loads(out)
    assert [entry["image"] for entry in document] == [str(photos / f"{number}.png") for number in range(len(SIZES))]
    for entry in document:
        assert set(entry) == {"image", "predictions"}
        assert [(best["class"], best["probability"]) for best in entry["predictions"]] == [
            (index, pytest.approx(probability, abs=1e-5))
            for index, probability in expected(weights[data_set], entry["image"], 3)
        ]
        for best in entry["predictions"]:
            assert set(best) == {"class", "wordnet_id", "name", "probability"}
            assert best["name"] == class_names(data_set)[best["class"]]
            assert best["wordnet_id"] == (wordnet_ids()[best["class"]] if data_set == "imagenet" else None)


def test_text(capsys, photos, weights):
    path = photos / "1.png"
    out, _ = run(capsys, path, "--weights", weights["imagenet"])
    first, *lines = out.splitlines()
    assert first == str(path)
    assert [line.split(maxsplit=3) for line in lines] == [
        [f"{probability * 100:.2f}", "%", wordnet_ids()[index], class_names("imagenet")[index]]
        for index, probability in expected(weights["imagenet"], path, 5)
    ]


def test_a_network_of_other_classes(capsys, photos, weights):
    options = (photos / "1.png", "--weights", weights["three"])
    for top in ((), ("--top", 3)):  # by default all, where there are fewer than five
        out, _ = run(capsys, *options, *top)
        assert sorted(line.partition("%  ")[2] for line in out.splitlines()[1:]) == ["class 0", "class 1", "class 2"]
    assert "argument --top: expected at most the network's 3 classes, got 5" in refused(capsys, *options, "--top", 5)


def test_grey_and_transparent_images_and_what_is_named_as_url(capsys, photos, weights, site):
    colour = Image.open(photos / "1.png")
    colour.convert("L").save(photos / "grey.png")
    colour.convert("RGBA").save(photos / "alpha.png")
    site.files["1.png"] = (photos / "1.png").read_bytes()
    names = [photos / "grey.png", photos / "alpha.png", (photos / "1.png").as_uri(), f"{site.url}/1.png"]
    out, _ = run(capsys, *names, "--weights", weights["cifar10"], "--json")
    grey, *others = json.loads(out)
    assert [best["class"] for best in grey["predictions"]] == [
        index for index, _ in expected(weights["cifar10"], photos / "grey.png", 5)
    ]
    assert [entry["image"] for entry in others] == list(map(str, names[1:]))
    assert others[0]["predictions"] == others[1]["predictions"] == others[2]["predictions"]


def test_images_of_one_size_go_through_together(monkeypatch, weights):
    model = resnext.from_checkpoint(weights["cifar10"]).eval()
    images = [(str(number), torch.rand(3, height, width)) for number, (width, height) in enumerate(SIZES * 2)]
    sizes, forward = [], model.forward_features
    monkeypatch.setattr(model, "forward_features", lambda x: sizes.append(tuple(x.shape)) or forward(x))
    monkeypatch.setattr(predict, "_PIXELS_AT_ONCE", 3 * 32 * 32)
    results = list(predict._results(model, iter([*images, *images[1:3] * 2]), 5))
    assert [(n, h, w) for n, _, h, w in sizes] == [
        (1, 33, 40), (2, 32, 32), (1, 48, 64), (1, 33, 40), (2, 32, 32), (1, 48, 64), (3, 32, 32), (1, 32, 32)
    ]  # fmt: skip
    assert [result.source for result in results] == [*"01234567", *"1212"]
    for result, (_, image) in zip(results, images, strict=False):
        assert torch.equal(result.image, image)
        assert result.map.shape == (-(-image.shape[1] // 4), -(-image.shape[2] // 4))
        with torch.no_grad():
            logits = model(image[None])[0]
        assert result.classes == logits.topk(5).indices.tolist()
        bias = model.fc.bias[result.classes[0]]
        assert torch.allclose(result.map.mean() + bias, logits.max(), rtol=1e-4)


@pytest.mark.filterwarnings("error")  # of letters that the font lacks
def test_any_file_name(capsys, photos, weights, monkeypatch):
    data = (photos / "1.png").read_bytes()
    names = [r"$\no$ {y}.png", "数字.png", "a\nb.png", os.fsdecode(b"\xff.png")]
    for name in names:
        (photos / name).write_bytes(data)
    paths, options = [photos / name for name in names], ("--weights", weights["cifar10"])
    out, error = run(capsys, *paths, *options, "--json", "--plot", photos / "plot.png")
    assert [entry["image"] for entry in json.loads(out)] == list(map(str, paths))
    assert error == ""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["predict", *map(str, [*paths, *options])]) == 0
    assert b"\\u6570\\u5b57.png" in stdout.buffer.getvalue()
    assert b"\\udcff.png" in stdout.buffer.getvalue()


def test_top(capsys, photos, weights):
    options = (photos / "1.png", "--weights", weights["cifar10"], "--top")
    assert "expected at most the network's 10 classes, got 11" in refused(capsys, *options, 11)
    for wrong in (0, -1, "five", 1.5):
        assert f"argument --top: expected a number from 1 up, got {wrong}" in refused(capsys, *options, wrong)
    out, _ = run(capsys, *options, 10)
    assert len(out.splitlines()) == 11


def test_other_refusals(capsys, photos, weights, tmp_path, monkeypatch):
    assert "unknown architecture 'resnet'" in refused(capsys, photos, "--arch", "resnet")
    assert f"{tmp_path / 'no.pth'}: cannot be read" in refused(capsys, photos, "--weights", tmp_path / "no.pth")
    assert "the network takes images of 1 channels; expected 3" in refused(capsys, photos, "--weights", weights["grey"])
    state_dict = torch.load(weights["cifar10"])
    state_dict["fc.weight"].fill_(3e38)  # the sums overflow
    torch.save(state_dict, tmp_path / "huge.pth")
    error = refused(capsys, photos, "--weights", tmp_path / "huge.pth")
    assert f"no finite logits for {photos / '0.png'}" in error
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "predict needs pillow: pip install pillow" in refused(capsys, photos, "--weights", weights["cifar10"])


def test_progress_bar_on_a_terminal_and_json_beside_it(photos, weights, tmp_path):
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.dup2(os.open(tmp_path / "out.json", os.O_WRONLY | os.O_CREAT), 1)
        command = [sys.executable, "-m", "resnext", "predict", str(photos), "--weights", str(weights["cifar10"])]
        os.execv(sys.executable, [*command, "--json"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    assert os.waitpid(child, 0)[1] == 0
    assert b"4/4" in shown
    assert len(json.loads((tmp_path / "out.json").read_text())) == 4
