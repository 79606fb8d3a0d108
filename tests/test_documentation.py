"""What README.md and the pages of docs/ show, run as it stands there, each snippet by itself."""

import importlib
import json
import re

import pytest
import torch

import resnext
from resnext.weights import records
from resnext.weights.download import sha256_of
from tests.helpers.recorded import FIXTURES, ROOT

NAME = "resnext50_32x4d"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


SNIPPETS = {f"{page.name}-{number}": text for page in PAGES for number, text in enumerate(snippets(page), 1)}


@pytest.fixture(scope="module")
def state_dict():
    """A ResNeXt-50 in place of the authors', with features as large as a trained network's."""
    torch.manual_seed(0)
    model = resnext.create(NAME)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of one batch
    with torch.no_grad():
        model(torch.randn(12, 3, 32, 32) + torch.randn(12, 3, 1, 1))
    return model.state_dict()


@pytest.fixture(scope="module")
def integrations(torchvision):
    """Both, imported while the records are the real ones."""
    for name in ("torchvision", "timm"):
        importlib.import_module(f"resnext.integrations.{name}")


@pytest.fixture
def clone(integrations, state_dict, home, tmp_path, monkeypatch):
    """The current folder is a clone with a photo and weights; torch.hub has org/resnext, and its cache weights."""
    home.mkdir(parents=True)
    path = home / f"{NAME}_typeC-01234567.pth"
    torch.save(state_dict, path)
    (home.parent / "org_resnext_main").symlink_to(ROOT)
    content = json.loads(records.RECORDS.read_text())
    content[NAME]["hosted"] = {
        "file": path.name, "urls": [], "size": path.stat().st_size, "sha256": sha256_of(path), "tensor_digest": "",
    }  # fmt: skip
    (tmp_path / "weights.json").write_text(json.dumps(content))
    monkeypatch.setattr(records, "RECORDS", tmp_path / "weights.json")
    records.records.cache_clear()
    here = tmp_path / "clone"
    here.mkdir()
    for name in ("hubconf.py", "resnext", "conversion"):
        (here / name).symlink_to(ROOT / name)
    (here / "resnext50.pth").symlink_to(path)
    (here / "photo.jpg").symlink_to(FIXTURES / "preprocess" / "tiny_120x161.png")
    monkeypatch.chdir(here)
    yield here
    records.records.cache_clear()


@pytest.mark.filterwarnings("ignore:.*the classifier .fc. is new")
@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_run(name, clone):
    exec(SNIPPETS[name], {})


def named(start):
    """The one snippet with this line in it."""
    [text] = [text for text in SNIPPETS.values() if start in text]
    return text


def test_fine_tuning_trains_the_classifier_and_nothing_else(clone, state_dict):
    names = {}
    exec(named("model.reset_classifier(3)"), names)
    losses, model = names["losses"], names["model"]
    assert len(losses) > 1
    assert losses[-1] < 0.8 * losses[0]
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"fc.weight", "fc.bias"}
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, state_dict[name])
    assert model.fc.weight.shape == (3, 2048)


def test_image_to_name_prints_what_the_readme_says(clone, capsys):
    exec(named("photo.jpg"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line in lines:
        probability, name = re.fullmatch(r" *(\d+\.\d)%  (\S.*)", line).groups()
        assert float(probability) <= 100
        assert name in resnext.classes.class_names("imagenet")


def test_links_between_pages_lead_somewhere():
    def anchors(page):
        titles = re.findall("^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                path, _, anchor = target.partition("#")
                linked = page.parent / path if path else page
                assert linked.exists(), f"{page.name}: {target}"
                assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


def test_every_environment_variable_is_documented():
    settings = set(re.findall(r"RESNEXT_\w+", (ROOT / "resnext" / "weights" / "environment.py").read_text()))
    assert settings == set(re.findall(r"^\| `(RESNEXT_\w+)`", (ROOT / "docs" / "command_line.md").read_text(), re.M))
