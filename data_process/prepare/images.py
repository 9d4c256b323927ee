"""Places a source's images in a prepared folder: linked or copied, never re-encoded."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_process.errors import naming
from data_process.images.opening import ImageError, opened
from data_process.sources.base import SourceImage

Fault = Literal["missing", "empty", "unreadable"]  # why an image cannot be placed

FOLDER = "images"


@dataclass(frozen=True)
class PlacedImage:
    """An image file in the prepared folder."""

    relative: str  # to the data folder
    digest: str  # of the file's bytes
    width: int  # pixels, as the file's header says
    height: int
    size: int  # bytes


@dataclass
class ImagePlacer:
    """Places images under `root/images`. Different contents of the same name get different names."""

    root: Path
    link: bool = False  # hard links where the file system allows it
    below: str = ""  # sub-folder of `images/`
    counts: Counter[str] = field(default_factory=Counter)  # linked, copied, written, renamed
    _names: dict[str, str] = field(default_factory=dict)  # relative name, lower case -> digest
    _placed: dict[str, PlacedImage] = field(default_factory=dict)  # relative name -> what lies there

    def place(self, image: SourceImage) -> PlacedImage | Fault:
        """Puts the image's file into the folder; returns where it is, or why it cannot be placed."""
        source = None
        if image.data is None:
            source = next((path for path in image.candidates if path.is_file()), None)
            if source is None:
                return "missing"
        data = image.data if source is None else source.read_bytes()
        if not data:
            return "empty"
        size = _pixels(data)
        if size is None:
            return "unreadable"
        digest = hashlib.sha256(data).hexdigest()
        relative = "/".join(part for part in (FOLDER, self.below, image.name) if part)
        # Lower case, because some file systems do not tell Fig.png from fig.png.
        if self._names.setdefault(relative.lower(), digest) != digest:
            stem, dot, suffix = relative.rpartition(".")
            relative = f"{stem}-{digest[:8]}{dot}{suffix}"
            self._names[relative.lower()] = digest
            self.counts["renamed"] += relative not in self._placed
        if relative not in self._placed:
            with naming(self.root / relative):
                self._write(relative, source, data)
            self._placed[relative] = PlacedImage(relative, digest, *size, len(data))
        return self._placed[relative]

    def _write(self, relative: str, source: Path | None, data: bytes) -> None:
        target = self.root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if source is None:
            target.write_bytes(data)
            self.counts["written"] += 1
            return
        if self.link:
            with contextlib.suppress(OSError):  # another file system, or one without links
                os.link(source.resolve(), target)
                self.counts["linked"] += 1
                return
        shutil.copyfile(source, target)
        self.counts["copied"] += 1


def _pixels(data: bytes) -> tuple[int, int] | None:
    """(width, height) from the file's header; None if it is not an image."""
    try:
        return opened("image", data).size
    except ImageError:
        return None
