"""Finds images of two sets that show the same: perceptual hashes propose pairs, the whole images decide.

1. Equal bytes, or equal pixels, are the same image.
2. Pairs within a Hamming radius of their phash or dhash (64 bits each), whose 48 x 48 grey thumbnails agree in every
   block, are proposed. Each image has two views for this: all of it, and what stands on its background, so that margins
   do not matter. Tables, charts and line drawings of one template are proposed with each other.
3. `full_image` compares a proposed pair as a whole, in colour and position, and decides. Both files are read again.

A blank or nearly blank image says nothing and is never compared. Rotated and mirrored images are not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from data_process.decontamination.full_image import same_image
from data_process.images.opening import ImageError, by_strips, decoded
from data_process.schema import DataError

if TYPE_CHECKING:
    import imagehash
    import numpy as np
    from PIL import Image

How = Literal["bytes", "pixels", "near"]
HOW: tuple[How, ...] = get_args(How)  # from equal files to like images
IncomparableReason = Literal["no_folder", "missing", "torn", "too_large", "blank"]

WORKING_SIDE = 768  # pixels; a larger image is reduced at once, so that one decoded image is held at a time
PLAIN_BORDER = 0.9  # share of the outermost pixels that have one colour, which makes it a drawing to be cut out
PLAIN = 16  # grey levels of that colour's noise
INK = 64  # grey levels from the background, of 255: above JPEG's ringing, below any drawn line
BLANK = 12  # grey levels between the darkest and lightest part of an image that says nothing
# Bits of 64. Of tables, charts, scenes and MiniGeo images, re-encoded, resized to 50-200%, cropped by 2-4% and made 10%
# darker or lighter, `benchmarks/leakage.py` finds all; tables cropped by 4% need the most, 11 bits of a dhash.
PHASH_RADIUS = 12
DHASH_RADIUS = 12
ASPECT = 0.12  # relative difference of width / height at most, after the margins are cut
SIDE, BLOCK, SHIFT = 48, 8, 1  # pixels
# Mean difference in a block, in standard deviations of the image; pale areas of copies made 10% lighter need 0.85.
WORST_BLOCK = 0.9
CHUNK = 256  # pairs compared at a time


@dataclass(frozen=True, eq=False)
class View:
    """What is kept of an image, or of its part with ink, for proposals."""

    phash: int  # 64 bits
    dhash: int
    aspect: float  # width / height
    thumb: np.ndarray  # SIDE x SIDE, float16, mean 0 and standard deviation 1

    @cached_property
    def sums(self) -> np.ndarray:
        """Sums of `thumb` over the blocks of `_worst_block` for each of their shifts: float32 [shifts, blocks]."""
        import numpy as np

        padded = np.pad(self.thumb.astype(np.float32), SHIFT, mode="edge")
        corner = np.pad(padded.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
        start = np.arange(0, SIDE - BLOCK + 1, BLOCK // 2)
        sums = []
        for down in range(2 * SHIFT + 1):
            for right in range(2 * SHIFT + 1):
                rows, columns = (start + down)[:, None], start + right
                low = corner[rows + BLOCK, columns + BLOCK] - corner[rows, columns + BLOCK]
                sums.append((low - corner[rows + BLOCK, columns] + corner[rows, columns]).ravel())
        return np.array(sums, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of an image file for comparisons."""

    path: Path
    digest: str  # of the file
    pixels: str  # of the image in colour at working size
    views: tuple[View, View]  # of the part with ink, of the whole


@dataclass(frozen=True)
class ImageMatch:
    """The positions of two equal images; `score` is in (0, 1], 1 for equal bytes or pixels."""

    train: int
    test: int
    how: How
    score: float


def _decode(raw: bytes) -> Image.Image | IncomparableReason:
    """The image in RGB on white, at most WORKING_SIDE pixels a side, or why it cannot be compared."""
    try:
        image = decoded("image", raw, _rgb, draft=WORKING_SIDE)
    except ImageError as error:
        return "too_large" if error.reason == "too_large" else "torn"
    image.thumbnail((WORKING_SIDE, WORKING_SIDE))
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more, which convert("L") would clip
        highest = cast("tuple[float, float]", image.getextrema())[1]
        scale = 257 if highest > 255 else 1  # 65535 / 257 is 255
        return by_strips(image, lambda part: _grey(part, scale))
    if image.has_transparency_data:
        return by_strips(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image, scale: int) -> Image.Image:
    import numpy as np
    from PIL import Image

    levels = np.asarray(image).astype(np.float64) / scale
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def _trim(image: Image.Image) -> Image.Image:
    """The part with ink on it if the image has a plain border; otherwise all of it (a photo, or a faint drawing)."""
    import numpy as np

    grey = np.asarray(image).astype(np.int16)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ground = np.bincount(border).argmax()
    if np.count_nonzero(np.abs(border - ground) <= PLAIN) < PLAIN_BORDER * len(border):
        return image
    ink = np.abs(grey - ground) > INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        return image
    return image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def fingerprint(path: Path) -> Fingerprint | IncomparableReason:
    """The fingerprint of an image file, or why it has none. A missing or damaged file does not raise."""
    import numpy as np

    try:
        raw = path.read_bytes()
    except OSError:
        return "missing"
    image = _decode(raw)
    if isinstance(image, str):
        return image
    whole = image.convert("L")
    part = _trim(whole)
    small = _thumb(part)
    # A single square fills the part with ink; a thin line vanishes in a small copy of the whole.
    if np.ptp(small) < BLANK and np.ptp(_thumb(image), (0, 1)).max() < BLANK:
        return "blank"
    return Fingerprint(
        path=path,
        digest=hashlib.sha256(raw).hexdigest(),
        pixels=hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest(),
        views=(_view(part, small), _view(whole, small if part is whole else _thumb(whole))),
    )


def _view(grey: Image.Image, thumb: np.ndarray) -> View:
    import imagehash
    import numpy as np

    thumb = (thumb - thumb.mean()) / max(float(thumb.std()), 1.0)
    aspect = grey.width / grey.height
    return View(_bits(imagehash.phash(grey)), _bits(imagehash.dhash(grey)), aspect, thumb.astype(np.float16))


def _thumb(image: Image.Image) -> np.ndarray:
    import numpy as np
    from PIL import Image, ImageFilter

    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1))
    return np.asarray(small, dtype=np.float32)


def _bits(value: imagehash.ImageHash) -> int:
    import numpy as np

    return int.from_bytes(np.packbits(value.hash).tobytes())


def match_images(train: Sequence[Fingerprint], test: Sequence[Fingerprint]) -> list[ImageMatch]:
    """The pairs that show the same, sorted by (test, train) positions; each pair once, by its best evidence."""
    return [m for m in propose_images(train, test) if m.how != "near" or confirmed(train[m.train], test[m.test])]


def confirmed(train: Fingerprint, test: Fingerprint) -> bool:
    """Whether the two whole images show the same. DataError if a file changed since its fingerprint was taken."""
    return same_image(_whole(train.path, train.digest), _whole(test.path, test.digest))


@lru_cache(maxsize=32)
def _whole(path: Path, digest: str) -> Image.Image:
    raw = path.read_bytes() if path.is_file() else b""
    image = _decode(raw)
    if isinstance(image, str) or hashlib.sha256(raw).hexdigest() != digest:
        raise DataError(f"{path} changed while the images were compared; start again when its files are complete")
    return image


def propose_images(train: Sequence[Fingerprint], test: Sequence[Fingerprint]) -> list[ImageMatch]:
    """The pairs that are the same or may be: those that are only `near` need to be `confirmed`. Sorted as above."""
    import numpy as np

    if not train or not test:
        return []
    exact: dict[str, list[int]] = {}
    for position, print_ in enumerate(train):
        exact.setdefault(print_.pixels, []).append(position)
    matches = {}
    for position, print_ in enumerate(test):
        for other in exact.get(print_.pixels, ()):
            how: How = "bytes" if train[other].digest == print_.digest else "pixels"
            matches[position, other] = ImageMatch(other, position, how, 1.0)
    for view in (0, 1):
        ours, theirs = ([print_.views[view] for print_ in prints] for prints in (train, test))
        pairs = [pair for pair in _candidates(ours, theirs) if pair not in matches]
        pairs = _may_agree(pairs, ours, theirs)
        for start in range(0, len(pairs), CHUNK):
            chunk = pairs[start : start + CHUNK]
            a = np.stack([theirs[i].thumb for i, _ in chunk]).astype(np.float32)
            b = np.stack([ours[j].thumb for _, j in chunk]).astype(np.float32)
            worst = np.maximum(_worst_block(a, b), _worst_block(b, a))
            for (i, j), value in zip(chunk, worst.tolist(), strict=True):
                if value <= WORST_BLOCK:
                    matches[i, j] = ImageMatch(j, i, "near", round(1 - value / 2, 4))
    return [matches[pair] for pair in sorted(matches)]


def _candidates(train: Sequence[View], test: Sequence[View]) -> list[tuple[int, int]]:
    """(test, train) positions within the radius of either hash and similar in aspect; compares every pair."""
    import numpy as np

    def columns(views: Sequence[View]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        phash, dhash = (
            np.array(bits, dtype=np.uint64) for bits in zip(*((v.phash, v.dhash) for v in views), strict=True)
        )
        return phash, dhash, np.log([view.aspect for view in views])

    phash, dhash, aspect = columns(train)
    pairs: list[tuple[int, int]] = []
    for position, (p, d, shape) in enumerate(zip(*columns(test), strict=True)):
        near = (np.bitwise_count(phash ^ p) <= PHASH_RADIUS) | (np.bitwise_count(dhash ^ d) <= DHASH_RADIUS)
        near &= np.abs(aspect - shape) <= ASPECT
        pairs.extend((position, int(other)) for other in np.flatnonzero(near))
    return pairs


def _may_agree(pairs: Sequence[tuple[int, int]], train: Sequence[View], test: Sequence[View]) -> list[tuple[int, int]]:
    """The (test, train) pairs without those that have a block that differs too much in its mean.

    A block's mean of differences is at least the difference of its means, so this drops only what `_worst_block` would.
    """
    import numpy as np

    limit = (WORST_BLOCK + 0.01) * BLOCK**2  # more than rounding adds
    sums = [np.stack([view.sums for view in views]) for views in (train, test)]  # [images, shifts, blocks]
    unmoved = sums[0].shape[1] // 2
    kept: list[tuple[int, int]] = []
    for start in range(0, len(pairs), CHUNK):
        chunk = np.array(pairs[start : start + CHUNK])
        for one, other in ((1, 0), (0, 1)):
            a, b = sums[one][chunk[:, 1 - one], unmoved, None], sums[other][chunk[:, 1 - other]]
            chunk = chunk[np.abs(a - b).min(1).max(1) <= limit]
        kept += [(i, j) for i, j in chunk.tolist()]
    return kept


def _worst_block(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Per pair of n x SIDE x SIDE thumbs, the block of `a` that is found worst in `b`: its mean absolute difference.

    Blocks overlap by half; each may be found up to SHIFT pixels away in either direction.
    """
    import numpy as np

    padded = np.pad(b, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
    best = None
    half = BLOCK // 2
    for down in range(2 * SHIFT + 1):
        for right in range(2 * SHIFT + 1):
            gap = np.abs(a - padded[:, down : down + SIDE, right : right + SIDE])
            halves = gap.reshape(len(a), SIDE // half, half, SIDE // half, half).sum((2, 4))
            blocks = halves[:, 1:, 1:] + halves[:, :-1, 1:] + halves[:, 1:, :-1] + halves[:, :-1, :-1]
            best = blocks if best is None else np.minimum(best, blocks)
    assert best is not None
    worst: np.ndarray = best.max((1, 2)) / BLOCK**2
    return worst
