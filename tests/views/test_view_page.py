"""The page of a view: every frame of an animation keeps its own colors, and a slider moves through them offline."""

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from seglab.views.view_page import DPI, Animation


def picture(pixels):
    figure = Figure((pixels.shape[1] / DPI, pixels.shape[0] / DPI))
    figure.figimage(pixels)
    return figure


def test_a_frame_keeps_its_colors_whatever_the_others_have(tmp_path):
    gray = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 4, 3, axis=2).repeat(64, axis=1)
    red = np.zeros_like(gray)
    red[..., 0] = np.arange(64) * 4
    animation = Animation({"a": picture(gray), "b": picture(red)})
    with Image.open(animation.write(tmp_path / "a.gif")) as shown:
        assert shown.n_frames == 2
        for frame, pixels in enumerate((gray, red)):
            shown.seek(frame)
            np.testing.assert_allclose(np.asarray(shown.convert("RGB"), int), pixels, atol=8)


def test_the_page_shows_the_last_frame_first_and_names_each():
    html = Animation({"epoch 0": Figure((1, 1)), 'epoch "1"': Figure((1, 1))}).html("what <is> seen")
    assert html.count('src="data:image/png;base64,') == 2
    assert html.index('alt="epoch 0" hidden') < html.index('alt="epoch &#34;1&#34;" ')
    assert 'max="1" value="1"' in html
    assert "what &lt;is&gt; seen" in html
