"""Images for a page: any format, turned as their EXIF says, small, each one once."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data_process.images.opening import ImageError, decoded
from data_process.images.store import to_rgb
from selftrain.report.browser.pages import Limits

if TYPE_CHECKING:
    from PIL import Image

SIDE = 512  # pixels of the longer side at most
FEW_COLOURS = 256  # up to here an image is a drawing, which lossless coding keeps sharp and small
QUALITY = 70  # of WebP, for photos: about 30 kB


@dataclass(frozen=True)
class PageImage:
    """One image as a page holds it."""

    mime: str
    base64: str


@dataclass
class Images:
    """The images of a page by number. Equal files share one."""

    limits: Limits
    found: list[PageImage] = field(default_factory=list)
    left_out: int = 0  # images that there was no room for
    unreadable: list[str] = field(default_factory=list)  # why, for each
    _size: int = 0
    _by_path: dict[Path, int | str] = field(default_factory=dict)
    _by_content: dict[str, int] = field(default_factory=dict)

    def add(self, path: Path) -> int | str:
        """The number of an image file in the page, or why it is not there."""
        if path not in self._by_path:
            self._by_path[path] = self._added(path)
        return self._by_path[path]

    def _added(self, path: Path) -> int | str:
        if len(self.found) >= self.limits.images or self._size >= self.limits.image_bytes:
            self.left_out += 1
            return "The report had no room for this image."
        try:
            raw = path.read_bytes()
        except OSError as error:
            return self._failed(f"The image is not there any more ({error.strerror or error}).")
        digest = hashlib.sha256(raw).hexdigest()
        if digest not in self._by_content:
            try:
                made = _small(path, raw)
            except ImageError as error:
                return self._failed(f"The image cannot be shown ({error.reason.replace('_', ' ')}).")
            self._by_content[digest] = len(self.found)
            self._size += len(made.base64)
            self.found.append(made)
        return self._by_content[digest]

    def _failed(self, why: str) -> str:
        self.unreadable.append(why)
        return why


def _small(path: Path, raw: bytes) -> PageImage:
    """An image file, re-encoded: metadata, and whatever else a file may carry, stay behind. Raises ImageError."""
    image = decoded(path, raw, _within, draft=SIDE)
    buffer = io.BytesIO()
    if image.getcolors(FEW_COLOURS) is None:
        image.save(buffer, "WEBP", quality=QUALITY, method=2)
        return PageImage("image/webp", base64.b64encode(buffer.getvalue()).decode())
    image.save(buffer, "PNG")
    return PageImage("image/png", base64.b64encode(buffer.getvalue()).decode())


def _within(image: Image.Image) -> Image.Image:
    """In RGB, at most SIDE pixels wide and high."""
    image = to_rgb(image)
    image.thumbnail((SIDE, SIDE))
    return image
