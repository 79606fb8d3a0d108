"""Names and WordNet ids of the classes, held against lists that others keep."""

import importlib.metadata
import re

import pytest

from resnext import classes

# Names that two classes of ImageNet share in WordNet; the second of each says more here, and in torchvision.
TOLD_APART = {134: ("crane", "crane bird"), 639: ("maillot", "maillot tank suit")}


def test_imagenet_is_in_torchvisions_order(torchvision):
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert list(classes.class_names("imagenet")) == _IMAGENET_CATEGORIES


def test_wordnet_ids_are_those_of_the_names():
    """In timm's lists, where the ids lead to the names. With the test before: the ids are in torchvision's order."""
    try:  # its data alone: to import timm would import torchvision
        files = importlib.metadata.files("timm")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("timm, the source of the list, is not installed")
    ids, synonyms = (
        next(file for file in files if file.name == name).read_text().splitlines()
        for name in ("imagenet_synsets.txt", "imagenet_synset_to_lemma.txt")
    )
    synonyms = dict(line.split("\t") for line in synonyms)
    assert list(classes.wordnet_ids()) == ids
    names = [synonyms[wordnet_id].split(", ")[0] for wordnet_id in ids]
    assert {
        index: (there, here)
        for index, (there, here) in enumerate(zip(names, classes.class_names("imagenet"), strict=True))
        if there != here
    } == TOLD_APART


def test_imagenets_names_and_ids():
    ids, names = classes.wordnet_ids(), classes.class_names("imagenet")
    assert len(ids) == len(names) == len(set(names)) == 1000
    assert list(ids) == sorted(set(ids))
    assert all(re.fullmatch(r"n\d{8}", wordnet_id) for wordnet_id in ids)
    assert all(re.fullmatch(r"[\w'.-]+( [\w'.-]+)*", name) for name in names)
    known = dict(zip(ids, names, strict=True))  # ImageNette's classes, and both ends
    assert [known[f"n{number}"] for number in ("01440764", "02102040", "03888257", "15075141")] == [
        "tench", "English springer", "parachute", "toilet tissue",
    ]  # fmt: skip


def test_cifar():
    ten, hundred = classes.class_names("cifar10"), classes.class_names("cifar100")
    assert list(ten) == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert len(hundred) == len(set(hundred)) == 100
    assert list(hundred) == sorted(hundred)  # as the data set's own list is


def test_an_unknown_data_set():
    with pytest.raises(ValueError, match="unknown data set 'imagenet21k'; expected imagenet, cifar10 or cifar100"):
        classes.class_names("imagenet21k")


def test_a_network_of_other_classes_gets_numbers():
    assert classes.output_names("imagenet", 1000)[281] == "tabby"
    assert classes.output_ids("imagenet", 1000)[281] == "n02123045"
    assert classes.output_names("cifar100", 100)[0] == "apple"
    assert classes.output_ids("cifar100", 100)[0] is None
    # ten outputs behind ImageNet's preprocessing are somebody's own, not CIFAR's
    assert classes.output_names("imagenet", 3) == ("class 0", "class 1", "class 2")
    assert classes.output_ids("imagenet", 3) == (None, None, None)
    assert classes.output_names("cifar10", 11)[10] == "class 10"


def test_a_networks_own_classes_come_first():
    own = ["cat", "n02123045"]
    assert classes.output_names("imagenet", 2, own) == ("cat", "n02123045")
    assert classes.output_ids("imagenet", 2, own) == (None, "n02123045")
    assert classes.output_ids("imagenet", 1000, [str(number) for number in range(1000)]) == (None,) * 1000
    assert classes.output_ids("imagenet", 1000, classes.class_names("imagenet"))[281] == "n02123045"
