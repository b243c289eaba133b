"""A row of figures that is looked at one after the other: a GIF to send, and a slider in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from seglab.files import atomic
from seglab.plots import STYLE

SLIDE = (
    "const f=this.closest('figure');f.querySelectorAll('img').forEach((p,i)=>p.hidden=i!=this.value);"
    "f.querySelector('output').value=f.querySelectorAll('img')[this.value].alt"
)


@dataclass
class Film:
    """Figures of one size by what to call each; they are drawn once, at the first use."""

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
        """Write a GIF that shows each frame for a while, and the last one for twice as long."""
        images = [Image.open(io.BytesIO(drawn)).convert("RGB") for drawn in self.pictures().values()]
        first, *rest = [image.quantize(256) for image in images]  # each with its own colours, or greys would be tinted
        times = [int(1000 * seconds)] * len(rest) + [int(2000 * seconds)]
        with atomic(out) as partial:
            first.save(partial, "GIF", save_all=True, append_images=rest, duration=times, loop=0)
        return out

    def html(self, caption: str) -> Markup:
        """The frames with a slider below them, as an element of a page."""
        shown = len(self.frames) - 1
        image = Markup('<img alt="{}" {} style="width:100%" src="data:image/png;base64,{}">')
        images = Markup("").join(
            image.format(name, "hidden" if place < shown else "", base64.b64encode(drawn).decode())
            for place, (name, drawn) in enumerate(self.pictures().items())
        )
        slider = f'<input type="range" min="0" max="{shown}" value="{shown}" style="width:70%" oninput="{SLIDE}">'
        label = Markup(f"<label>{slider} <output>{{}}</output></label>").format(list(self.frames)[shown])
        return Markup("<figure>{}{}<figcaption>{}</figcaption></figure>").format(images, label, caption)
