"""The environment variables that users set."""

import pytest

from resnext.weights import environment


@pytest.mark.parametrize(
    ("name", "setting"), [("RESNEXT_OFFLINE", environment.offline), ("RESNEXT_KEEP_T7", environment.keep_t7)]
)
@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("true", True), ("True", True), ("YES", True), ("on", True), (" on ", True),
     ("", False), ("0", False), ("no", False), ("off", False), ("false", False)],
)  # fmt: skip
def test_switches(monkeypatch, name, setting, value, expected):
    monkeypatch.setenv(name, value)
    assert setting() is expected


def test_what_is_not_set(home):
    assert not environment.offline()
    assert not environment.keep_t7()
    assert environment.mirrors() == []
    assert environment.max_download() == 4_000_000_000


def test_mirrors(monkeypatch):
    monkeypatch.setenv("RESNEXT_MIRROR", " https://a/b ,, file:///c")
    assert environment.mirrors() == ["https://a/b", "file:///c"]


def test_max_download(monkeypatch):
    monkeypatch.setenv("RESNEXT_MAX_DOWNLOAD", "12")
    assert environment.max_download() == 12_000_000


@pytest.mark.parametrize("value", ["-1", "1.5", "²", "many", "9" * 5000])
def test_a_limit_that_is_no_number(monkeypatch, value):
    monkeypatch.setenv("RESNEXT_MAX_DOWNLOAD", value)
    with pytest.raises(ValueError, match="expected a number of megabytes"):
        environment.max_download()
