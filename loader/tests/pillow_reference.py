"""Pictures, and what Pillow makes of them, for the differential test of decoding (pillow.rs).

    python pillow_reference.py FOLDER

writes each picture as a file, Pillow's pixels as raw bytes beside it, and cases.json. Formulas of torchvision's transforms
are written out here in Python's own arithmetic, so that they are checked too. Pictures are photographs shipped inside
scikit-image, scikit-learn and matplotlib.
"""

import io
import json
import math
import random
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

BILINEAR = {"interpolation": "bilinear", "antialias": True}
FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
DEFAULTS = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


def photographs():
    import matplotlib.cbook
    import skimage.data
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(array) for array in load_sample_images().images]
    names = ("astronaut", "coffee", "chelsea", "rocket")
    pictures += [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        pictures.append(Image.open(file).convert("RGB"))
    for index, picture in enumerate(pictures):
        if picture.width > 500:  # near 500 x 375, as the photographs of the usual training sets; odd sizes among them
            width = 500 - index % 3
            pictures[index] = picture.resize((width, picture.height * width // picture.width), Image.LANCZOS)
    return pictures


def encoded(picture, format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[0x112] = orientation
    return block


class Cases:
    def __init__(self, folder):
        self.folder, self.cases = Path(folder), []

    def add(self, group, data, expected, transforms=(), draws=(), kind="image", most=0, mean=0.0, modes=("exact",)):
        number = len(self.cases)
        (self.folder / f"{number}.bin").write_bytes(data)
        (self.folder / f"{number}.raw").write_bytes(np.ascontiguousarray(expected, np.uint8).tobytes())
        self.cases.append(
            {
                "group": group,
                "kind": kind,
                "transforms": list(transforms),
                "draws": list(draws),
                "most": most,
                "mean": mean,
                "height": expected.shape[0],
                "width": expected.shape[1],
                "modes": list(modes),
            }
        )

    def write(self):
        (self.folder / "cases.json").write_text(json.dumps(self.cases))


def opened(data):
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def random_box(size, scale, ratio, draws):
    """torchvision.transforms.v2.RandomResizedCrop; try t uses the draws 4t (area), 4t + 1 (ratio), 4t + 2 and 4t + 3."""
    width, height = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(10):
        u = draws[4 * attempt : 4 * attempt + 4]
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u[0])
        aspect = math.exp(low + (high - low) * u[1])
        w, h = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < min(ratio):
        h = int(round(w / min(ratio)))
    elif width / height > max(ratio):
        w = int(round(h * max(ratio)))
    top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h


def crop_transforms(side, how=BILINEAR, flip=0.5):
    return [
        {"random_resized_crop": {"size": [side, side], **DEFAULTS, **how}},
        {"random_horizontal_flip": {"p": flip}},
    ]


def cropped(picture, transforms, draws, filter):
    crop = transforms[0]["random_resized_crop"]
    box = random_box(picture.size, crop["scale"], crop["ratio"], draws[0])
    picture = picture.crop(box).resize(tuple(crop["size"][::-1]), filter)
    if draws[1][0] < transforms[1]["random_horizontal_flip"]["p"]:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    return picture


def draw(chance):
    return [[chance.random() for _ in range(40)], [chance.random()]]


def random_crops(cases, pictures):
    """The main job: a random box of a photograph, resized and flipped."""
    chance = random.Random(1)
    kinds = [
        ("4:2:0", {"subsampling": "4:2:0"}),
        ("4:4:4", {"subsampling": "4:4:4"}),
        ("4:2:2", {"subsampling": "4:2:2"}),
        ("grey", {}),
        ("CMYK", {}),
    ]
    for index, picture in enumerate(pictures):
        for name, options in kinds:
            source = picture.convert({"grey": "L", "CMYK": "CMYK"}.get(name, "RGB"))
            for progressive in (False, True):
                data = encoded(source, "JPEG", quality=90 + index % 7, progressive=progressive, **options)
                for side, how in ((224, "bilinear"), (224, "bicubic"), (96, "bilinear"), (64, "bicubic")):
                    transforms = crop_transforms(side, {"interpolation": how, "antialias": True})
                    draws = draw(chance)
                    expected = np.asarray(cropped(opened(data), transforms, draws, FILTERS[how]))
                    cases.add(
                        f"JPEG {name} {how} to {side}",
                        data,
                        expected,
                        transforms,
                        draws,
                        most=2,
                        mean=0.5,
                        modes=("exact", "fast"),
                    )


def orientations(cases, pictures):
    chance = random.Random(2)
    for orientation in range(1, 9):
        for format in ("JPEG", "PNG", "WEBP", "TIFF"):
            options = {"quality": 92} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
            data = encoded(pictures[1].resize((251, 187)), format, exif=exif(orientation), **options)
            transforms, draws = crop_transforms(64), draw(chance)
            expected = np.asarray(cropped(opened(data), transforms, draws, Image.BILINEAR))
            cases.add(f"{format} turned, cropped", data, expected, transforms, draws, most=2, mean=0.5)
            cases.add(f"{format} turned, whole", data, np.asarray(opened(data)))


def resizes(cases, pictures):
    for picture in pictures:
        data = encoded(picture, "JPEG", quality=95, subsampling="4:2:0")
        whole = opened(data)
        w, h = whole.size
        for how in ("bilinear", "bicubic", "nearest"):
            bounds = {"most": 2, "mean": 0.5} if how != "nearest" else {}
            long = int(256 * max(w, h) / min(w, h))
            size = (256, long) if w <= h else (long, 256)
            now = {"interpolation": how, "antialias": True}
            resize = {"resize": {"size": {"shorter": {"side": 256, "max_size": None}}, **now}}
            resized = whole.resize(size, FILTERS[how])
            cases.add(f"Resize {how}", data, np.asarray(resized), [resize], **bounds)
            top, left = int(round((size[1] - 224) / 2.0)), int(round((size[0] - 224) / 2.0))
            center = np.asarray(resized.crop((left, top, left + 224, top + 224)))
            middle = {"center_crop": {"size": [224, 224]}}
            cases.add(f"Resize, CenterCrop {how}", data, center, [resize, middle], **bounds)
            exactly = {"resize": {"size": {"exactly": [300, 700]}, **now}}
            cases.add(f"Resize {how}", data, np.asarray(whole.resize((700, 300), FILTERS[how])), [exactly], **bounds)
            # Two resizes can't be one.
            small = whole.resize((90, 120), FILTERS[how]).resize((50, 40), FILTERS[how])
            twice = [{"resize": {"size": {"exactly": size}, **now}} for size in ([120, 90], [40, 50])]
            cases.add(f"Resize twice {how}", data, np.asarray(small), twice, **bounds)
        for number, side in enumerate((100, 224)):
            u = [[], [(0.1 + number / 2, 0.7)[axis] for axis in (0, 1)], [0.25]]
            top, left = (int(u[1][axis] * (length - side + 1)) for axis, length in ((0, size[1]), (1, size[0])))
            box = resized.crop((left, top, left + side, top + side)).transpose(Image.FLIP_LEFT_RIGHT)
            crop = {"random_crop": {"size": [side, side], "pad_if_needed": False}}
            flip = {"random_horizontal_flip": {"p": 0.5}}
            cases.add("Resize, RandomCrop", data, np.asarray(box), [resize, crop, flip], u, most=2, mean=0.5)
        pixels = np.asarray(whole)
        top, left = int(0.3 * (641 - h)) - (640 - h), int(0.8 * (601 - w)) - (600 - w)
        around = np.pad(pixels, ((640 - h, 640 - h), (600 - w, 600 - w), (0, 0)))
        moved = around[top + 640 - h :, left + 600 - w :][:640, :600]
        crop = {"random_crop": {"size": [640, 600], "pad_if_needed": True}}
        cases.add("RandomCrop, padded", data, moved, [crop], [[0.3, 0.8]])
        left, right = (600 - w) // 2, (600 - w + 1) // 2
        top, bottom = (640 - h) // 2, (640 - h + 1) // 2
        padded = np.pad(pixels, ((top, bottom), (left, right), (0, 0)))
        cases.add("CenterCrop, padded", data, padded, [{"center_crop": {"size": [640, 600]}}])
        top, left = int(round((h - 101) / 2.0)), int(round((w - 150) / 2.0))
        cases.add(
            "CenterCrop", data, pixels[top : top + 101, left : left + 150], [{"center_crop": {"size": [101, 150]}}]
        )


def sampled(pixels, height, width, cubic):
    """torch.nn.functional.interpolate(antialias=False, align_corners=False) on uint8, as torchvision rounds it."""
    a = -0.75

    def near(d):
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d):
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    def along(array, axis, count):
        length = array.shape[axis]
        center = (np.arange(count) + 0.5) * length / count - 0.5
        center = center if cubic else np.maximum(center, 0)
        first = np.floor(center).astype(int)
        t = center - first
        taps = [(0, 1 - t), (1, t)]
        if cubic:
            taps = [(-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))]
        shape = [1] * array.ndim
        shape[axis] = count
        return sum(
            np.take(array, np.clip(first + step, 0, length - 1), axis) * weight.reshape(shape) for step, weight in taps
        )

    values = along(along(pixels.astype(np.float64), 0, height), 1, width)
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def without_antialias(cases, pictures):
    chance = random.Random(3)
    for picture in pictures:
        data = encoded(picture, "JPEG", quality=93)
        whole = opened(data)
        for how in ("bilinear", "bicubic"):
            transforms = crop_transforms(112, {"interpolation": how, "antialias": False}, flip=0.0)
            draws = draw(chance)
            box = random_box(whole.size, **DEFAULTS, draws=draws[0])
            expected = sampled(np.asarray(whole.crop(box)), 112, 112, how == "bicubic")
            cases.add(f"antialias=False {how}", data, expected, transforms, draws, most=1, mean=0.1)


def png(width, height, depth, color, rows):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    scanlines = b"".join(b"\0" + row for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    )


def conversions(cases, pictures):
    """convert("RGB") of every kind of picture."""
    picture = pictures[0].resize((123, 77))
    alpha = Image.fromarray(np.arange(123 * 77).astype(np.uint8).reshape(77, 123))
    rgba, la = picture.copy(), picture.convert("L").convert("LA")
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = picture.quantize(200)
    grey_16 = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 3)
    plain = {
        "RGB": picture,
        "L": picture.convert("L"),
        "RGBA": rgba,
        "P": palette,
        "1": picture.convert("1"),
        "LA": la,
        "I;16": grey_16,
        "CMYK": picture.convert("CMYK"),
    }
    for format, modes in (
        ("PNG", ("RGB", "L", "RGBA", "LA", "P", "1", "I;16")),
        ("WEBP", ("RGB", "RGBA")),
        ("GIF", ("P", "L")),
        ("BMP", ("RGB", "L", "P", "1", "RGBA")),
        ("TIFF", ("RGB", "L", "RGBA", "I;16", "CMYK")),
    ):
        for mode in modes:
            options = {"lossless": True, "exact": True} if format == "WEBP" else {}
            data = encoded(plain[mode], format, **options)
            cases.add(f"{format} {mode}", data, np.asarray(opened(data)), most=int(mode == "CMYK"), mean=0.5)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        data = encoded(picture, "TIFF", compression=compression)
        cases.add(f"TIFF {compression}", data, np.asarray(opened(data)))
    data = encoded(palette, "PNG", transparency=7)
    cases.add("PNG P, transparent colour", data, np.asarray(opened(data)))
    data = encoded(palette, "GIF", transparency=7)
    cases.add("GIF P, transparent colour", data, np.asarray(opened(data)))
    data = encoded(palette, "GIF", save_all=True, append_images=[pictures[1].resize((123, 77)).quantize(16)])
    cases.add("GIF, first frame", data, np.asarray(opened(data)))
    data = encoded(picture, "WEBP", quality=90)
    cases.add("WebP, lossy", data, np.asarray(opened(data)), most=3, mean=0.5)
    noise = np.random.RandomState(0).randint(0, 65536, (20, 30, 4)).astype(">u2")
    for name, color, channels in (("I;16", 0, 1), ("RGB;16", 2, 3), ("LA;16", 4, 2), ("RGBA;16", 6, 4)):
        data = png(30, 20, 16, color, [row[:, :channels].tobytes() for row in noise])
        cases.add(f"PNG {name}", data, np.asarray(opened(data)))
    for depth in (1, 2, 4):
        rows = [row.tobytes()[: (30 * depth + 7) // 8] for row in noise]
        data = png(30, 20, depth, 0, rows)
        cases.add(f"PNG L;{depth}", data, np.asarray(opened(data)))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for width in (97, 98, 99):
            data = encoded(picture.resize((width, 61)), "JPEG", quality=91, subsampling=subsampling)
            cases.add(f"JPEG {subsampling}, whole", data, np.asarray(opened(data)))
    for name, source, options in (
        ("RGB", picture, {"keep_rgb": True}),
        ("CMYK", plain["CMYK"], {}),
        ("progressive", picture, {"progressive": True}),
        ("grey", plain["L"], {}),
    ):
        data = encoded(source, "JPEG", quality=91, **options)
        cases.add(f"JPEG {name}, whole", data, np.asarray(opened(data)))


def masks(cases, pictures):
    chance = random.Random(4)
    for picture in pictures:
        small = picture.quantize(21)
        for mode, mask in (("P", small), ("L", Image.fromarray(np.asarray(small)))):
            for orientation in (1, 6):
                data = encoded(mask, "PNG", exif=exif(orientation))
                transforms, draws = crop_transforms(100), draw(chance)
                upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
                expected = np.asarray(cropped(upright, transforms, draws, Image.NEAREST))
                cases.add(f"mask {mode}", data, expected, transforms, draws, kind="mask")


def main(folder):
    pictures = photographs()
    cases = Cases(folder)
    for make in (random_crops, orientations, resizes, without_antialias, conversions, masks):
        make(cases, pictures)
    cases.write()


if __name__ == "__main__":
    main(sys.argv[1])
