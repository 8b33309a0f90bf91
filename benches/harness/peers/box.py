"""torchvision's RandomResizedCrop box, for peers that bring none."""

from __future__ import annotations

import math
import random


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a box of 8 to 100 % of the area, of a ratio of 3/4 to 4/3."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            return random.randint(0, width - across), random.randint(0, height - down), across, down
    across = min(width, round(height * 4 / 3))
    down = min(height, round(width * 4 / 3))
    return (width - across) // 2, (height - down) // 2, across, down
