"""Plant faults in the losses, one at a time, and see that the tests find each: `python tests/losses/mutate.py`.

Works on a copy of the package in a temporary folder, so that the checkout stays as it is. Prints one line per fault and
ends with 1 if any survives. About an hour of processor time; `python tests/losses/mutate.py 3 17` plants only those.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2  # noqa: F401  (imported once here, for all the forks; hydra is a plugin of pytest and must not be)
import pytest
import scipy.ndimage  # noqa: F401
import torch._dynamo

ROOT = Path(__file__).resolve().parents[2]


class Fault(NamedTuple):
    """What is replaced by what, in which file, and what it means."""

    file: str
    right: str
    wrong: str
    meaning: str


FAULTS = [
    Fault("region.py", "fp_weight * m.fp + fn_weight * m.fn", "fn_weight * m.fp + fp_weight * m.fn", "swapped weights"),
    Fault(
        "region.py",
        "ratio(error, total + smooth if smooth else total)",
        "1 - (m.tp + smooth) / (total + smooth)",
        "1 - score",
    ),
    Fault(
        "region.py",
        "ratio(error, total + smooth if smooth else total)",
        "ratio(error + smooth, total + smooth)",
        "smooth above",
    ),
    Fault(
        "region.py",
        "tversky(m, 0.5, 0.5, self.smooth / 2)\n\n\n@",
        "tversky(m, 0.5, 0.5, self.smooth)\n\n\n@",
        "smoothed twice",
    ),
    Fault(
        "region.py",
        "return power(super().overlap(m), self.exponent)",
        "return power(super().overlap(m).mean(0, True), self.exponent).expand_as(m.tp)",
        "power after the batch mean",
    ),
    Fault("region.py", 'm.complemented(empty) if self.empty == "complement" else m', "m", "no policy for empty masks"),
    Fault(
        "region.py",
        "return self.tp + self.fn == 0",
        "return (self.tp + self.fn).sum() + 0 * self.tp == 0",
        "empty decided for the batch",
    ),
    Fault("region.py", "(empty.numel() / (~empty).sum().clamp(min=1))", "1", "a skipped image counted as 0"),
    Fault("region.py", "torch.where(x <= TINY, 0, x.clamp(min=TINY) ** exponent)", "x**exponent", "unguarded power"),
    Fault("region.py", "torch.where(x <= TINY, 0,", "torch.where(~(x > TINY), 0,", "NaN swallowed"),
    Fault("region.py", "part / whole.clamp(min=TINY)", "part / (whole + 1e-5)", "epsilon in the total"),
    Fault(
        "region.py",
        "x.weigh(tp - fn, fp - tn[0] if tn else fp)",
        "x.weigh(tp, fp - tn[0] if tn else fp)",
        "false negatives detached",
    ),
    Fault("region.py", "x.weigh(tp - fn, fp - tn[0] if tn else fp)", "x.weigh(tp - fn, fp)", "true negatives detached"),
    Fault("region.py", "2 * half * half", "half * half", "log-cosh halved"),
    Fault("sums.py", '(sums if sums.device.type == "mps" else sums.double())', "sums", "overlap algebra in float32"),
    Fault("tile.py", "return self.wrong(self.z)", "return 1 - self.sigmoid(self.z)", "q as 1 - p"),
    Fault("tile.py", "self.z = real(z)", "self.z = z", "no upcast"),
    Fault("tile.py", "torch.log1p(self.e, out=self.new())", "torch.log(1 + self.e)", "log instead of log1p"),
    Fault(
        "tile.py",
        "torch.sub(rest, beyond, out=beyond)",
        "-torch.log(torch.sigmoid(self.v) + 1e-7)",
        "log(p + eps)",
    ),
    Fault(
        "tile.py",
        "return torch.abs(self.sign, out=self.spare).aminmax() == (1, 1)",
        "return True",
        "soft labels taken for hard ones",
    ),
    Fault(
        "tile.py",
        "return torch.abs(self.sign, out=self.spare).aminmax() == (1, 1)",
        "return bool((self.sign.abs() == 1).any())",
        "one hard label makes all hard",
    ),
    Fault("tile.py", "return bool(low >= 0) and bool(high <= 1)", "return True", "masks of 255 taken for hard labels"),
    Fault(
        "tile.py", "torch.sub(values[0], foreground, out=self.new())", "values[0]", "foreground counted as background"
    ),
    Fault(
        "tile.py",
        "return torch.add(base, self.t, alpha=foreground - background, out=self.new())",
        "return base + self.t",
        "no choice",
    ),
    Fault("tile.py", "dtype=self.t.dtype)", "dtype=torch.float32)", "weights in float32 for float64 logits"),
    Fault("tile.py", "share, small, large = self.u, large, small", "pass", "the smaller weight lost in rounding"),
    Fault(
        "tile.py",
        "torch.abs(self.z, out=self.new()).neg_().sigmoid_()",
        "torch.sigmoid(self.z)",
        "p (1 - p) where p is close to 1",
    ),
    Fault(
        "tile.py", "return self.pixels.wrong(self.v)", "return 1 - self.pixels.sigmoid(self.v)", "error as 1 - right"
    ),
    Fault(
        "region.py",
        "x.t.shape[-1] - foreground - fp",
        "x.t.shape[-1] - foreground",
        "true negatives with the false alarms",
    ),
    Fault(
        "region.py",
        "return x.through_p(weight) if kept is None else kept.mul_(weight)",
        "return weight if kept is None else kept.mul_(weight)",
        "slope of the second part without p (1 - p)",
    ),
    Fault("pixel.py", "x.choose(w1, -w0)", "x.choose(w1, -w1)", "the foreground's weight in every slope"),
    Fault(
        "pixel.py", "times(w0, x.u), torch.empty_like(out))", "times(w1, x.u), torch.empty_like(out))", "the same, soft"
    ),
    Fault(
        "pixel.py",
        "foreground * x.z.clamp(max=0)",
        "foreground * x.z.clamp(min=0)",
        "soft cross-entropy of the wrong side",
    ),
    Fault("sums.py", "zip(*cut, strict=True)", "[next(zip(*cut))] * len(cut[0])", "the first images for all"),
    Fault("sums.py", "torch.stack(sums[i : i + tiles.per_image]).sum(0)", "sums[i]", "only the first tile"),
    Fault("sums.py", "kept, ctx.kept = ctx.kept, None", "kept = ctx.kept", "a kept tensor used twice"),
    Fault("sums.py", "weights = weights[part.count :]", "pass", "every part gets the first weights"),
    Fault("sums.py", "total.add_(slope)", "total", "only the first part's gradient"),
    Fault("pixel.py", "sums[self][0].mean(1) / n", "sums[self][0].mean(1)", "sum instead of mean"),
    Fault(
        "pixel.py",
        "return number(self.pos_weight, self.name), 1.0",
        "return 1.0, number(self.pos_weight, self.name)",
        "weight on the background",
    ),
    Fault(
        "pixel.py",
        "return self.pull(x.sides[0], weight, out)",
        "return self.pull(x.sides[0], x.sign, out)",
        "weight lost in the gradient",
    ),
    Fault("pixel.py", "return (loss / weight).mean(1)", "return (loss / n).mean(1)", "divided by N"),
    Fault("pixel.py", "torch.where((foreground > 0) & (background > 0), 0.5, 1.0)", "0.5", "half on one class"),
    Fault(
        "pixel.py",
        "return (1 - foreground) / foreground",
        "return foreground / (1 - foreground)",
        "auto weight upside down",
    ),
    Fault(
        "focal.py",
        "torch.add(side.cost, side.v, out=out).mul_(-self.gamma).exp_()",
        "side.wrong.clamp(1e-7, 1 - 1e-7) ** self.gamma",
        "clamped p",
    ),
    Fault("focal.py", "(self.alpha, 1 - self.alpha)", "(1 - self.alpha, self.alpha)", "alpha on the background"),
    Fault("focal.py", "steep, alpha=self.gamma", "steep, alpha=0", "focal factor detached"),
    Fault("focal.py", "min=side.foreground", "min=1 - side.foreground", "focused on the wrong class"),
    Fault(
        "focal.py",
        "return torch.addcmul(x, x, side.foreground, value=-1, out=side.pixels.spare)",
        "return x",
        "a factor without effect steepens the foreground",
    ),
    Fault("tile.py", "and self.foreground == 1", "and self.foreground == 0", "background kept whole"),
    Fault("focal.py", "ceil(self.fraction", "int(self.fraction", "k rounded down"),
    Fault("focal.py", "left / equal.sum(-1, keepdim=True)", "1", "ties counted in full"),
    Fault("focal.py", "-0.5 * (x.maps", "-1.0 * (x.maps", "sigma without its half"),
    Fault(
        "classes.py",
        'part: ClassVar[Overlap] = Overlap(with_tn=True)\n    card: ClassVar[Card] = Card(\n        title="Generalised',
        'part: ClassVar[Overlap] = Overlap()\n    card: ClassVar[Card] = Card(\n        title="Generalised',
        "true negatives by subtraction",
    ),
    Fault(
        "classes.py",
        "error = (fg + bg) * (m.fp + m.fn)\n        return ratio(error, 2 * (fg * m.tp + bg * m.tn)",
        "error = fg * (m.fp + m.fn)\n        return ratio(error, 2 * (fg * m.tp)",
        "one-class generalised Dice",
    ),
    Fault(
        "classes.py",
        "(smaller / foreground.clamp(min=TINY)) ** 2",
        "(smaller / foreground.clamp(min=TINY))",
        "weights not squared",
    ),
    Fault("classes.py", "+ crossed[0] * crossed[1]", "", "MCC without fp fn"),
    Fault("classes.py", "self.smooth), 1 - self.gamma)", "self.smooth), self.gamma)", "gamma for 1 - gamma"),
    Fault("squares.py", "2 * squared * x.d + tp", "squared * x.d + tp", "slope of the square halved"),
    Fault(
        "squares.py",
        "torch.where(t == 0, n - p, tp)",
        "torch.where(t == 0, n, tp)",
        "complement without the prediction",
    ),
    Fault(
        "squares.py",
        "x.weigh(2 * weights[0], 2 * weights[1])",
        "x.weigh(2 * weights[1], 2 * weights[0])",
        "sensitivity for specificity",
    ),
    Fault("squares.py", "torch.minimum(x.p, x.t), x.d", "x.p * x.t, x.d", "product for minimum"),
    Fault("order.py", "fall = (t - 0.5 * (i0 + i1))", "fall = (t - i0)", "intersection before the ties"),
    Fault("order.py", "self.error(z * (2 *", "self.error(z * (1 *", "margin without the sign"),
    Fault("order.py", "mask | empty.unsqueeze(-1)", "mask", "Lovász without complement"),
    Fault("order.py", "order = descending(error)", "order = descending(error).flip(-1)", "ascending order"),
    Fault("order.py", "~(e <= 0)", "e > 1", "ranks too little"),
    Fault("boundary.py", "torch.where(t == 0, p, -p)", "p", "a full mask pushed down"),
    Fault(
        "boundary.py",
        "torch.where(signed > 0, signed, 1 - signed)",
        "signed.abs()",
        "no weight on the boundary's inside",
    ),
    Fault("skeleton.py", "- 2 * stray * missed", "- stray * missed", "clDice without its 2"),
    Fault(
        "compound.py", "return a * pixel.value(sums, n) + b", "return b * pixel.value(sums, n) + a", "exchanged weights"
    ),
    Fault(
        "compound.py",
        'fit("auto", foreground, self.name) ** 0.5',
        'fit("auto", foreground, self.name)',
        "no root of the frequencies",
    ),
    Fault("combine.py", "weight * loss.value(sums, n)", "loss.value(sums, n)", "weights of a sum lost"),
    Fault(
        "combine.py",
        "x.transpose(0, 1).flatten(1, 2)",
        "x.flatten(0, 1).flatten(0, 1).unsqueeze(0)",
        "channels pooled with images",
    ),
    Fault("external.py", "z = real(logits)", "z = logits", "foreign code in half precision"),
    Fault("external.py", 'torch.sigmoid(z) if self.takes == "probabilities" else z', "z", "logits for probabilities"),
    Fault("external.py", "if loss.ndim and len(loss) == len(t):", "if False:", "foreign numbers per image refused"),
    Fault("tile.py", "torch.addcmul(torch.add(a, b, out=e), a, b, out=e)", "torch.add(a, b, out=e)", "ab left out"),
    Fault("tile.py", "odd.append(e[..., 2 * half :])", "odd.append(e[..., :0])", "the odd pixel left out"),
    Fault("tile.py", "self.taken += 1", "pass", "memory lent twice"),
    Fault("tile.py", "* self.log1p_sum(heavy)", "* self.log1p_sum(self.e)", "every pixel counted in a class"),
    Fault("tile.py", "self.t if foreground > background else self.u", "self.t", "the lighter class weighed"),
    Fault("region.py", "torch.sub(x.p, room, out=room).sum(-1)", "x.p.sum(-1)", "tp counted as fp too"),
    Fault("region.py", "wrong.sum(-1) - fn", "wrong.sum(-1)", "misses counted as false alarms"),
    Fault("region.py", "torch.where(empty, cells.flip(0), cells)", "cells", "the complement forgotten"),
    Fault("tile.py", "mul_(-LOG2E).exp2_()", "neg_().exp2_()", "a power of 2 for one of e"),
    Fault("pixel.py", "x.t if w1 > w0 else x.u", "x.t", "the lighter class weighed, where each pixel's loss is made"),
    Fault("tile.py", "self.choose(foreground, -background)", "self.choose(foreground, -foreground)", "one margin"),
    Fault("tile.py", "share.flatten(0, 1)[i], alpha", "share.flatten(0, 1)[0], alpha", "another image's mask"),
    Fault("tile.py", "out = torch.neg(v, out=self.new())", "out = v.clone()", "q for p"),
    Fault("kernel.c", "(x > 0 ? 0.0f : -x));", "(x > 0 ? x : 0.0f));", "the foreground's margin with the wrong sign"),
    Fault("kernel.c", "tn += u * q", "tn += y * q", "misses counted as true negatives"),
    Fault("kernel.c", "a < -105.0f ? -105.0f : a", "a < -80.0f ? -80.0f : a", "no probability below 1e-35"),
    Fault(
        "kernel.c",
        "slope(sign.bits < 0 ? unlikely : likely",
        "slope(kept[i] < 0 ? unlikely : likely",
        "the sign of a zero not seen",
    ),
    Fault("kernel.c", "low + w2 * (middle", "1.0f + w2 * (middle", "the logarithm's series cut"),
    Fault("kernel.c", "unit / per_row(n) * SUMS", "0", "the first image's weights for all"),
    Fault("kernel.c", "g1 * p * miss + q", "q", "focal factor of soft labels detached in C"),
    Fault("kernel.c", "g * right * cost + wrong", "wrong", "focal factor of hard labels detached in C"),
    Fault("kernel.c", "g = y > 0 ? g1 : g0", "g = y > 0 ? g0 : g1", "the exponents of hard labels exchanged in C"),
    Fault("kernel.c", "if (all_hard(t, n))", "if (1)", "soft labels taken for hard ones in C"),
    Fault("kernel.c", "of[3] - of[5]", "of[3]", "true negatives detached in C"),
    Fault("kernel.c", "2 * of[7]", "of[7]", "half the slope of the foreground's squared error"),
    Fault("kernel.c", "alarmed_square += u", "alarmed_square += y", "the background's squared error on the foreground"),
    Fault("kernel.c", "(const uint8_t *)t + start", "(const uint8_t *)t", "the first block's labels for all"),
    Fault("kernel.c", "grad[i] = focal * kept[i] + slope", "grad[i] = slope", "the focal slope left out of a compound"),
    Fault("native.py", "readable(t).contiguous()", "readable(t)", "strides of the target ignored"),
    Fault(
        "native.py",
        "(*ctx.saved_tensors, weights, ctx.focus is not None)",
        "(*ctx.saved_tensors, weights, False)",
        "compiled, the focal slope taken for probabilities",
    ),
    Fault("sums.py", '"from_moments" in vars(type(self))', 'hasattr(self, "from_moments")', "heirs taken for parents"),
]
ORDER = ["values", "tile", "native", "sums", "identities", "empty", "large", "extremes", "contract", "errors"]
"""The files of tests, those that find most first."""


def passes(copy: Path) -> bool:
    """Whether the fast tests of the losses pass in the copy; in a fork, which has imported torch already."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    files = [f"tests/losses/test_{name}.py" for name in ORDER]
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files])))


def found(fault: Fault, copy: Path) -> bool:
    """Whether the tests fail with this fault in the copy."""
    file = copy / "seglab" / "losses" / fault.file
    source = file.read_text()
    if fault.right not in source:
        raise SystemExit(f"{fault.file} no longer says {fault.right!r}: bring the fault up to date")
    file.write_text(source.replace(fault.right, fault.wrong, 1))
    try:
        return not passes(copy)
    finally:
        file.write_text(source)


def main() -> None:
    chosen = [int(number) for number in sys.argv[1:]] or list(range(len(FAULTS)))
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("seglab", "conf", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if not passes(copy):
            raise SystemExit("the tests fail without any fault")
        survived = 0
        for number in chosen:
            dead = found(FAULTS[number], copy)
            survived += not dead
            print(
                f"{number:3} {'found' if dead else 'SURVIVED':8} {FAULTS[number].file:12} {FAULTS[number].meaning}",
                flush=True,
            )
    print(f"{len(chosen) - survived} found, {survived} survived")
    sys.exit(survived > 0)


if __name__ == "__main__":
    main()
