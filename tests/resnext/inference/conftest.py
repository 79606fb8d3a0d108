import pytest

from tests.helpers.networks import build


@pytest.fixture(scope="session")
def model():
    return build().eval()
