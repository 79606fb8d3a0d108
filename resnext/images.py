"""Images as a command line names them: files, folders of files, and URLs. Needs Pillow, and requests for URLs."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from resnext.checkpoint import foreign
from resnext.transport import PATIENCE, DownloadError, Patience, check_url, open_session, reason

if TYPE_CHECKING:
    from PIL.Image import Image

# what is taken for an image inside a folder; a file that is named itself may be called anything
EXTENSIONS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_DOWNLOAD = 64 * 2**20  # bytes; photographs have a few million
_CHUNK = 2**16


class ImageError(ValueError):
    """An image that cannot be had. Says which, what was expected and what came."""


def find_images(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images that the arguments name, in their order, and what is wrong with the other arguments.

    A folder stands for all image files inside, however deep, sorted; hidden ones are left out, links are followed. What
    has `://` in it is taken for a URL, and not looked at yet.
    """
    images: list[str] = []
    problems: list[str] = []
    for argument in arguments:
        if os.path.isdir(argument):
            inside = sorted(_files_inside(Path(argument), problems))
            images += map(str, inside)
            if not inside:
                problems.append(f"{argument}: no image files inside ({', '.join(EXTENSIONS)})")
        elif is_url(argument) or os.path.exists(argument):
            images.append(argument)
        else:
            problems.append(f"{argument}: no such file or folder")
    return images, problems


def is_url(source: str) -> bool:
    """Whether a source is taken for a URL."""
    return "://" in source


def local_path(source: str) -> Path | None:
    """The file that a source names; None for one on a server."""
    if not is_url(source):
        return Path(source)
    parts = urlsplit(source)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _files_inside(folder: Path, problems: list[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    entered: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        if (real := os.path.realpath(root)) in entered:  # a link back
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield Path(root, name)


def read_image(source: str, *, patience: Patience = PATIENCE) -> Image:
    """The image in a file or behind a URL, decoded. Of several frames the first.

    Raises ImageError that names the source and what is wrong with it.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _open(source, patience) as file:
            head = file.read(256)
            if looks := foreign(head) or ("an empty file" if not head else None):
                raise ImageError(f"expected an image, got {looks}")
            file.seek(0)
            image = Image.open(file)
            image.load()
        return image
    except (ImageError, DownloadError) as error:
        raise ImageError(f"{source}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{source}: expected an image that Pillow reads (JPEG, PNG, …), got something else") from None
    except MemoryError:
        raise ImageError(f"{source}: too large for this machine's memory") from None
    except Exception as error:  # a damaged image raises whatever it likes
        detail = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{source}: cannot be read: {detail}") from None


def _open(source: str, patience: Patience) -> BinaryIO:
    if is_url(source):
        check_url(source)
    path = local_path(source)
    return path.open("rb") if path else io.BytesIO(_fetch(source, patience))


def _fetch(url: str, patience: Patience) -> bytes:
    if os.environ.get("RESNEXT_OFFLINE") == "1":
        raise DownloadError("RESNEXT_OFFLINE=1 forbids to download")
    try:
        import requests
    except ImportError:
        raise DownloadError("downloading needs requests: pip install requests") from None
    try:
        with (
            open_session(patience) as session,
            session.get(url, stream=True, timeout=patience.timeout) as response,
        ):
            if response.status_code != 200:
                raise DownloadError(f"HTTP status {response.status_code} {response.reason}")
            length = response.headers.get("Content-Length", "")
            body = bytearray()
            for chunk in response.iter_content(_CHUNK):
                body += chunk
                if len(body) > MAX_DOWNLOAD or (length.isdigit() and int(length) > MAX_DOWNLOAD):
                    raise DownloadError(f"expected an image of at most {MAX_DOWNLOAD >> 20} MiB, the server has more")
            return bytes(body)
    except requests.RequestException as error:
        raise DownloadError(reason(error)) from None
