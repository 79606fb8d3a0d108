"""What the outputs of a network stand for: names of classes and ImageNet's WordNet ids, in the order of the outputs."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

_WORDNET_ID = re.compile(r"n\d{8}")
_IMAGENET = Path(__file__).with_name("imagenet_classes.tsv")

# batches.meta.txt and fine_label_names.txt of https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, 2009)
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
    bowl boy bridge bus butterfly camel can castle caterpillar cattle
    chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """


@functools.cache
def wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes (`n01440764`, …): sorted, which is the order of the outputs."""
    return tuple(wordnet_id for wordnet_id, _ in _imagenet())


@functools.cache
def class_names(data_set: str) -> tuple[str, ...]:
    """The names of the classes of "imagenet", "cifar10" or "cifar100", all different, in the order of the outputs.

    ImageNet: the first of the WordNet synonyms, as in torchvision; `imagenet_classes.tsv` says where they come from.
    CIFAR-100: the fine labels. Raises ValueError for any other data set.
    """
    if data_set == "imagenet":
        return tuple(name for _, name in _imagenet())
    if data_set == "cifar10":
        return tuple(_CIFAR10.split())
    if data_set == "cifar100":
        return tuple(_CIFAR100.split())
    raise ValueError(f"unknown data set {data_set!r}; expected imagenet, cifar10 or cifar100")


def output_names(data_set: str, num_classes: int, classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """A name for each output of a network: its own `classes`, else those of `data_set` if the numbers agree.

    Otherwise "class 0", "class 1", …: a network that was fine-tuned on other classes keeps the preprocessing of its
    data set, but not the names.
    """
    if classes is not None:
        return tuple(classes)
    names = class_names(data_set)
    return names if len(names) == num_classes else tuple(f"class {index}" for index in range(num_classes))


def output_ids(data_set: str, num_classes: int, classes: Sequence[str] | None = None) -> tuple[str | None, ...]:
    """The WordNet id of each output of a network; None where a class has none.

    A network's own `classes` have one where they are such ids, as the names of ImageNet's folders are, or the names of
    ImageNet's 1,000 classes.
    """
    if classes is not None and tuple(classes) != class_names("imagenet"):
        return tuple(name if _WORDNET_ID.fullmatch(name) else None for name in classes)
    known = data_set == "imagenet" and num_classes == len(wordnet_ids())
    return wordnet_ids() if known else (None,) * num_classes


def _imagenet() -> list[tuple[str, str]]:
    lines = _IMAGENET.read_text(encoding="utf-8").splitlines()
    rows = (line.partition("\t") for line in lines if not line.startswith("#"))
    return [(wordnet_id, name) for wordnet_id, _, name in rows]
