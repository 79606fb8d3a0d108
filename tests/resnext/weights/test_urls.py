"""weights=URL: any file from anywhere, kept in the cache, never mistaken for another."""

import pytest

import resnext
from tests.resnext.conftest import assert_right


def test_weights_may_be_a_url(site, home, built, sample):
    site.files = {
        built.path.name: built.path.read_bytes(),
        "a/my.pth": built.path.read_bytes(),
        "my.t7": sample.read_bytes(),
    }
    for name in site.files:
        for _ in range(2):
            assert_right(resnext.from_checkpoint(f"{site.url}/{name}"))
    assert site.asked == list(site.files)  # each was asked for once
    assert (home / built.path.name).exists()


def test_urls_with_one_file_name_are_kept_apart(site, home, built, models):
    site.files = {"a/my.pth": built.path.read_bytes(), "b/my.pth": models["cifar100_resnet11"].read_bytes()}
    assert resnext.from_checkpoint(f"{site.url}/a/my.pth").fc.out_features == 10
    assert resnext.from_checkpoint(f"{site.url}/b/my.pth").fc.out_features == 100


def test_a_digest_in_the_name_of_a_url_is_checked(site, home):
    site.files = {"my-0123abcd.pth": b"PK something else"}
    with pytest.raises(resnext.WeightsError, match="expected SHA-256 0123abcd, got "):
        resnext.from_checkpoint(f"{site.url}/my-0123abcd.pth")
    assert not list(home.glob("*.pth"))


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://example.com/a.pth", "http is not safe"), ("ftp://a/b.pth", "refused ftp://a/b.pth"),
     ("https://a/", "expected a plain name"), ("https://a/b%2Fc.pth", "expected a plain name")],
)  # fmt: skip
def test_urls_that_are_refused(home, url, message):
    with pytest.raises(resnext.WeightsError, match=message):
        resnext.from_checkpoint(url)


def test_url_while_offline(site, home, monkeypatch):
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    with pytest.raises(resnext.WeightsError, match=r"my.pth is not in the cache, and RESNEXT_OFFLINE=1 forbids"):
        resnext.from_checkpoint(f"{site.url}/my.pth")
