"""`python -m resnext predict`, from images to names."""

import io
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import resnext
from resnext.__main__ import main
from resnext.classes import class_names, wordnet_ids
from resnext.cli import predict
from resnext.cli.command_line import Parser
from tests.helpers.commands import not_predicted, on_a_terminal, predicted
from tests.helpers.pictures import SIZES


def expected(weights, path, top):
    """The contract's predictions, of one image by itself."""
    model = resnext.from_checkpoint(weights).eval()
    with torch.no_grad(), Image.open(path) as image:
        probabilities = model(model.preprocess(image)[None]).softmax(1)[0]
    return [(index, probabilities[index].item()) for index in probabilities.argsort(descending=True)[:top].tolist()]


@pytest.mark.parametrize("data_set", ["cifar10", "imagenet"])
def test_json(capsys, photos, weights, data_set):
    out, error = predicted(capsys, photos, "--weights", weights[data_set], "--json", "--top", 3)
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
    out, _ = predicted(capsys, path, "--weights", weights["imagenet"])
    first, *lines = out.splitlines()
    assert first == str(path)
    assert [line.split(maxsplit=3) for line in lines] == [
        [f"{probability * 100:.2f}", "%", wordnet_ids()[index], class_names("imagenet")[index]]
        for index, probability in expected(weights["imagenet"], path, 5)
    ]


def test_a_network_of_other_classes(capsys, photos, weights):
    options = (photos / "1.png", "--weights", weights["three"])
    for top in ((), ("--top", 3)):  # by default all, where there are fewer than five
        out, _ = predicted(capsys, *options, *top)
        assert sorted(line.partition("%  ")[2] for line in out.splitlines()[1:]) == ["class 0", "class 1", "class 2"]
    assert "argument --top: expected at most the network's 3 classes, got 5" in not_predicted(
        capsys, *options, "--top", 5
    )


def test_grey_and_transparent_images_and_what_is_named_as_url(capsys, photos, weights, site):
    colour = Image.open(photos / "1.png")
    colour.convert("L").save(photos / "grey.png")
    colour.convert("RGBA").save(photos / "alpha.png")
    site.files["1.png"] = (photos / "1.png").read_bytes()
    names = [photos / "grey.png", photos / "alpha.png", (photos / "1.png").as_uri(), f"{site.url}/1.png"]
    out, _ = predicted(capsys, *names, "--weights", weights["cifar10"], "--json")
    grey, *others = json.loads(out)
    assert [best["class"] for best in grey["predictions"]] == [
        index for index, _ in expected(weights["cifar10"], photos / "grey.png", 5)
    ]
    assert [entry["image"] for entry in others] == list(map(str, names[1:]))
    assert others[0]["predictions"] == others[1]["predictions"] == others[2]["predictions"]


def passes(model, images):
    """The sizes of the batches that the network gets, and the results."""
    sizes = []
    hook = model.conv1.register_forward_pre_hook(lambda conv1, inputs: sizes.append(tuple(inputs[0].shape)))
    results = list(predict.classify(model, [(str(number), image) for number, image in enumerate(images)], 5))
    hook.remove()
    return [(n, height, width) for n, _, height, width in sizes], results


def test_images_of_one_size_go_through_together(weights):
    model = resnext.from_checkpoint(weights["cifar10"]).eval()
    images = [torch.rand(3, height, width) for width, height in SIZES * 2]
    sizes, results = passes(model, images)
    assert sizes == [(1, 33, 40), (2, 32, 32), (1, 48, 64)] * 2
    assert [result.source for result in results] == [*"01234567"]
    for result, image in zip(results, images, strict=True):
        assert torch.equal(result.image, image)
        assert result.map.shape == (-(-image.shape[1] // 4), -(-image.shape[2] // 4))
        with torch.no_grad():
            logits = model(image[None])[0]
        assert result.classes == logits.topk(5).indices.tolist()
        bias = model.fc.bias[result.classes[0]]
        assert torch.allclose(result.map.mean() + bias, logits.max(), rtol=1e-4)


def test_not_too_many_images_go_through_together(weights):
    model = resnext.from_checkpoint(weights["imagenet"]).eval()
    sizes, _ = passes(model, [torch.rand(3, 448, 448) for _ in range(5)])
    assert sizes == [(4, 448, 448), (1, 448, 448)]
    assert predict.PIXELS_AT_ONCE == 4 * 448 * 448


@pytest.mark.filterwarnings("error")  # of letters that the font lacks
def test_any_file_name(capsys, photos, weights, monkeypatch):
    data = (photos / "1.png").read_bytes()
    names = [r"$\no$ {y}.png", "数字.png", "a\nb.png", os.fsdecode(b"\xff.png")]
    for name in names:
        (photos / name).write_bytes(data)
    paths, options = [photos / name for name in names], ("--weights", weights["cifar10"])
    out, error = predicted(capsys, *paths, *options, "--json", "--plot", photos / "plot.png")
    assert [entry["image"] for entry in json.loads(out)] == list(map(str, paths))
    assert error == ""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["predict", *map(str, [*paths, *options])]) == 0
    assert b"\\u6570\\u5b57.png" in stdout.buffer.getvalue()
    assert b"\\udcff.png" in stdout.buffer.getvalue()


def test_top(capsys, photos, weights):
    options = (photos / "1.png", "--weights", weights["cifar10"], "--top")
    assert "expected at most the network's 10 classes, got 11" in not_predicted(capsys, *options, 11)
    for wrong in (0, -1, "five", 1.5):
        assert f"argument --top: expected a whole number from 1 up, got {wrong}" in not_predicted(
            capsys, *options, wrong
        )
    out, _ = predicted(capsys, *options, 10)
    assert len(out.splitlines()) == 11


def test_other_refusals(capsys, photos, weights, tmp_path, monkeypatch):
    assert "unknown architecture 'resnet'" in not_predicted(capsys, photos, "--arch", "resnet")
    assert f"{tmp_path / 'no.pth'}: cannot be read" in not_predicted(capsys, photos, "--weights", tmp_path / "no.pth")
    assert "the network takes images of 1 channels; expected 3" in not_predicted(
        capsys, photos, "--weights", weights["grey"]
    )
    state_dict = torch.load(weights["cifar10"])
    state_dict["fc.weight"].fill_(3e38)  # the sums overflow
    torch.save(state_dict, tmp_path / "huge.pth")
    error = not_predicted(capsys, photos, "--weights", tmp_path / "huge.pth")
    assert f"no finite logits for {photos / '0.png'}" in error
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "predict needs pillow: pip install pillow" in not_predicted(capsys, photos, "--weights", weights["cifar10"])


def test_progress_bar_on_a_terminal_and_json_beside_it(photos, weights, tmp_path):
    arguments = ["predict", photos, "--weights", weights["cifar10"], "--json"]
    status, shown = on_a_terminal(main, *arguments, stdout=tmp_path / "out.json")
    assert status == 0, shown
    assert b"4/4" in shown
    assert len(json.loads((tmp_path / "out.json").read_text())) == 4


def test_bad_images_are_named_and_skipped(capsys, photos, weights, tmp_path):
    (photos / "bad.png").write_bytes(b"not a picture")
    arguments = [photos, tmp_path / "absent.png", "--weights", weights["cifar10"], "--json"]
    out, error = predicted(capsys, *arguments, status=1)
    *images, bad, absent = json.loads(out)  # each in its place
    assert [entry["image"] for entry in images] == [str(photos / f"{number}.png") for number in range(len(SIZES))]
    assert set(bad) == {"image", "error"}
    assert bad["image"] == str(photos / "bad.png")
    assert bad["error"].startswith("expected an image that Pillow reads")
    assert absent == {"image": str(tmp_path / "absent.png"), "error": "no such file or folder"}
    assert f"resnext: skipped {photos / 'bad.png'}: expected an image" in error
    assert f"resnext: skipped {tmp_path / 'absent.png'}: no such file or folder\n" in error


def test_an_image_that_cannot_be_preprocessed(capsys, photos, weights):
    """Pillow reads it, and its values have no range that could be known."""
    Image.fromarray(np.full((32, 32), -7, np.int32)).save(photos / "signed.tiff")
    out, error = predicted(capsys, photos, "--weights", weights["cifar10"], status=1)
    assert error.startswith(f"resnext: skipped {photos / 'signed.tiff'}: ")
    assert error.count("\n") == 1
    assert "signed.tiff" not in out


def test_a_skipped_image_stays_in_its_place(capsys, photos, weights):
    (photos / "1bad.png").write_bytes(b"not a picture")  # between two that go through the network together
    out, _ = predicted(capsys, photos, "--weights", weights["cifar10"], "--json", status=1)
    document = json.loads(out)
    assert [os.path.basename(entry["image"]) for entry in document] == ["0.png", "1.png", "1bad.png", "2.png", "3.png"]
    assert ["error" in entry for entry in document] == [False, False, True, False, False]


def test_images_too_large_for_a_network_that_does_not_resize(capsys, photos, weights):
    Image.new("L", (1024, 1025)).save(photos / "large.png")
    _, error = predicted(capsys, photos, "--weights", weights["cifar10"], status=1)
    assert error == (
        f"resnext: skipped {photos / 'large.png'}: 1024 x 1025 pixels, which this network takes as they are; expected "
        "at most 1,048,576 (it was trained on 32 x 32): resize the image first\n"
    )
    predicted(capsys, photos, "--weights", weights["imagenet"])


@pytest.mark.parametrize("stage", ["forward_features", "preprocess"])
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory(capsys, photos, weights, monkeypatch, stage, error):
    owner = resnext.model.ResNeXt if stage == "forward_features" else predict.CifarPreprocess
    name = stage if stage == "forward_features" else "forward"
    forward = getattr(owner, name)

    def small(self, image):
        width = image.shape[-1] if isinstance(image, torch.Tensor) else image.width
        if width == 64:
            raise error
        return forward(self, image)

    monkeypatch.setattr(owner, name, small)
    out, said = predicted(capsys, photos, "--weights", weights["cifar10"], "--json", status=1)
    assert [entry.get("error") for entry in json.loads(out)] == [
        *[None] * 3,
        "this machine's memory is too small for the network at 64 x 48 pixels"
        if stage == "forward_features"
        else "too large for this machine's memory",
    ]
    assert said.count("\n") == 1


def test_other_errors_are_not_taken_for_too_little_memory(capsys, photos, weights, monkeypatch):
    def broken(self, image):
        raise RuntimeError("a bug")

    for owner, name in ((resnext.model.ResNeXt, "forward_features"), (predict.CifarPreprocess, "forward")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            assert main(["predict", str(photos), "--weights", str(weights["cifar10"])]) == 2
        assert capsys.readouterr().err == "resnext: a bug\n"


def test_nothing_that_can_be_used(capsys, tmp_path, weights):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    out, error = predicted(
        capsys, tmp_path / "bad.png", tmp_path / "absent.png", "--weights", weights["cifar10"], status=2
    )
    assert out == ""
    assert error.count("resnext: skipped ") == error.count("\n") == 2
    out, _ = predicted(capsys, tmp_path / "bad.png", "--weights", weights["cifar10"], "--json", status=2)
    assert [set(entry) for entry in json.loads(out)] == [{"image", "error"}]
    absent = tmp_path / "absent.pth"  # loading it would fail
    out, _ = predicted(capsys, tmp_path / "absent.png", "--weights", absent, "--json", status=2)
    assert json.loads(out) == [{"image": str(tmp_path / "absent.png"), "error": "no such file or folder"}]


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_closed_streams(capsys, photos, weights, monkeypatch, closed, options):
    """Python has None for them."""
    (photos / "bad.png").write_bytes(b"not a picture")
    parser = Parser()
    predict.add_command(parser.add_subparsers())
    parsed = parser.parse_args(["predict", str(photos), "--weights", str(weights["cifar10"]), *options])
    with monkeypatch.context() as patch:
        patch.setattr(sys, closed, None)
        assert parsed.run(parsed) == 1
    out, error = capsys.readouterr()
    assert (out == "") == (closed == "stdout")
    assert (error == "") == (closed == "stderr")
    assert "skipped" not in out
