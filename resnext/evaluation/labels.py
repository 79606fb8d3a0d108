"""Which output of a network a class folder or a label stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from resnext.classes import class_names, output_ids
from resnext.evaluation import DataError

_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a network are known by: `ids` are WordNet ids and `names` names, one for each, or empty."""

    count: int
    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, data_set: str, num_classes: int) -> Outputs:
        """Those of a network of the data set "imagenet", "cifar10" or "cifar100" with so many classes."""
        names = class_names(data_set)
        ids = tuple(wordnet_id for wordnet_id in output_ids(data_set, num_classes) if wordnet_id is not None)
        return cls(num_classes, ids, names if len(names) == num_classes else ())


def match_folders(folders: Sequence[str], outputs: Outputs, where: str) -> list[int]:
    """The output that each class folder stands for.

    A network of ImageNet's 1,000 classes: folders named by WordNet id are matched by id, so there may be fewer of them.
    Other names, and all names with any other network, stand for the outputs in sorted order, as in torchvision's
    ImageFolder, and must be as many. Raises DataError with both counts, or with the names that do not fit.
    """
    wordnet = [name for name in folders if _WORDNET_ID.fullmatch(name)]
    if outputs.ids and wordnet:
        if len(wordnet) < len(folders):
            other = [name for name in folders if name not in wordnet]
            raise DataError(
                f"{where}: {len(wordnet)} class folders are named by WordNet id and {len(other)} are not "
                f"({_some(other)}); expected one or the other"
            )
        index = {wordnet_id: output for output, wordnet_id in enumerate(outputs.ids)}
        if unknown := [name for name in folders if name not in index]:
            raise DataError(
                f"{where}: {len(unknown)} of {len(folders)} class folders are WordNet ids that are not among the "
                f"network's {outputs.count:,} ({_some(unknown)})"
            )
        return [index[name] for name in folders]
    if len(folders) != outputs.count:
        fewer = ", or folders named by WordNet id (n01440764, …), which may be fewer" if outputs.ids else ""
        raise DataError(
            f"{where}: {len(folders):,} class folder{'s' * (len(folders) != 1)} ({_some(folders)}), and the network "
            f"has {outputs.count:,} classes; expected as many (empty ones count){fewer}"
        )
    order = {name: output for output, name in enumerate(sorted(folders))}
    return [order[name] for name in folders]


def match_label(label: str, outputs: Outputs) -> int:
    """The output that the label of a sample stands for: its number, a WordNet id, or the name of a class.

    Raises ValueError that says what was expected.
    """
    if re.fullmatch(r"\d{1,9}", label):
        if int(label) < outputs.count:
            return int(label)
    elif label in outputs.ids:
        return outputs.ids.index(label)
    elif label in outputs.names:
        return outputs.names.index(label)
    other = ", or a WordNet id or name of its classes" if outputs.ids else ""
    other = other or (", or the name of one of its classes" if outputs.names else "")
    raise ValueError(f"label {label[:40]!r}; the network takes 0 to {outputs.count - 1}{other}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
