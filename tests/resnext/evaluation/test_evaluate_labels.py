"""Which output a class folder or a label stands for, and what is refused."""

import pytest
import torch

from resnext.classes import class_names, wordnet_ids
from resnext.evaluation import DataError
from resnext.evaluation.counts import Counts, Errors, Unreadable
from resnext.evaluation.labels import Outputs, match_folders, match_label
from resnext.evaluation.report import wilson_interval
from resnext.evaluation.run import ranks

IMAGENET = Outputs.of("imagenet", 1000)
FOUR = Outputs.of("imagenet", 4)


def test_wordnet_ids_are_matched_by_id():
    assert match_folders(["n02102040", "n01440764"], IMAGENET, "data") == [217, 0]
    assert match_folders(wordnet_ids(), IMAGENET, "data") == list(range(1000))


def test_other_names_are_matched_in_sorted_order():
    assert match_folders(["b", "10", "a", "9"], FOUR, "data") == [3, 0, 2, 1]
    thousand = [f"class {number:03d}" for number in range(1000)]
    assert match_folders(thousand, IMAGENET, "data") == list(range(1000))


def test_wordnet_ids_are_names_like_others_for_a_network_of_other_classes():
    assert match_folders(["n01440764", "n02102040", "n02979186", "n03000684"], FOUR, "data") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("folders", "outputs", "parts"),
    [
        (["a", "b", "c"], FOUR, ("data: 3 class folders (a, b, c)", "4 classes")),
        (list("abcde"), FOUR, ("5 class folders (a, b, c, …)", "4 classes")),
        (["train", "val"], IMAGENET, ("2 class folders (train, val)", "1,000 classes", "WordNet id")),
        (["n01440764", "n02102040", "n00000000"], IMAGENET, ("1 of 3", "n00000000", "1,000")),
        (["n01440764", "dog", "n02102040"], IMAGENET, ("2 class folders", "1 are not (dog)")),
        (["n01440764", "n02102040"], FOUR, ("2 class folders", "4 classes")),
    ],
)
def test_folders_that_do_not_fit_are_refused_with_both_counts(folders, outputs, parts):
    with pytest.raises(DataError) as caught:
        match_folders(folders, outputs, "data")
    for part in parts:
        assert part in str(caught.value)


def test_labels_of_samples():
    assert [match_label(text, IMAGENET) for text in ("7", "007", "n02102040", "tench")] == [7, 7, 217, 0]
    assert match_label("truck", Outputs.of("cifar10", 10)) == class_names("cifar10").index("truck")


@pytest.mark.parametrize(
    ("label", "outputs", "expected"),
    [
        ("1000", IMAGENET, "0 to 999, or a WordNet id or name"),
        ("-1", IMAGENET, "0 to 999"),
        ("n00000000", IMAGENET, "0 to 999"),
        ("tench", FOUR, "0 to 3"),
        ("lorry", Outputs.of("cifar10", 10), "0 to 9, or the name"),
        ("", FOUR, "label ''"),
        ("²", FOUR, "0 to 3"),
    ],
)
def test_labels_that_are_refused(label, outputs, expected):
    with pytest.raises(ValueError, match=expected):
        match_label(label, outputs)


def test_rank_of_the_right_class():
    logits = torch.tensor([[1.0, 3.0, 2.0], [3.0, 1.0, 2.0], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0]])
    assert ranks(logits, torch.tensor([1, 1, 0, 2])).tolist() == [0, 2, 0, 2]  # ties: the lower class first


def test_a_logit_that_is_not_a_number_is_never_right():
    nan = float("nan")
    logits = torch.tensor([[nan, nan, nan], [nan, 1.0, 0.0], [0.0, nan, 1.0]])
    rank = ranks(logits, torch.tensor([0, 1, 1]))
    assert rank.tolist() == [3, 1, 3]
    counts = Counts()
    counts.add([0, 1, 1], rank.tolist(), 3)
    assert counts.total == Errors(3, 3, 2)


def test_the_first_five_are_all_where_there_are_no_more():
    counts = Counts()
    counts.add([0, 1, 2, 3], [0, 3, 2, 1], 4)
    assert counts.total == Errors(4, 3, 0)


def test_counts_survive_json():
    counts = Counts({3: Errors(5, 2, 1), 0: Errors(1, 0, 0)}, [Unreadable("a/b.jpg", 3, "an empty file")])
    assert Counts.from_json(counts.as_json()) == counts


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3
@pytest.mark.parametrize(
    ("errors", "images", "expected"),
    [(81, 263, (25.53, 36.62)), (15, 148, (6.24, 16.05)), (0, 20, (0.0, 16.11)), (1, 29, (0.61, 17.18))],
)
def test_wilson_interval(errors, images, expected):
    assert [round(value, 2) for value in wilson_interval(errors, images)] == list(expected)
    mirrored = wilson_interval(images - errors, images)
    assert [round(100 - value, 2) for value in reversed(mirrored)] == list(expected)
