"""A sequence of figures: a GIF to send, and a slider in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from seglab.files import atomic
from seglab.plots import STYLE

SHOW_FRAME = (
    "const f=this.closest('figure');f.querySelectorAll('img').forEach((p,i)=>p.hidden=i!=this.value);"
    "f.querySelector('output').value=f.querySelectorAll('img')[this.value].alt"
)


@dataclass
class Animation:
    """Figures of one size by name; they are drawn once, at the first use."""

    frames: Mapping[str, Figure]
    drawn: dict[str, bytes] = field(default_factory=dict)

    def pictures(self) -> dict[str, bytes]:
        """Each frame as the bytes of a PNG file."""
        for name, figure in self.frames.items():
            if name not in self.drawn:
                buffer = io.BytesIO()
                with mpl.rc_context(STYLE):
                    figure.savefig(buffer, format="png", dpi=110)
                self.drawn[name] = buffer.getvalue()
        return self.drawn

    def write(self, out: Path, seconds: float = 0.9) -> Path:
        """Write a GIF that shows each frame for so many seconds, and the last one for twice as long."""
        images = [Image.open(io.BytesIO(drawn)).convert("RGB") for drawn in self.pictures().values()]
        first, *rest = [image.quantize(256) for image in images]  # each with its own palette, or greys would be tinted
        times = [int(1000 * seconds)] * len(rest) + [int(2000 * seconds)]
        with atomic(out) as partial:
            first.save(partial, "GIF", save_all=True, append_images=rest, duration=times, loop=0)
        return out

    def html(self, caption: str) -> str:
        """The frames with a slider below them, as an element of a page; it opens at the last frame."""
        last = len(self.frames) - 1
        images = ""
        for place, (name, drawn) in enumerate(self.pictures().items()):
            hidden, source = "hidden" if place < last else "", base64.b64encode(drawn).decode()
            alt = escape(name, quote=True)
            images += f'<img alt="{alt}" {hidden} style="width:100%" src="data:image/png;base64,{source}">'
        slider = f'<input type="range" min="0" max="{last}" value="{last}" style="width:70%" oninput="{SHOW_FRAME}">'
        label = f"<label>{slider} <output>{escape(list(self.frames)[last])}</output></label>"
        return f"<figure>{images}{label}<figcaption>{escape(caption)}</figcaption></figure>"
