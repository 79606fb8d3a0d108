"""Images as a command line names them: files, folders of files, and URLs. Needs Pillow, and requests for URLs."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from resnext.weights.files import foreign
from resnext.weights.transport import PATIENCE, DownloadError, Patience, check_url, open_session, reason

if TYPE_CHECKING:
    from PIL.Image import Image

# what is taken for an image inside a folder; a file that is named itself may be called anything
EXTENSIONS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_DOWNLOAD = 64 * 2**20  # bytes; photographs have a few million
_CHUNK = 2**16
# how urllib3 begins what it says of a connection, in all its versions
_CONNECTION = re.compile(r"<?[\w.]*HTTPS?Connection(Pool)?(\([^)]*\)| object)( at \w+)?>?[:,] ?")


class ImageError(ValueError):
    """An image that cannot be had: which (`source`), and what was expected and what came (`problem`)."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(source, problem)
        self.source, self.problem = source, problem

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


def find_images(arguments: Sequence[str]) -> list[str | ImageError]:
    """The images that the arguments name, in their order; an error in the place of what is none.

    A folder stands for all image files inside, however deep, sorted; hidden ones are left out, links are followed. What
    has `://` in it is taken for a URL, and not looked at yet.
    """
    found: list[str | ImageError] = []
    for argument in arguments:
        if os.path.isdir(argument):
            inside = sorted(_files_inside(Path(argument), found))
            found += map(str, inside)
            if not inside:
                found.append(ImageError(argument, f"no image files inside ({', '.join(EXTENSIONS)})"))
        elif is_url(argument) or os.path.exists(argument):
            found.append(argument)
        else:
            found.append(ImageError(argument, "no such file or folder"))
    return found


def is_url(source: str) -> bool:
    """Whether a source is taken for a URL."""
    return "://" in source


def local_path(source: str) -> Path | None:
    """The file that a source names; None for one on a server."""
    if not is_url(source):
        return Path(source)
    parts = urlsplit(source)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _files_inside(folder: Path, problems: list[str | ImageError]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        problems.append(ImageError(str(error.filename), f"cannot be read: {error.strerror}"))

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
        with _open(source, patience) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF data, and of sizes that Pillow finds suspicious but reads
            head = file.read(256)
            if looks := foreign(head) or ("an empty file" if not head else None):
                raise ImageError(source, f"expected an image, got {looks}")
            file.seek(0)
            image = Image.open(file)
            image.load()
        return image
    except ImageError:
        raise
    except DownloadError as error:
        raise ImageError(source, str(error).replace(f"refused {source}: ", "refused: ")) from None
    except UnidentifiedImageError:
        raise ImageError(source, "expected an image that Pillow reads (JPEG, PNG, …), got something else") from None
    except MemoryError:
        raise ImageError(source, "too large for this machine's memory") from None
    except Exception as error:  # a damaged image raises whatever it likes
        detail = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ImageError(source, f"cannot be read: {detail}") from None


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
        raise DownloadError(_without_connection(reason(error))) from None


def _without_connection(text: str) -> str:
    """What urllib3 says of a connection, without naming its classes and their addresses in memory."""
    text = _CONNECTION.sub("", text)
    return text[2:-2] if text.startswith("('") else text  # some of its errors are pairs: connection, text
