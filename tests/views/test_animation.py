"""Films: every frame keeps its own colours, and the page can slide through them without a network."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from seglab.views.animation import Film


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_frame_keeps_its_colours_whatever_the_others_have(tmp_path: Path) -> None:
    grey = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 4, 3, axis=2).repeat(64, axis=1)
    red = np.zeros_like(grey)
    red[..., 0] = np.arange(64) * 4
    film = Film({"a": Figure(), "b": Figure()}, {"a": png(grey), "b": png(red)})
    with Image.open(film.write(tmp_path / "film.gif")) as shown:
        assert shown.n_frames == 2
        for frame, pixels in enumerate((grey, red)):
            shown.seek(frame)
            np.testing.assert_allclose(np.asarray(shown.convert("RGB"), int), pixels, atol=8)


def test_the_page_shows_the_last_frame_first_and_names_each() -> None:
    film = Film({"epoch 0": Figure((1, 1)), 'epoch "1"': Figure((1, 1))})
    html = film.html("what is seen")
    assert html.count('src="data:image/png;base64,') == 2
    assert html.index('alt="epoch 0" hidden') < html.index('alt="epoch &#34;1&#34;" ')
    assert 'max="1" value="1"' in html
    assert "what is seen" in html
