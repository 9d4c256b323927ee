"""Decides whether two whole images show the same: lays one over the other and compares them in colour everywhere.

Copies differ in size, in encoding and in how much border they have, so the scale and the offset are found first, for
each axis on its own: where the profiles of the two images' edges correlate best. What lies over each other is compared
window by window, and the worst window decides: one digit of a table, the colour of a bar, a shape elsewhere. What only
one of them has must be a narrow strip or empty margin, added or cut off; content that moved within its canvas or grew
in it is another image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Box = tuple[float, float, float, float]

MARGIN = 0.06  # of a side: a strip that a copy may lack whatever is in it
OVERLAP = 0.6  # of each side of both images that must be common
MOVED = 0.03  # of a side that content may move within its canvas
STRETCH = 0.08  # relative difference at most between the scales of the two axes
SEARCH = 0.05  # relative difference at most between a guess and the true scale
STEPS = 21  # scales tried around each guess
REDUCED = 1.2  # an image larger than this is reduced before its edges are taken, since reducing changes them
NOISE = 4  # grey levels between neighbours that are no edge
REFINEMENTS = 3  # steps of least squares that follow
BLUR, HUE_BLUR = 0.8, 2.0  # pixels of the smaller image
WINDOW = 5  # pixels of the smaller image: the side of a window, below that of a digit
# Grey levels, of 255, by which the worst window of a copy may differ where the image has full contrast; less in a
# fainter one. Doubling the size reaches 19, a paler copy 17, JPEG at quality 50 15. One digit of 13 pixels for another
# starts at 22, in a thin typeface at 15, so there 5 and 6, 0 and 6 or 0 and 8 may be taken for each other.
WORST_WINDOW = 20.0
FAINT = 64.0  # grey levels of contrast; a fainter image is no better known, since JPEG adds its noise to it
STRIP_NOISE = 40  # grey levels between the darkest and the lightest part of an empty margin


def same_image(first: Image.Image, second: Image.Image) -> bool:
    """Whether two RGB images show the same, but for size, encoding, brightness and border."""
    swap = math.prod(second.size) < math.prod(first.size)
    small, large = (second, first) if swap else (first, second)
    if min(*small.size, *large.size) <= WINDOW:
        return False
    ratios = (large.width / small.width, large.height / small.height)
    everything = (0.0, 0.0, float(large.width), float(large.height))
    unstretched = abs(math.log(ratios[0] / ratios[1])) <= STRETCH
    if unstretched and difference(small, _laid_over(small, large, everything)) <= WORST_WINDOW:
        return True  # resized or encoded again, nothing cut off
    (sx, dx), (sy, dy) = (_register(small, large, axis) for axis in (0, 1))
    if abs(math.log(sx / sy)) > STRETCH:
        return False
    if abs(math.log(sx / ratios[0])) > SEARCH and all(abs(ratio - 1) <= 0.01 for ratio in ratios):
        return False  # it grew within its canvas
    left, right = _common(small.width, large.width, sx, dx)
    top, bottom = _common(small.height, large.height, sy, dy)
    common = (left, top, right, bottom)
    if not _margins_fit(small, large, (sx, sy), (dx, dy), common):
        return False
    part = small.crop(common)
    box = ((left - dx) * sx, (top - dy) * sy, (right - dx) * sx, (bottom - dy) * sy)
    for _ in range(REFINEMENTS):
        box = _refined(part, large, box)
    return difference(part, _laid_over(part, large, box)) <= WORST_WINDOW


def _laid_over(part: Image.Image, large: Image.Image, box: Box) -> Image.Image:
    """The box of the larger image, as far as it lies inside, at the size of `part`."""
    from PIL import Image

    inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(large.width)), min(box[3], float(large.height)))
    return large.resize(part.size, Image.Resampling.BICUBIC, box=inside)


def _refined(part: Image.Image, large: Image.Image, box: Box) -> Box:
    """The box after one step of least squares on its four edges (Lucas and Kanade 1981)."""
    import numpy as np

    a, b = (_smooth(image.convert("L")) for image in (part, _laid_over(part, large, box)))
    b = (b - b.mean()) * (float(a.std()) / max(float(b.std()), 1.0)) + a.mean()  # else a darker copy seems displaced
    height, width = a.shape
    along = np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32)[:, None]
    down, right = np.gradient(b)
    slopes = [right * (1 - along[0]), right * along[0], down * (1 - along[1]), down * along[1]]
    columns = np.stack([slope.ravel() for slope in slopes])
    square = columns @ columns.T + np.eye(4, dtype=np.float32)
    steps = np.linalg.solve(square, columns @ (a - b).ravel()).clip(-2, 2)
    sx, sy = (box[2] - box[0]) / width, (box[3] - box[1]) / height
    left, right_edge, top, bottom = (float(step) for step in steps)
    return box[0] + left * sx, box[1] + top * sy, box[2] + right_edge * sx, box[3] + bottom * sy


def _smooth(image: Image.Image, blur: float = BLUR) -> np.ndarray:
    import numpy as np
    from PIL import ImageFilter

    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur))).astype(np.float32)


def _register(small: Image.Image, large: Image.Image, axis: int) -> tuple[float, float]:
    """(scale, offset) of an axis: the pixel edge x of `small` lies on (x - offset) * scale of `large`."""
    import numpy as np

    p, whole = _profile(small, axis), _profile(large, axis)
    extents = [float(np.ptp(np.flatnonzero(profile >= 0.3 * profile.max()))) + 1 for profile in (p, whole)]
    size = large.size[axis]
    best = (-1.0, size / len(p), 0.0)
    for guess in sorted({round(size / len(p), 3), round(extents[1] / extents[0], 3), 1.0}):
        if not OVERLAP * (1 - SEARCH) <= size / len(p) / guess <= (1 + SEARCH) / OVERLAP:
            continue  # too little would be common
        # Edges of a reduced image look different, so the larger one is reduced before its edges are taken.
        length = size if guess < REDUCED else round(size / guess)
        q = whole if length == size else _profile(_resized(large, axis, length), axis)
        reduced = size / length
        steps = np.linspace(-SEARCH, SEARCH, STEPS)
        rough = max(_correlate(p, q, guess / reduced * (1 + float(step))) for step in steps)
        best = max(best, (rough[0], rough[1] * reduced, rough[2]))
    return best[1:]


def _correlate(p: np.ndarray, q: np.ndarray, scale: float) -> tuple[float, float, float]:
    """(correlation, scale, offset) of q, with its pixels made `scale` times as long, at its best offset in p."""
    import numpy as np

    edges = np.arange(max(2, math.floor(len(q) / scale)) + 1) * scale
    scaled = np.diff(np.interp(edges, np.arange(len(q) + 1), np.concatenate([[0.0], q.cumsum()])))
    n = 1 << math.ceil(math.log2(len(p) + len(scaled)))
    found = np.fft.irfft(np.fft.rfft(p, n) * np.conj(np.fft.rfft(scaled, n)), n)
    at = int(found.argmax())
    before, peak, after = (float(found[(at + step) % n]) for step in (-1, 0, 1))
    bend = before - 2 * peak + after
    part = 0.5 * (before - after) / bend if bend else 0.0  # of a pixel: the top of the parabola through the three
    return peak / (float(np.linalg.norm(scaled)) or 1.0), scale, (at if at < len(p) else at - n) + part


def _resized(image: Image.Image, axis: int, length: int) -> Image.Image:
    from PIL import Image

    return image.resize((length, image.height) if axis == 0 else (image.width, length), Image.Resampling.BICUBIC)


def _profile(image: Image.Image, axis: int) -> np.ndarray:
    """The strength of the edges across an axis, by pixel, slightly smoothed; square roots keep one line from ruling."""
    import numpy as np

    grey = np.asarray(image.convert("L")).astype(np.float32)
    edges = np.sqrt(np.maximum(np.abs(np.gradient(grey, axis=1 - axis)) - NOISE, 0).sum(axis))
    return np.convolve(np.pad(edges, 2, mode="edge"), [0.06, 0.24, 0.4, 0.24, 0.06], mode="valid")


def _common(small: int, large: int, scale: float, offset: float) -> tuple[int, int]:
    """The pixels of the smaller image's axis that the larger one covers."""
    return max(0, math.ceil(offset)), min(small, math.floor(offset + large / scale))


def _margins_fit(
    small: Image.Image,
    large: Image.Image,
    scale: tuple[float, float],
    offset: tuple[float, float],
    common: tuple[int, int, int, int],
) -> bool:
    """Whether what lies outside the common part is margin that was cut off or added."""
    for axis in (0, 1):
        start, end = common[axis], common[axis + 2]
        side, other = small.size[axis], large.size[axis] / scale[axis]
        if end - start < OVERLAP * max(side, other):
            return False
        before, after = -offset[axis], offset[axis] + other - side  # positive: the larger image has more there
        if before * after < 0 and min(abs(before), abs(after)) > MOVED * side:
            return False
        for extra, first in ((before, True), (after, False)):
            image, length = (large, extra * scale[axis]) if extra > 0 else (small, -extra)
            if length > MARGIN * image.size[axis] and not _is_plain(_strip(image, axis, length, first)):
                return False
    return True


def _strip(image: Image.Image, axis: int, length: float, first: bool) -> Image.Image:
    box = [0, 0, *image.size]
    box[axis + 2 if first else axis] = math.floor(length) if first else math.ceil(image.size[axis] - length)
    return image.crop((box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)))


def _is_plain(strip: Image.Image) -> bool:
    bands = cast("tuple[tuple[int, int], ...]", strip.getextrema())
    return all(high - low <= STRIP_NOISE for low, high in bands)


def difference(a: Image.Image, b: Image.Image) -> float:
    """The mean difference in the worst window of two images of one size, in grey levels at full contrast."""
    import numpy as np

    (x, x_hues), (y, y_hues) = map(_bands, (a, b))
    gain = min(max(float(x.std()) / max(float(y.std()), 1.0), 0.8), 1.25)
    levelled = (y - y.mean()) * gain + x.mean()  # if one of them is darker; white stays white in a brighter copy
    contrast = max(*(float(np.ptp(part)) for part in (x, y, x_hues, y_hues)), FAINT) / 255
    hues = min(_worst_window(x_hues, y_hues), _worst_window(x_hues, y_hues * gain))
    return max(min(_worst_window(x, y), _worst_window(x, levelled)), hues) / contrast


def _bands(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Lightness, and the two bands of colour around 0, blurred more because JPEG halves their resolution."""
    import numpy as np

    lightness, *hues = image.convert("YCbCr").split()
    return _smooth(lightness)[..., None], np.stack([_smooth(hue, HUE_BLUR) for hue in hues], axis=-1) - 128


def _worst_window(x: np.ndarray, y: np.ndarray) -> float:
    import numpy as np

    size = min(WINDOW, *x.shape[:2])
    total = np.pad(np.abs(x - y).mean(2).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    worst: float = sums.max() / size**2
    return worst
