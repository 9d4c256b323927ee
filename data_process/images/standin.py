"""Drawn stand-ins for images that are not there, so that a loop can be tried on real questions without them.

A stand-in is made from the question's text alone: the same text gives the same bytes (for one version of Pillow),
another text other lines. It shows nothing of the real diagram and says so in the image itself; whoever prepares data
with stand-ins finds them counted in the card and marked in each problem's meta. Chance is the honest result on them.
"""

from __future__ import annotations

import io
import random
from hashlib import sha256

from data_process.seeds import seed_for

SIZE = (112, 112)  # pixels; MiniGeo's, 16 tokens of Qwen2-VL
LINES = 5
WORDS = "STAND-IN"


def name_for(question: str) -> str:
    """File name of a question's stand-in: `standin-` and 16 hex digits of the text's digest."""
    return f"standin-{sha256(question.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.png"


def draw(question: str) -> bytes:
    """A PNG of `SIZE`: random lines and a circle seeded by the text, and the words "STAND-IN" across the bottom."""
    from PIL import Image, ImageDraw

    rng = random.Random(seed_for("stand-in", question))
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    width, height = SIZE[0], SIZE[1] - 16  # the words have the last 16 rows to themselves

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
