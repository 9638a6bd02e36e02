"""Previews of pictures: tiny, upright, and without anything that a camera wrote beside the pixels."""

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from poolnet.files import preview
from poolnet.files.preview import Preview, make_preview
from poolnet.limits import MAX_PREVIEW_SIZE

ORIENTATION, MAKE, GPS = 0x0112, 0x010F, 0x8825


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(1).randbytes(3 * width * height))


def halves(width: int, height: int) -> Image.Image:
    """Return a picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


def shown(found: Preview) -> Image.Image:
    image = Image.open(io.BytesIO(found.jpeg))
    assert image.format == "JPEG"
    return image


def png_header(width: int, height: int) -> bytes:
    """Return a picture that claims a size and holds hardly any of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (640, 480), (3000, 20)])
def test_a_picture_has_its_size_and_a_small_jpeg(tmp_path: Path, suffix: str, width: int, height: int) -> None:
    path = tmp_path / f"picture.{suffix}"
    noise(width, height).save(path)
    found = make_preview(path)
    assert (found.width, found.height) == (width, height)
    assert 0 < len(found.jpeg) <= MAX_PREVIEW_SIZE
    assert max(shown(found).size) <= 256


@pytest.mark.parametrize(("orientation", "first"), [(1, "red"), (3, "blue"), (6, "red"), (8, "blue")])
def test_a_picture_is_shown_upright_and_nothing_that_the_camera_wrote_comes_along(
    tmp_path: Path, orientation: int, first: str
) -> None:
    path = tmp_path / "picture.jpg"
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = orientation, "Secret Camera"
    exif.get_ifd(GPS)[1] = "N"
    halves(400, 200).save(path, exif=exif, comment=b"secret comment", icc_profile=b"secret profile")
    assert b"Secret Camera" in path.read_bytes()
    found = make_preview(path)
    is_turned = orientation in (6, 8)
    assert (found.width, found.height) == ((200, 400) if is_turned else (400, 200))
    assert b"ecret" not in found.jpeg
    image = shown(found)
    assert not image.getexif()
    assert (image.width < image.height) == is_turned
    red, _, blue = image.convert("RGB").getpixel((2, 2))
    assert (red > 128 > blue) == (first == "red")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_colours_have_a_preview(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.new(mode, (30, 20)).save(path)
    assert shown(make_preview(path)).size == (30, 20)


def test_what_lets_light_through_is_on_white(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(path)
    assert min(shown(make_preview(path)).convert("L").tobytes()) > 250


def test_texts_in_a_picture_do_not_come_along(tmp_path: Path) -> None:
    path, info = tmp_path / "picture.png", PngImagePlugin.PngInfo()
    info.add_text("Comment", "secret words")
    noise(20, 20).save(path, pnginfo=info)
    assert b"secret" not in make_preview(path).jpeg


def test_a_large_photo_is_decoded_small(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8000, 6000), "green").save(path)
    found = make_preview(path)
    assert (found.width, found.height) == (8000, 6000)
    assert shown(found).size == (256, 192)


@pytest.mark.parametrize(("width", "height"), [(4000, 3000), (12_000, 12_000), (60_000, 60_000)])
def test_what_would_take_too_much_memory_is_not_decoded(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    found = make_preview(path)
    assert found.jpeg == b""
    assert (found.width, found.height) in ((width, height), (0, 0))


@pytest.mark.parametrize("content", [b"", b"text", b"%PDF-1.7", b"<svg/>", png_header(10, 100)[:60]])
def test_what_is_no_picture_has_no_preview(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    assert make_preview(path).jpeg == b""
    assert make_preview(tmp_path / "nowhere.png") == Preview()


@settings(max_examples=60)
@given(suffix=st.sampled_from(["jpg", "png", "gif", "webp", "bmp"]), data=st.data())
def test_a_damaged_picture_is_never_an_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"picture.{suffix}"
    noise(40, 30).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(200, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert len(make_preview(path).jpeg) <= MAX_PREVIEW_SIZE


def test_without_pillow_there_is_no_preview_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    noise(20, 20).save(path)
    monkeypatch.setattr(preview, "HAS_PILLOW", False)
    assert make_preview(path) == Preview()
