import pytest

from conversion import mapping, t7


@pytest.fixture
def root(sample):
    return t7.load(sample)


def refused(root, *parts):
    with pytest.raises(t7.T7Error) as caught:
        mapping.convert(root)
    for part in parts:
        assert part in str(caught.value)
