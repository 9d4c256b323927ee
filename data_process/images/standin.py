"""Stand-ins drawn in place of missing images, to try the loop on real questions without their images.

A stand-in depends on the question's text alone: the same text gives the same bytes (with the same version of Pillow).
It shows nothing of the real diagram, and the image says so. The data card counts stand-ins, and each problem's meta
marks them. Expect accuracy at chance on them.
"""

from __future__ import annotations

import io
import random
from hashlib import sha256

from data_process.seeds import seed_for

SIZE = (112, 112)  # pixels, as in MiniGeo: 16 tokens of Qwen2-VL
LINES = 5
WORDS = "STAND-IN"


def name_for(question: str) -> str:
    """The file name of a question's stand-in: `standin-` and 16 hex digits of the text's digest."""
    return f"standin-{sha256(question.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.png"


def draw(question: str) -> bytes:
    """A PNG of `SIZE`: random lines and a circle seeded by the text, and the words "STAND-IN" across the bottom."""
    from PIL import Image, ImageDraw

    rng = random.Random(seed_for("stand-in", question))
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    width, height = SIZE[0], SIZE[1] - 16  # the last 16 rows hold only the words

    def point() -> tuple[int, int]:
        return rng.randrange(width), rng.randrange(height)

    for _ in range(LINES):
        pen.line([point(), point()], fill=(rng.randrange(160), rng.randrange(160), rng.randrange(160)), width=2)
    (x, y), radius = point(), rng.randrange(8, 30)
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline="black")
    pen.rectangle([0, height, width, SIZE[1]], fill="black")
    pen.text((28, height + 2), WORDS, fill="white")
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
