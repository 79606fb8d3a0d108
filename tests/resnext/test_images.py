"""Images by file, folder and URL, and everything that is wrong with them."""

import os
import re
import socket
import sys
import warnings

import pytest
from PIL import Image

from resnext.images import MAX_IMAGE_FILE, ImageError, find_images, read_image
from resnext.weights.download import Patience
from tests.helpers.pictures import make_images
from tests.helpers.server import answer

IMPATIENT = Patience(retries=1, backoff=0.01)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    next(make_images(1, (40, 33))).save(path)
    return path


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_stand_for_the_image_files_inside(tmp_path):
    touch(tmp_path, "b/z.JPG", "b/a.png", "b/c/d/e.webp", "a.tiff", "b.bmp", "note.txt", "x.npz", "c.jpeg.part")
    touch(tmp_path, ".hidden.png", ".thumbnails/a.png", "b/._z.jpg")
    images = find_images([str(tmp_path / "note.txt"), str(tmp_path), "https://host/a.jpg"])
    inside = [os.path.relpath(path, tmp_path) for path in images[:-1]]
    assert inside == ["note.txt", "a.tiff", "b.bmp", "b/a.png", "b/z.JPG", "b/c/d/e.webp"]  # a named file may be any
    assert images[-1] == "https://host/a.jpg"


def test_links_are_followed_and_never_in_circles(tmp_path):
    touch(tmp_path, "elsewhere/a.png", "photos/b.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    images = find_images([str(tmp_path / "photos")])
    assert [os.path.relpath(path, tmp_path / "photos") for path in images] == ["b.png", "linked/a.png"]


@pytest.fixture
def special(tmp_path):
    """A FIFO and a socket, named like images, beside a link to a device."""
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.png"))
        (tmp_path / "device.png").symlink_to("/dev/zero")
        yield tmp_path


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_not_a_regular_file_is_named_and_never_opened(special, kind):
    path = str(special / f"{kind}.png")
    assert path in find_images([str(special)])
    message = f"{path}: expected a regular file, got a {kind}"
    with pytest.raises(ImageError, match=re.compile(f"^{message}$", re.IGNORECASE)):
        read_image(path)


def test_what_names_no_image_is_told_in_its_place(tmp_path, monkeypatch):
    touch(tmp_path, "empty/note.txt")
    absent, image, empty = find_images([str(tmp_path / "absent.png"), "https://host/a.jpg", str(tmp_path / "empty")])
    assert image == "https://host/a.jpg"
    assert (absent.source, absent.problem) == (str(tmp_path / "absent.png"), "no such file or folder")
    assert str(absent) == f"{tmp_path / 'absent.png'}: no such file or folder"
    assert empty.source == str(tmp_path / "empty")
    assert empty.problem.startswith("no image files inside (.avif, .bmp, ")

    def forbidden(folder):  # root may read everything
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", forbidden)
    said = list(map(str, find_images([str(tmp_path / "empty")])))
    assert said[0] == f"{tmp_path / 'empty'}: cannot be read: Permission denied"


def test_file_and_urls_give_the_same(png, site):
    site.files["my picture.png"] = png.read_bytes()
    expected = read_image(str(png))
    for source in (png.as_uri(), f"{site.url}/my%20picture.png"):
        assert read_image(source) == expected
    assert expected.size == (40, 33)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an image, got an empty file"),
        (b"not a picture", "expected an image that Pillow reads (JPEG, PNG, …), got something else"),
        (b"\n<html>404</html>", "expected an image, got an HTML or XML page (a failed download?)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "expected an image, got a Git LFS pointer"),
    ],
)
def test_files_that_are_no_images(tmp_path, site, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    site.files["a.png"] = content
    for source in (str(path), f"{site.url}/a.png"):
        with pytest.raises(ImageError) as caught:
            read_image(source)
        assert str(caught.value).startswith(f"{source}: {message}")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_images(png, share):
    data = png.read_bytes()
    png.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"picture\.png: cannot be read: .+"):
        read_image(str(png))


def test_damaged_images_have_no_other_error(png):
    """Whatever byte is changed: an image, or an ImageError in one line."""
    data = png.read_bytes()
    for place in range(0, len(data), 97):
        png.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            read_image(str(png))
        except ImageError as error:
            assert str(error).startswith(f"{png}: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


def test_an_image_too_large_to_decode(png, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"picture\.png: cannot be read: Image size .* exceeds limit"):
        read_image(str(png))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # suspicious, for Pillow, but read
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(str(png)).size == (40, 33)
    monkeypatch.setattr(Image, "open", lambda file: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ImageError, match="too large for this machine's memory"):
        read_image(str(png))


def test_a_file_that_may_not_be_read(png, tmp_path):
    with pytest.raises(ImageError, match=f"^{tmp_path.as_uri()}: cannot be read: Is a directory$"):
        read_image(tmp_path.as_uri())
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read: No such file or directory"):
        read_image(str(tmp_path / "gone.png"))


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://example.com/a.png", "refused: http is not safe"), ("ftp://a/b.png", "refused: expected https://, file://"),
     ("file://elsewhere/a.png", "a file on another machine"), ("https://[", "Invalid IPv6 URL"),
     ("https://example.com/a.png", "tests are offline")],
)  # fmt: skip
def test_urls_that_are_refused(url, message):
    with pytest.raises(ImageError) as caught:
        read_image(url, patience=IMPATIENT)
    assert str(caught.value).startswith(f"{url}: ")
    assert str(caught.value).count(url) == 1
    assert message in str(caught.value)


def test_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.png"
        with pytest.raises(ImageError, match=r": Failed to establish a new connection: .*refused$") as caught:
            read_image(url, patience=IMPATIENT)
    assert "HTTPConnection" not in str(caught.value)


def test_what_a_server_does_wrong(png, site):
    with pytest.raises(ImageError, match=f"^{site.url}/absent.png: HTTP status 404 NOT FOUND$"):
        read_image(f"{site.url}/absent.png")
    site.files["a.png"] = png.read_bytes()
    site.faults = [site.broken(after=100)]
    with pytest.raises(ImageError, match="100 bytes read"):
        read_image(f"{site.url}/a.png")
    assert read_image(f"{site.url}/a.png").size == (40, 33)


@pytest.mark.parametrize("stated", [True, False])
def test_no_endless_download(site, monkeypatch, stated):
    site.files["a.png"] = bytes(2**20 + 1)
    monkeypatch.setattr("resnext.images.MAX_IMAGE_FILE", 2**20)
    if not stated:
        site.faults = [answer([bytes(2**20 + 1)])]
    with pytest.raises(ImageError, match="expected an image of at most 1 MiB, the server has more"):
        read_image(f"{site.url}/a.png")
    assert MAX_IMAGE_FILE == 64 * 2**20


def test_offline_and_without_requests(site, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("RESNEXT_OFFLINE", "1")
        with pytest.raises(ImageError, match=r"a.png: RESNEXT_OFFLINE=1 forbids downloads"):
            read_image(f"{site.url}/a.png")
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(ImageError, match=r"a.png: downloading needs requests: pip install requests"):
        read_image(f"{site.url}/a.png")
    assert site.asked == []
