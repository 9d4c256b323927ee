"""The image store: converts each image once to a canonical form, which every stage reads.

Two programs that agree on pixel limits still resize differently: LLaMA-Factory scales to the limit first, and the
processor rounds to whole patches afterwards. Both leave an image alone if its size is within the limits and a fixed
point of the processor's rule, so sampling, training and evaluation see the same pixels and tokens.
Pixel limits are applied nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from data_process.errors import naming
from data_process.images.opening import MAX_MEMORY, ImageError, Reason, by_strips, decoded, resized
from data_process.schema import Problem

if TYPE_CHECKING:
    from PIL import Image

MAX_ASPECT = 200  # longer side to shorter; Qwen2-VL's processor refuses more
MAX_ROUNDS = 32  # of smart_resize; 200,000 random sizes needed 4 at most, so only a fault reaches this

INDEX = "index.jsonl"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class StoredImage:
    """One canonical image."""

    id: str  # content id: the same pixels, size and limits give the same id
    path: Path
    width: int  # pixels, a multiple of the patch
    height: int
    n_tokens: int  # of the image in the prompt, without the start and end marks


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) to which Qwen2-VL's processor resizes an image: whole patches, pixels within the limits.

    The formula is that of `smart_resize` in transformers' models/qwen2_vl/image_processing_qwen2_vl.py (5.6.0). Tests
    compare it with that one and with `qwen_vl_utils`. ValueError for an aspect ratio above 200.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"aspect ratio of {width} x {height} is above {MAX_ASPECT}")
    sides = (height, width)
    rounded = [factor * round(side / factor) for side in sides]  # half to even, as in transformers
    if math.prod(rounded) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rounded = [max(factor, factor * math.floor(side / shrink / factor)) for side in sides]
    elif math.prod(rounded) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rounded = [factor * math.ceil(side * grow / factor) for side in sides]
    return rounded[0], rounded[1]


def canonical_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) that `smart_resize` maps to itself, reached by repeating it. ValueError if there is none."""
    size = (height, width)
    for _ in range(MAX_ROUNDS):
        following = smart_resize(*size, factor, min_pixels, max_pixels)
        if following == size:
            if not min_pixels <= math.prod(size) <= max_pixels:
                raise ValueError(f"{width} x {height} does not fit {min_pixels} to {max_pixels} pixels")
            return size
        size = following
    raise ValueError(f"{width} x {height} has no stable size within {min_pixels} to {max_pixels} pixels")


def png_size(path: Path) -> tuple[int, int]:
    """(width, height) from a PNG's header, without Pillow. OSError if it cannot be read or is not a PNG."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(_PNG_SIGNATURE):
        raise OSError(f"{path} is not a PNG file")
    return struct.unpack(">II", head[16:24])


def decode(source: Path, raw: bytes) -> Image.Image:
    """An image file's bytes as RGB: rotated as its EXIF says, transparency on white, deep grey scaled to 8 bits.

    An animation gives its first frame. Raises ImageError, which names `source`.
    """
    return decoded(source, raw, to_rgb)


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image of any mode as RGB. ImageError("unsupported") if the range of its grey values is ambiguous."""
    if image.mode.startswith(("I", "F")):
        low, high = cast("tuple[float, float]", image.getextrema())  # these modes have one band
        if image.mode.startswith("I") and low >= 0 and high <= 65535:
            # Mode "I" does not say the depth: values that fit 8 bits are read as 8 bits, except in 16-bit files.
            scale = 1 / 257 if high > 255 or image.mode != "I" else 1.0  # 65535 / 257 is 255
        elif image.mode == "F" and low >= 0 and high <= 255:
            scale = 255.0 if high <= 1 else 1.0
        else:
            what = f"the scale of grey values from {low} to {high} is ambiguous; convert it to PNG"
            raise ImageError("unsupported", what)
        # In float, because Pillow clips deep grey where it should scale it.
        return by_strips(
            image, lambda part: part.convert("F").point(lambda value: value * scale + 0.5).convert("L").convert("RGB")
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return by_strips(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


class ImageStore:
    """Canonical images under `root`, made from the images under `data_root`. One process may write at a time."""

    def __init__(self, root: Path, data_root: Path, *, min_pixels: int, max_pixels: int, patch: int = 28) -> None:
        """`patch`: side in pixels of the square that becomes one token (14-pixel patches merged 2 x 2)."""
        if patch < 1 or not 1 <= min_pixels <= max_pixels:
            raise ValueError(f"need 1 <= min_pixels <= max_pixels and patch >= 1: {min_pixels}, {max_pixels}, {patch}")
        if max_pixels < patch * patch:
            raise ValueError(f"max_pixels {max_pixels} is less than one patch of {patch} x {patch}")
        self.root, self.data_root = root, data_root
        self.min_pixels, self.max_pixels, self.patch = min_pixels, max_pixels, patch
        root.mkdir(parents=True, exist_ok=True)
        self._index = self._read_index()

    @property
    def limits(self) -> tuple[int, int]:
        """(min, max) pixels."""
        return self.min_pixels, self.max_pixels

    def path(self, relative: str) -> Path:
        """The canonical file of an image, made if there is none yet."""
        return self.add(relative).path

    def add(self, relative: str) -> StoredImage:
        """The canonical form of `data_root/relative`, made if there is none yet. Raises ImageError."""
        key = [relative, self.min_pixels, self.max_pixels, self.patch]
        entry = self._index.get(json.dumps(key))
        if entry and (stored := self._unchanged(relative, entry)):
            return stored
        source = self._locate(relative)
        stat = source.stat()
        if stat.st_size > MAX_MEMORY:
            raise ImageError("too_large", f"{source} has {stat.st_size:,} bytes; scale it down before adding it")
        try:
            raw = source.read_bytes()
        except OSError as error:
            raise ImageError("missing", f"{source} cannot be read ({error}); check its permissions") from error
        digest = hashlib.sha256(raw).hexdigest()
        if not (entry and entry["sha256"] == digest and self._stored(entry).path.is_file()):
            entry = self._make(source, raw)
        entry = {**entry, "key": key, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
        self._remember(entry)
        return self._stored(entry)

    def _unchanged(self, relative: str, entry: dict[str, Any]) -> StoredImage | None:
        """The stored form of an image, if its file has not changed since it was made and the stored file is there."""
        try:
            stat = os.stat(os.path.join(self.data_root, relative))
        except OSError:  # `_locate` says what is wrong
            return None
        if (stat.st_size, stat.st_mtime_ns) != (entry["size"], entry["mtime_ns"]):
            return None
        stored = self._stored(entry)
        return stored if os.path.isfile(stored.path) else None

    def check(self, problems: Iterable[Problem]) -> tuple[list[Problem], Counter[str], list[tuple[str, Reason]]]:
        """Add all images. Returns usable problems, reason -> count, and (problem id, reason) of the rest."""
        usable: list[Problem] = []
        failed: list[tuple[str, Reason]] = []
        for problem in problems:
            try:
                for image in problem.images:
                    self.add(image)
                usable.append(problem)
            except ImageError as error:
                failed.append((problem.id, error.reason))
        return usable, Counter(reason for _, reason in failed), failed

    def _locate(self, relative: str) -> Path:
        """The real path of an image, links followed. ImageError unless it is a file inside the data folder."""
        base = self.data_root.resolve()
        name = repr(relative[:200])
        try:
            source = (base / relative).resolve()
            inside = source.is_relative_to(base) and ".." not in Path(relative).parts
            if not inside or Path(relative).is_absolute():
                raise ImageError("outside", f"{name} leads out of the data folder {base}; give a path relative to it")
            if source.is_dir():
                raise ImageError("unsupported", f"{source} is a folder, not an image; correct the data file")
            if not source.is_file():
                raise ImageError("missing", f"{source} does not exist; restore it, or drop the problems that need it")
            if source.stat().st_size == 0:
                raise ImageError("empty", f"{source} has zero bytes; fetch it again")
        except ImageError:
            raise
        except (ValueError, OSError, RuntimeError) as error:  # a null byte, a name too long, a loop of links
            raise ImageError("missing", f"{name} is not a usable path; correct the data file") from error
        return source

    def _make(self, source: Path, raw: bytes) -> dict[str, Any]:
        """Decode, resize and save one image; returns the part of its index entry that depends on its pixels."""
        image = decode(source, raw)
        try:
            height, width = canonical_size(image.height, image.width, self.patch, *self.limits)
        except ValueError as error:
            advice = "crop it, or widen the image store's pixel limits"
            raise ImageError("too_extreme", f"{source}: {error}; {advice}") from error
        if (width, height) != image.size:
            image = resized(image, width, height)
        content = hashlib.sha256(image.tobytes())
        content.update(json.dumps([width, height, self.min_pixels, self.max_pixels, self.patch]).encode())
        entry = {"id": content.hexdigest(), "width": width, "height": height}
        path = self._stored(entry).path
        if not path.is_file():
            partial = path.with_suffix(f".{os.getpid()}.partial")
            try:
                with naming(path):
                    image.save(partial, format="PNG")
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return entry

    def _stored(self, entry: dict[str, Any]) -> StoredImage:
        width, height = entry["width"], entry["height"]
        tokens = (width // self.patch) * (height // self.patch)
        return StoredImage(entry["id"], self.root / f"{entry['id']}.png", width, height, tokens)

    def _read_index(self) -> dict[str, dict[str, Any]]:
        """The latest entry of each key. Lines that a crash left incomplete are skipped; their images are made again."""
        index = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self.root / INDEX).read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self._stored(entry)
                    entry["size"], entry["mtime_ns"], entry["sha256"]
                    index[json.dumps(entry["key"])] = entry
        return index

    def _remember(self, entry: dict[str, Any]) -> None:
        self._index[json.dumps(entry["key"])] = entry
        # A leading newline ends a line that a crash left incomplete; empty lines are skipped.
        with naming(self.root / INDEX), (self.root / INDEX).open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(entry) + "\n")
