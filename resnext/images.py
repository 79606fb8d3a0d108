"""Images: which files are images, where they lie, and how one is read. Needs Pillow; URLs need requests."""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from resnext.weights.download import (
    DEFAULT_PATIENCE,
    DownloadError,
    Patience,
    check_url,
    content_length,
    is_url,
    local_path,
    open_url,
)
from resnext.weights.files import foreign

if TYPE_CHECKING:
    from PIL.Image import Image

# Files with these names are images. torchvision's ImageFolder has all of them except the first and the third.
EXTENSIONS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_IMAGE_FILE = 64 * 2**20  # bytes of one image from a server or an archive; photographs have a few million
_CHUNK = 2**16
_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


class ImageError(ValueError):
    """An image that cannot be used: which one (`source`), and what is wrong with it (`problem`)."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(source, problem)
        self.source, self.problem = source, problem

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


def walk_images(folder: str | os.PathLike[str], unreadable: Callable[[OSError], object]) -> Iterator[Path]:
    """The image files in a folder and its subfolders, in the order of torchvision's ImageFolder.

    Hidden files and folders are left out. Links are followed, but no folder is entered twice, nor any above `folder`.
    `unreadable` is called with the error of each folder that cannot be read. FIFOs, sockets and devices are listed too;
    `open_file` refuses them.
    """
    above = [*Path(os.path.abspath(folder)).parents, *Path(os.path.realpath(folder)).parents]
    entered = {os.path.realpath(parent) for parent in above}
    found = []
    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        if (real := os.path.realpath(root)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.append((root, [name for name in files if name.lower().endswith(EXTENSIONS) and name[0] != "."]))
    for root, files in sorted(found):
        yield from (Path(root, name) for name in sorted(files))


def find_images(arguments: Sequence[str]) -> list[str | ImageError]:
    """The images that the arguments name, in their order, with an error in place of whatever is missing.

    A folder stands for all image files in it and its subfolders. A file that is named may have any extension. Anything
    with `://` in it is a URL, which `read_image` fetches.
    """
    found: list[str | ImageError] = []

    def unreadable(error: OSError) -> None:
        found.append(ImageError(str(error.filename), f"cannot be read: {error.strerror}"))

    for argument in arguments:
        if os.path.isdir(argument):
            inside = list(map(str, walk_images(argument, unreadable)))
            found += inside or [ImageError(argument, f"no image files inside ({', '.join(EXTENSIONS)})")]
        elif is_url(argument) or os.path.exists(argument):
            found.append(argument)
        else:
            found.append(ImageError(argument, "no such file or folder"))
    return found


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened for reading. Raises OSError.

    Raises ValueError for a FIFO, a socket or a device, without opening it, because that can block for ever.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise ValueError(f"expected a regular file, got a {_KINDS.get(stat.S_IFMT(mode), 'special file')}")
    return open(path, "rb")


def decode(file: BinaryIO) -> Image:
    """The image in an open file; of several frames the first.

    Raises ValueError that says what is wrong with it, and MemoryError.
    """
    from PIL import Image, UnidentifiedImageError

    head = file.read(256)
    if looks := foreign(head) or ("an empty file" if not head else None):
        raise ValueError(f"expected an image, got {looks}")
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF data; sizes that Pillow finds suspicious but reads
        try:
            image = Image.open(file)
            image.load()
        except UnidentifiedImageError:
            raise ValueError("expected an image that Pillow reads (JPEG, PNG, …), got something else") from None
        except MemoryError:
            raise
        except Exception as error:  # damaged images raise errors of many kinds
            raise ValueError(f"cannot be read: {error or type(error).__name__}") from None
    return image


def reason(error: BaseException) -> str:
    """An error as one line that names no path: the same words for the same error on every machine."""
    if isinstance(error, MemoryError):
        return "too large for this machine's memory"
    text = f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)


def read_image(source: str, *, patience: Patience = DEFAULT_PATIENCE) -> Image:
    """The image in a file or behind a URL, decoded. Raises ImageError."""
    try:
        with _open(source, patience) as file:
            return decode(file)
    except DownloadError as error:
        raise ImageError(source, str(error).replace(f"refused {source}: ", "refused: ")) from None
    except (ValueError, OSError, MemoryError) as error:
        raise ImageError(source, reason(error)) from None


def _open(source: str, patience: Patience) -> BinaryIO:
    if is_url(source):
        check_url(source)
    path = local_path(source)
    return open_file(path) if path else io.BytesIO(_fetch(source, patience))


def _fetch(url: str, patience: Patience) -> bytes:
    with open_url(url, patience) as response:
        announced = content_length(response) or 0
        body = bytearray()
        for chunk in response.iter_content(_CHUNK):
            body += chunk
            if max(len(body), announced) > MAX_IMAGE_FILE:
                raise DownloadError(f"expected an image of at most {MAX_IMAGE_FILE >> 20} MiB, the server has more")
        return bytes(body)
