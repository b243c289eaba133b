"""Random augmentation of a batch of images in torch, on the device that holds it.

Each random number is a hash of the seed, the epoch, the sample's index and the name of the number, so that a sample
changes in the same way in any batch, with any loss and, up to rounding, on any device. A sample needs few numbers. They
are drawn on the CPU, which then knows which samples change without waiting for the device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seglab.contract import require
from seglab.data.augment import Augment, Changed

GOLDEN = -1640531527  # 2^32 / golden ratio as int32: its multiples are far apart, unlike indices

NAMES = (
    *("flip_x", "flip_y", "turn", "quarter", "tone", "brightness", "contrast", "warp", "degrees", "zoom_x", "zoom_y"),
    *("shear_x", "shear_y", "bend", "bend_field", "gamma", "exponent", "noise", "noise_std", "noise_field"),
    *("blur", "sigma"),
)  # the random numbers of a sample; each has a fixed position, whatever the options

BEND_SIGMA, BEND_STEP = 8.0, 4  # pixels: sigma of the smoothing of displacements, spacing of their random grid
BEND = 50 / (2 * math.pi**0.5 * BEND_SIGMA)  # pixels, 1.76: 50 times the deviation of normal noise after that smoothing


def scramble(x: Tensor) -> Tensor:
    """Hash int32 numbers in place (the finalizer of MurmurHash3); exact on every device."""
    # Shifting a negative number right shifts in ones, which the mask clears; products wrap around.
    x ^= (x >> 16) & 0xFFFF
    x *= -2048144789
    x ^= (x >> 13) & 0x7FFFF
    x *= -1028477387
    x ^= (x >> 16) & 0xFFFF
    return x


def combine(state: Tensor, key: Tensor | int) -> Tensor:
    """Combine a state and a key into a new hash."""
    return scramble(state + key * GOLDEN + 1)


def normal(states: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers (b, *shape) from one hash per sample (b,), two from 32 bits (Box-Muller)."""
    count = math.prod(shape)
    bits = combine(states[:, None], torch.arange(-(-count // 2), dtype=torch.int32, device=states.device))
    radius = ((bits & 0xFFFF).float() + 0.5).div_(65536).log_().mul_(-2).sqrt_()  # never the logarithm of 0
    angle = ((bits >> 16) & 0xFFFF).float().mul_(2 * torch.pi / 65536)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), 1)[:, :count].reshape(-1, *shape)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Smooth x (b, c, h, w) with a Gaussian of each sigma (b,), renormalized at the border, by matrix products."""
    for length in reversed(x.shape[2:]):
        positions = torch.arange(length, device=x.device)
        weights = torch.exp(-0.5 * ((positions - positions[:, None]) / sigma[:, None, None]) ** 2)
        x = (x @ (weights / weights.sum(2, keepdim=True))[:, None].mT).mT  # smooths the last axis, then swaps the two
    return x


def displacements(states: Tensor, height: int, width: int) -> Tensor:
    """Return smooth random displacements (b, 2, h, w) in pixels, with the same variance everywhere."""
    grid = [-(-length // BEND_STEP) + 1 for length in (height, width)]
    field = normal(states, (2, *grid))
    for length, points in ((width, grid[1]), (height, grid[0])):
        positions, nodes = (torch.arange(n, device=states.device) for n in (length, points))
        weights = torch.exp(-0.5 * ((positions[:, None] - BEND_STEP * nodes) / BEND_SIGMA) ** 2)
        field = (field @ F.normalize(weights).mT).mT  # rows of norm 1 keep the variance, also at the border
    return BEND * field


class Draws:
    """The random numbers of a batch by name, each (b,) on the CPU: hashes of seed, epoch, index and name."""

    def __init__(self, seed: int, pairs: Sequence[tuple[int, int]]) -> None:
        # Via int64, since a seed may have 32 bits: the conversion to int32 wraps around.
        epochs, indices = torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2).to(torch.int32).T
        first = scramble(torch.tensor([seed], dtype=torch.int64).to(torch.int32))
        names = torch.arange(1, len(NAMES) + 1, dtype=torch.int32)
        self.states = combine(combine(combine(first, epochs), indices)[:, None], names)
        self.numbers = ((self.states >> 8) & 0xFFFFFF).float() * 2.0**-24  # in [0, 1); float32 holds each exactly

    def __getitem__(self, name: str) -> Tensor:
        return self.numbers[:, NAMES.index(name)]

    def state(self, name: str) -> Tensor:
        """Return the hashes (b,) of a name, from which a field of random numbers can be drawn."""
        return self.states[:, NAMES.index(name)]

    def between(self, name: str, low: float, high: float) -> Tensor:
        """Return numbers (b,) between low and high."""
        return low + (high - low) * self[name]


def to_device(x: Tensor, like: Tensor) -> Tensor:
    """Move a tensor to the device of another one without blocking the host."""
    return x.to(like.device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Light(Augment):
    """Flips, quarter turns, and mild changes of brightness and contrast, which suit nearly every image.

    Args:
        flip, rotate90, tone: probabilities of each flip, a random quarter turn, and a change of brightness and
            contrast.
        brightness: largest shift, as a fraction of the full range.
        contrast: largest relative change of contrast.
    """

    flip: float = 0.5
    rotate90: float = 0.5
    tone: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            fits = name in ("degrees", "shear") or 0 <= value <= 1
            require(fits, f"augment {type(self).__name__}", f"{name} in [0, 1]", value)

    def __call__(
        self, image: Tensor, target: Tensor, valid: Tensor | None, seed: int, pairs: Sequence[tuple[int, int]]
    ) -> Changed:
        draws = Draws(seed, pairs)
        valid = None if valid is None else self.turn(valid, draws)
        return self.change(self.turn(image, draws), self.turn(target, draws), valid, draws)

    def turn(self, x: Tensor, draws: Draws) -> Tensor:
        """Flip and rotate each image of a batch (b, c, h, w) exactly; a quarter turn is a transposition and a flip."""
        quarter = torch.where(draws["turn"] < self.rotate90, (4 * draws["quarter"]).long(), 0)
        across, along = draws["flip_x"] < self.flip, draws["flip_y"] < self.flip
        odd = quarter % 2 == 1
        across, along = torch.where(odd, along, across), torch.where(odd, across, along)  # flips come before the turn
        across, along = across ^ (quarter >= 2), along ^ ((quarter == 1) | (quarter == 2))
        # As few calls as possible: on a GPU, each costs more than processing the bytes of a batch.
        odd, along, across = to_device(torch.stack((odd, along, across)), x)[..., None, None, None]
        x = torch.where(odd, x.mT, x)  # images are square
        x = torch.where(along, x.flip(2), x)
        return torch.where(across, x.flip(3), x).contiguous(memory_format=torch.channels_last)

    def change(self, image: Tensor, target: Tensor, valid: Tensor | None, draws: Draws) -> Changed:
        """Apply all changes except flips and turns; the image becomes float32 from 0 to 255 if `tone` is above 0."""
        return (self.adjust_tone(image, draws) if self.tone > 0 else image), target, valid

    def adjust_tone(self, image: Tensor, draws: Draws) -> Tensor:
        """Change the contrast and brightness of the images drawn for it."""
        active = draws["tone"] < self.tone
        alpha = torch.where(active, draws.between("contrast", 1 - self.contrast, 1 + self.contrast), 1.0)
        beta = torch.where(active, draws.between("brightness", -self.brightness, self.brightness), 0.0)
        alpha, beta = (to_device(x, image).view(-1, 1, 1, 1) for x in (alpha, 255 * beta))
        return image.float().mul_(alpha).add_(beta).clamp_(0, 255)


@dataclass(frozen=True, kw_only=True)
class Strong(Light):
    """Light, plus rotation, zoom, shear, elastic deformation, gamma, noise and blur.

    Pixels from outside the image are black, background, and not valid.

    Args:
        warp: probability of rotation, zoom and shear together.
        bend, gamma, noise, blur: probabilities of an elastic deformation, a change of gamma, noise, and blur.
        degrees: largest rotation in degrees.
        zoom: largest relative change of scale.
        shear: largest shear in degrees.
    """

    warp: float = 0.5
    bend: float = 0.2
    gamma: float = 0.2
    noise: float = 0.2
    blur: float = 0.1
    degrees: float = 30.0
    zoom: float = 0.2
    shear: float = 5.0

    def change(self, image: Tensor, target: Tensor, valid: Tensor | None, draws: Draws) -> Changed:
        image = self.adjust_tone(image, draws)
        self.on_some(image, draws, "gamma", self.adjust_gamma)
        if valid is None and (self.warp or self.bend):  # in every batch, or torch.compile would see both kinds
            valid = torch.ones_like(target[:, :1], dtype=torch.bool)
        indices = ((draws["warp"] < self.warp) | (draws["bend"] < self.bend)).nonzero()[:, 0]
        if len(indices):
            grid, rows = self.grid(draws, indices, image), to_device(indices, image)
            image[rows] = F.grid_sample(image[rows], grid, align_corners=False)  # black outside the image
            target = warp_labels(target, rows, grid)
            valid = None if valid is None else warp_labels(valid, rows, grid)
        self.on_some(image, draws, "noise", self.add_noise)
        self.on_some(image, draws, "blur", self.add_blur)
        return image, target, valid

    def on_some(self, image: Tensor, draws: Draws, name: str, work: Callable[[Tensor, Draws, Tensor], Tensor]) -> None:
        """Apply `work` in place to the images that the draw of a name selects."""
        indices = (draws[name] < getattr(self, name)).nonzero()[:, 0]
        if len(indices):
            rows = to_device(indices, image)
            image[rows] = work(image[rows], draws, indices)

    def grid(self, draws: Draws, rows: Tensor, image: Tensor) -> Tensor:
        """Return the source of each pixel of some samples for grid_sample: the affine and the elastic map composed."""
        warped, bent = (draws["warp"] < self.warp)[rows], (draws["bend"] < self.bend)[rows]
        height, width = image.shape[2:]
        inverse = torch.linalg.inv(self.matrices(draws)[rows])
        inverse = to_device(torch.where(warped[:, None, None], inverse, torch.eye(2)), image)[..., None, None]
        x = torch.arange(width, device=image.device) - (width - 1) / 2
        y = torch.arange(height, device=image.device)[:, None] - (height - 1) / 2
        source = inverse[:, :, 0] * x + inverse[:, :, 1] * y
        if bent.any():
            dx, dy = displacements(to_device(draws.state("bend_field")[rows][bent], image), height, width).unbind(1)
            bent_rows = to_device(bent.nonzero()[:, 0], image)
            inverse = inverse[bent_rows]
            source[bent_rows] += inverse[:, :, 0] * dx[:, None] + inverse[:, :, 1] * dy[:, None]  # bent, then affine
        return torch.stack((source[:, 0] * (2 / width), source[:, 1] * (2 / height)), -1)  # -1 and 1 are the edges

    def matrices(self, draws: Draws) -> Tensor:
        """Return the affine maps (b, 2, 2), which scale along each axis, shear, then rotate."""
        limit = math.radians(self.degrees)
        angle = draws.between("degrees", -limit, limit)
        x, y = (torch.tan(draws.between(f"shear_{axis}", -1, 1) * math.radians(self.shear)) for axis in "xy")
        scale_x, scale_y = (draws.between(f"zoom_{axis}", 1 - self.zoom, 1 + self.zoom) for axis in "xy")
        ones = torch.ones_like(angle)
        turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), -1).view(-1, 2, 2)
        shear = torch.stack((ones, x, y, ones), -1).view(-1, 2, 2)
        return turn @ shear @ torch.diag_embed(torch.stack((scale_x, scale_y), -1))

    def adjust_gamma(self, image: Tensor, draws: Draws, rows: Tensor) -> Tensor:
        """Raise the intensities, as fractions of the full range, to a power of 0.8 to 1.2."""
        exponent = to_device(draws.between("exponent", 0.8, 1.2)[rows], image).view(-1, 1, 1, 1)
        return (image / 255).pow_(exponent).mul_(255)

    def add_noise(self, image: Tensor, draws: Draws, rows: Tensor) -> Tensor:
        """Add normal noise with a standard deviation of 1 to 5 % of the full range."""
        std = 255 * to_device(draws.between("noise_std", 0.01, 0.05)[rows], image).view(-1, 1, 1, 1)
        field = normal(to_device(draws.state("noise_field")[rows], image), tuple(image.shape[1:]))
        return image.add_(field.mul_(std)).clamp_(0, 255)

    def add_blur(self, image: Tensor, draws: Draws, rows: Tensor) -> Tensor:
        """Blur with a Gaussian of sigma 0.5 to 3 pixels."""
        return gaussian_blur(image, to_device(draws.between("sigma", 0.5, 3.0)[rows], image))


def warp_labels(labels: Tensor, rows: Tensor, grid: Tensor) -> Tensor:
    """Warp the labels of some samples with nearest-neighbor sampling; pixels from outside the image are 0."""
    warped = F.grid_sample(labels[rows].float(), grid, mode="nearest", align_corners=False)
    return labels.index_copy(0, rows, warped.to(labels.dtype))
