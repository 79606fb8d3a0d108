"""`python -m resnext predict`, from the command line to the plot."""

import fcntl
import io
import json
import os
import pty
import struct
import sys
import termios

import numpy as np
import pytest
import torch
from PIL import Image

import resnext
from resnext import plot, predict
from resnext.__main__ import main
from resnext.architecture import Architecture
from resnext.classes import class_names, wordnet_ids
from tests.conftest import FIXTURES, ROOT, randomize

SIZES = ((40, 33), (32, 32), (32, 32), (64, 48))  # width, height
IMAGENET = Architecture((1, 1, 1, 1), cardinality=2, base_width=4)


def save(architecture, path):
    torch.manual_seed(0)
    model = randomize(architecture.build())
    with torch.no_grad():
        model.fc.weight.mul_(3)  # so that probabilities differ between images
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Networks for CIFAR-10, for ImageNet, and for nobody's three classes."""
    folder = tmp_path_factory.mktemp("weights")
    cifar = Architecture((1, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)
    return {
        "cifar10": save(cifar, folder / "cifar10.pth"),
        "imagenet": save(IMAGENET, folder / "imagenet.pth"),
        "three": save(Architecture((1, 1, 1), 4, 8, stem="cifar", num_classes=3), folder / "three.pth"),
        "grey": save(Architecture((1, 1, 1), 4, 8, stem="cifar", in_channels=1), folder / "grey.pth"),
    }


@pytest.fixture
def photos(tmp_path):
    """A folder with images of several sizes; neighbours that are alike go through the network together."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        channels = [Image.effect_noise(size, 30 + 40 * number) for _ in "RGB"]
        Image.merge("RGB", channels).save(folder / f"{number}.png")
    return folder


def expected(weights, path, top):
    """The contract's predictions, of one image by itself."""
    model = resnext.from_checkpoint(weights).eval()
    with torch.no_grad(), Image.open(path) as image:
        probabilities = model(model.preprocess(image)[None]).softmax(1)[0]
    return [(index, probabilities[index].item()) for index in probabilities.argsort(descending=True)[:top].tolist()]


def run(capsys, *arguments, status=0):
    """What the command says on stdout and stderr."""
    try:
        got = main(["predict", *map(str, arguments)])
    except SystemExit as error:
        got = error.code
    said = capsys.readouterr()
    assert got == status, said.err
    return said.out, said.err


def refused(capsys, *arguments):
    out, error = run(capsys, *arguments, status=2)
    assert out == ""
    assert error.count("\n") == 1
    return error


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
    out, _ = run(capsys, photos / "1.png", "--weights", weights["three"], "--top", 3)
    assert sorted(line.partition("%  ")[2] for line in out.splitlines()[1:]) == ["class 0", "class 1", "class 2"]


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


# --- what is wrong with the images -----------------------------------------------------------------------------------


def test_bad_images_are_named_and_skipped(capsys, photos, weights, tmp_path):
    (photos / "bad.png").write_bytes(b"not a picture")
    arguments = [photos, tmp_path / "absent.png", "--weights", weights["cifar10"], "--json"]
    out, error = run(capsys, *arguments, status=1)
    assert len(json.loads(out)) == len(SIZES)
    assert f"resnext: skipped {photos / 'bad.png'}: expected an image" in error
    assert f"resnext: skipped {tmp_path / 'absent.png'}: no such file or folder\n" in error


def test_an_image_that_cannot_be_preprocessed(capsys, photos, weights):
    """Pillow reads it, and its values have no range that could be known."""
    Image.fromarray(np.full((32, 32), -7, np.int32)).save(photos / "signed.tiff")
    _, error = run(capsys, photos, "--weights", weights["cifar10"], status=1)
    assert error.startswith(f"resnext: skipped {photos / 'signed.tiff'}: ")
    assert error.count("\n") == 1


def test_nothing_that_can_be_used(capsys, tmp_path, weights, monkeypatch):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    out, error = run(capsys, tmp_path / "bad.png", tmp_path / "absent.png", "--weights", weights["cifar10"], status=2)
    assert out == ""
    assert error.count("resnext: skipped ") == error.count("\n") == 2
    monkeypatch.setattr(predict, "load_model", None)  # it may be a long download
    run(capsys, tmp_path / "absent.png", status=2)


def test_any_file_name(capsys, photos, weights, monkeypatch):
    data = (photos / "1.png").read_bytes()
    names = ["$x$ {y}.png", "数字.png", "a\nb.png", os.fsdecode(b"\xff.png")]
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


# --- usage -----------------------------------------------------------------------------------------------------------


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
    assert "this network takes 1 channels" in refused(capsys, photos, "--weights", weights["grey"])
    state_dict = torch.load(weights["cifar10"])
    state_dict["fc.bias"][3] = float("nan")
    torch.save(state_dict, tmp_path / "nan.pth")
    error = refused(capsys, photos, "--weights", tmp_path / "nan.pth")
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


# --- the plot --------------------------------------------------------------------------------------------------------


def test_plot(capsys, photos, weights, tmp_path):
    target = tmp_path / "plot.png"
    target.write_bytes(b"an older one")
    for count in (1, 4):
        run(capsys, *sorted(photos.iterdir())[:count], "--weights", weights["imagenet"], "--plot", target)
        with Image.open(target) as image:
            image.load()
        assert image.format == "PNG"
        assert image.height == pytest.approx(plot._DPI * (0.3 + 2.55 * count), abs=1)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["plot.png"]
    assert "matplotlib.pyplot" not in sys.modules


def test_the_plot_shows_the_image_as_the_network_sees_it(photos, weights):
    for name, tolerance in (("imagenet", 1e-5), ("cifar10", 1e-6)):
        model = resnext.from_checkpoint(weights[name]).eval()
        source = FIXTURES / "preprocess" / "tiny_64x64.png"
        with Image.open(source) as image:
            inputs = [(str(source), model.preprocess(image))]
            (result,) = predict._results(model, inputs, 5)
            row = predict._row(result, class_names(name), name)
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
        assert row.title == "tiny_64x64.png"
        assert row.names == [class_names(name)[index] for index in result.classes]
        assert row.image.shape == result.image.shape
        if name == "cifar10":
            assert torch.allclose(row.image, pixels, atol=tolerance)
        else:
            assert torch.allclose(row.image.mean(), pixels.mean(), atol=0.02)


def test_the_plot_with_fewer_classes_than_bars(capsys, photos, weights, tmp_path):
    run(capsys, photos, "--weights", weights["three"], "--top", 1, "--plot", tmp_path / "plot.PNG")
    assert (tmp_path / "plot.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "message"),
    [("plot.jpg", "expected a name that ends in .png, got "), ("absent/plot.png", "in a folder that exists"),
     ("taken.png", "cannot be written"), ("photos/1.png", "is one of the images; choose another name")],
)  # fmt: skip
def test_where_the_plot_cannot_go(capsys, photos, weights, tmp_path, monkeypatch, name, message):
    (tmp_path / "taken.png").mkdir()
    before = (photos / "1.png").read_bytes()
    monkeypatch.setattr(predict, "load_model", None)  # refused before any work
    assert message in refused(capsys, photos, "--plot", tmp_path / name)
    assert message in refused(capsys, (photos / "1.png").as_uri(), "--plot", tmp_path / name)
    assert (photos / "1.png").read_bytes() == before


def test_the_plot_in_a_folder_that_may_not_be_written_to(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    assert "cannot be written" in refused(capsys, photos, "--plot", tmp_path / "plot.png")


def test_a_plot_that_fails_leaves_the_older_one(capsys, photos, weights, tmp_path, monkeypatch):
    (tmp_path / "plot.png").write_bytes(b"an older one")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    error = refused(capsys, photos, "--weights", weights["cifar10"], "--plot", tmp_path / "plot.png")
    assert "No space left on device" in error
    assert (tmp_path / "plot.png").read_bytes() == b"an older one"
    assert not list(tmp_path.glob(".writing-*"))


def test_too_many_images_for_a_plot(capsys, photos, tmp_path):
    for number in range(4, plot.MAX_ROWS + 1):
        (photos / f"{number}.png").touch()
    error = refused(capsys, photos, "--plot", tmp_path / "plot.png")
    assert f"expected at most {plot.MAX_ROWS} images, got {plot.MAX_ROWS + 1}" in error
    with pytest.raises(ValueError, match="0 rows; expected 1 to"):
        plot.render([])


def test_a_plot_needs_matplotlib(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(predict, "load_model", None)
    error = refused(capsys, photos, "--plot", tmp_path / "plot.png")
    assert error == "resnext: argument --plot: needs matplotlib: pip install matplotlib\n"


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [("tench", 5, "tench"), ("abcdefgh", 5, "ab…gh"), ("abcdefgh", 4, "ab…h"), ("abc", 2, "a…"), ("abc", 1, "…")],
)
def test_shortened_texts(text, length, short):
    assert plot.shorten(text, length) == short
