"""Finds images of two sets that show the same: perceptual hashes propose pairs, a comparison of pixels decides.

An image is made grey, laid on white, and cut to what stands on its background, so that margins do not matter. Then

1. equal bytes, or equal pixels after that, are the same image;
2. pairs within a Hamming radius of their phash or dhash (64 bits each) are candidates. Line drawings on white share
   most of their bits: of 4,000 x 1,200 MiniGeo diagrams, all different, some 2,000 pairs are candidates;
3. a candidate is a near-duplicate if no part of the two differs much: both at 48 x 48 pixels, slightly blurred, and
   every 8 x 8 block found again within a pixel. The worst block decides, for two drawings that differ in one line
   agree nearly everywhere on average.

A label of one digit is a few grey pixels at that size, so the same figure with other numbers may pass as the same
image, as some of those pairs do; `compare` therefore looks at the question and its answer too. A blank or nearly
blank image says nothing and is never compared. Rotated and mirrored images are not found.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_process.images.store import MAX_DECLARED_PIXELS

if TYPE_CHECKING:
    import imagehash
    import numpy as np
    from PIL import Image

How = Literal["bytes", "pixels", "near"]
IncomparableReason = Literal["no_folder", "missing", "torn", "too_large", "blank"]

WORKING_SIDE = 768  # pixels; a larger image is reduced at once, so that one decoded image is held at a time
PLAIN_BORDER = 0.9  # share of the outermost pixels that have one colour, which makes it a drawing to be cut out
PLAIN = 16  # grey levels of that colour's noise
INK = 64  # grey levels from the background, of 255: above JPEG's ringing, below any drawn line
BLANK = 12  # grey levels between the darkest and lightest part of an image that says nothing
# Bits of 64. Of 150 MiniGeo images, re-encoded at quality 75, resized to 50-200%, cropped by 2-4% and made 10%
# darker or lighter, every one stayed within 8 of the original's phash.
PHASH_RADIUS = 10
DHASH_RADIUS = 8
ASPECT = 0.12  # relative difference of width / height at most, after the margins are cut
SIDE, BLOCK, SHIFT = 48, 8, 1  # pixels
# Mean difference in a block, in standard deviations of the image. benchmarks/leakage.py counts what stays below it
# among changed copies (nearly all) and among other images (those of one shape).
WORST_BLOCK = 0.6
CHUNK = 256  # pairs compared at a time


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of an image for comparisons."""

    digest: str  # of the file
    pixels: str  # of the grey image at working size, margins cut
    phash: int  # 64 bits
    dhash: int
    aspect: float  # width / height, margins cut
    thumb: np.ndarray  # SIDE x SIDE, float32, mean 0 and standard deviation 1


@dataclass(frozen=True)
class ImageMatch:
    """The positions of two equal images; `score` is in (0, 1], 1 for equal bytes or pixels."""

    train: int
    test: int
    how: How
    score: float


def _decode(raw: bytes) -> Image.Image | IncomparableReason:
    """The image in grey on white, at most WORKING_SIDE pixels a side, or why it cannot be compared."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(raw)) as opened:
            warnings.simplefilter("ignore")  # Pillow warns below our own limit
            if math.prod(opened.size) > MAX_DECLARED_PIXELS:  # read from the header: a bomb is never decoded
                return "too_large"
            opened.draft("L", (WORKING_SIDE, WORKING_SIDE))  # a JPEG is decoded straight to a smaller size
            opened.load()
            image = ImageOps.exif_transpose(opened) if opened.getexif() else opened
            image = _grey(image)
    except (Image.DecompressionBombError, MemoryError):
        return "too_large"
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error):
        return "torn"  # what Pillow's readers raise on damaged files
    image.thumbnail((WORKING_SIDE, WORKING_SIDE))
    return image


def _grey(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more, which convert("L") would clip
        levels = np.asarray(image).astype(np.float64)
        levels /= 257 if levels.max() > 255 else 1  # 65535 / 257 is 255
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured)
    return image.convert("L")


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
    import imagehash
    import numpy as np
    from PIL import Image, ImageFilter

    try:
        raw = path.read_bytes()
    except OSError:
        return "missing"
    grey = _decode(raw)
    if isinstance(grey, str):
        return grey
    part = _trim(grey)
    width, height = part.size
    small = part.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1))
    thumb = np.asarray(small, dtype=np.float32)
    if min(width, height) < 4 or np.ptp(thumb) < BLANK:  # a single straight line is as good as blank
        return "blank"
    thumb = (thumb - thumb.mean()) / max(float(thumb.std()), 1.0)
    return Fingerprint(
        digest=hashlib.sha256(raw).hexdigest(),
        pixels=hashlib.sha256(repr(part.size).encode() + part.tobytes()).hexdigest(),
        phash=_bits(imagehash.phash(part)),
        dhash=_bits(imagehash.dhash(part)),
        aspect=width / height,
        thumb=thumb,
    )


def _bits(value: imagehash.ImageHash) -> int:
    import numpy as np

    return int.from_bytes(np.packbits(value.hash).tobytes())


def match_images(train: Sequence[Fingerprint], test: Sequence[Fingerprint]) -> list[ImageMatch]:
    """The pairs that show the same, sorted by (test, train) positions; each pair once, by its best evidence."""
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
    pairs = [pair for pair in _candidates(train, test) if pair not in matches]
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        a = np.stack([test[i].thumb for i, _ in chunk])
        b = np.stack([train[j].thumb for _, j in chunk])
        worst = np.maximum(_worst_block(a, b), _worst_block(b, a))
        for (i, j), value in zip(chunk, worst.tolist(), strict=True):
            if value <= WORST_BLOCK:
                matches[i, j] = ImageMatch(j, i, "near", round(1 - value / 2, 4))
    return [matches[pair] for pair in sorted(matches)]


def _candidates(train: Sequence[Fingerprint], test: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """(test, train) positions within the radius of either hash and similar in aspect; compares every pair."""
    import numpy as np

    def columns(prints: Sequence[Fingerprint]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hashes = [np.array([getattr(p, name) for p in prints], dtype=np.uint64) for name in ("phash", "dhash")]
        return hashes[0], hashes[1], np.log([p.aspect for p in prints])

    phash, dhash, aspect = columns(train)
    pairs: list[tuple[int, int]] = []
    for position, (p, d, shape) in enumerate(zip(*columns(test), strict=True)):
        near = (np.bitwise_count(phash ^ p) <= PHASH_RADIUS) | (np.bitwise_count(dhash ^ d) <= DHASH_RADIUS)
        near &= np.abs(aspect - shape) <= ASPECT
        pairs.extend((position, int(other)) for other in np.flatnonzero(near))
    return pairs


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
