"""The data sets of the evaluation's tests, for those of its command."""

from tests.resnext.evaluation.conftest import (  # noqa: F401  # fixtures
    arguments,
    changing,
    cifar,
    expected,
    five_batches,
    imagenet,
    one_thread,
)
