"""Plant faults in the package, one at a time, and check that the fast tests find each of them: `make mutate`.

`python tests/mutate.py` plants all faults, `python tests/mutate.py overlap.py 3 17` those selected by file, number or
reason. The checkout is not changed: faults are planted in a copy in a temporary folder. Prints a line per fault and
exits with 1 if a fault survives. A fault whose text is no longer in the code counts as surviving.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOSSES = "seglab/losses"
MAPS = "seglab/data/distance_maps.py"


class Fault(NamedTuple):
    """A fault: the text of a file to replace, its replacement, what is wrong then, and the tests that must fail."""

    file: str
    before: str
    after: str
    reason: str
    tests: str = "tests/losses/test_version1.py tests/losses/test_values.py tests/losses"


def of_losses(file: str, *faults: tuple[str, str, str]) -> list[Fault]:
    return [Fault(f"{LOSSES}/{file}", *fault) for fault in faults]


FAULTS = [
    *of_losses(
        "numerics.py",
        ("z.abs().neg_().sigmoid_()", "z.sigmoid()", "slope p (1 - p) where p is close to 1"),
        ("slope.neg_() if ctx.flip else slope", "slope", "slope of sigmoid(-z) with the wrong sign"),
        ('x if x.device.type == "mps" else x.double()', "x", "overlap algebra in float32"),
        ("(t * (-2 * everywhere - on_t)", "(t * (-everywhere - on_t)", "the slope of wrong foreground pixels halved"),
        ("(grad, z.abs().neg_().sigmoid_())", "(grad, z.sigmoid())", "slope of sums p (1 - p) where p is close to 1"),
        (
            "torch.where(x < 1, -torch.expm1(-x), 1 - torch.exp(-x))",
            "-torch.expm1(-x)",
            "a slope of noise at wrong pixels",
        ),
        ("not t.requires_grad and ", "", "the gradient of the target lost"),
        ("ZeroAt.apply(grad, *ctx.saved_tensors)", "grad", "a slope of the probability that was left out"),
        ("sums[..., 1:] + sums[..., :1] if self.shared else", "", "components without the background"),
        ("cells.flip(0)", "cells", "no complement"),
        ("number, alpha=self.lanes", "number, alpha=self.lanes // 2", "neighboring parts mixed"),
        ("part / whole.clamp(min=TINY)", "part / (whole + 1e-5)", "an epsilon in every total"),
        ("torch.where(x <= TINY, 0, x.clamp(min=TINY) ** exponent)", "x**exponent", "a root with an infinite slope"),
        ("torch.where(x <= TINY, 0,", "torch.where(~(x > TINY), 0,", "NaN swallowed"),
    ),
    *of_losses(
        "labels.py",
        ("Sigmoid.apply(self.wrong_logit, False)", "1 - Sigmoid.apply(self.wrong_logit, True)", "q as 1 - p"),
        (
            "F.softplus(self.wrong_logit, threshold=EXACT)",
            "-((-self.wrong_logit).sigmoid() + 1e-7).log()",
            "log(p + eps)",
        ),
        ("F.softplus(-self.wrong_logit,", "F.softplus(self.wrong_logit,", "the others' log p is the class's own"),
        ("if exponent >= 1:", "if exponent > 0:", "q ** 0.5 with an infinite slope"),
    ),
    *of_losses(
        "pixels.py",
        ("logits if logits.dtype == torch.float64 else logits.float()", "logits", "no upcast"),
        ("logits if logits.dtype == torch.float64 else logits.float()", "logits.float()", "float64 lost"),
        ("x.masked_fill(~self.valid, 0)", "x * self.valid", "NaN of pixels that are not valid kept by a product"),
        ("self.z.masked_fill(~self.valid, -1e4)", "self.z", "pixels that are not valid are half wrong"),
        ("return x if self.valid is None else x * self.weight", "return x", "pixels that are not valid cost something"),
        ("exact(self.valid.sum(-1))", "all_count", "means divide by all pixels"),
        ("(1 if self.valid is None else self.weight) - self.", "1 - self.", "pixels that are not valid are background"),
        ("if name not in TOTALS", "if name", "sums of the whole for those of its parts"),
        ("else is_hard(self.target)", "else True", "soft labels taken for hard ones"),
        ("return wrong - fn, fn", "return wrong, fn", "false negatives counted as false positives"),
        ("self.target.to(self.z.dtype, copy=True)", "self.target.to(self.z.dtype)", "a float target changed in place"),
        ("torch.lerp(weights[..., :1], weights[..., 1:], self.t)", "1", "class weights ignored for hard labels"),
        ("self.u * weights[..., :1])", "self.u)", "background weight ignored for soft labels"),
        ("(1 - self.p).scatter(1, top, others)", "1 - self.p", "q of a softmax as 1 - p"),
        (
            "self.masked(ZeroAt.apply(self.p, self.ids))",
            "self.masked(self.p)",
            "a pixel's own class as a false positive",
        ),
        ("[background, *spread(", "[1.0, *spread(", "the background's weight lost in a softmax"),
        ("self.ids.masked_fill(~self.valid, -1)", "self.ids", "pixels that are not valid counted as background"),
        ("    background = 1\n", "    background = 0\n", "the background scored"),
        ("lambda: (self.ids > 0).to", "lambda: (self.ids >= 0).to", "the background taken for foreground"),
        (".transpose(0, 1).flatten(1, 2", ".transpose(0, 1).flip(1).flatten(1, 2", "images in another order than maps"),
    ),
    *of_losses(
        "base.py",
        ("else torch.autocast(kind, enabled=False)", "else nullcontext()", "computed under autocast"),
        ("torch.where(valid.flatten(1).any(1), loss, 0)", "loss", "an image without a valid pixel costs something"),
        ("return compute(x).to(x.z.dtype)", "return compute(x)", "the loss in float64"),
        ("torch.where(counted, w * loss, 0).sum(1)", "(w * loss).sum(1)", "a skipped class counted"),
        ("mean * (scored.numel() / scored.sum().clamp(min=1))", "mean", "a skipped image counted as 0"),
        ("x.size > 0 if", "x.size >= 0 if", "nothing skipped"),
        ("(weights[name] for name in task.classes)", "(weights.values())", "class weights in the order of the yaml"),
        ("1 / (len(frequency) * f)", "f", "frequent classes weigh more"),
        ("not (self.soft and target.is_floating_point())", "not target.is_floating_point()", "soft labels not refused"),
        ("weights[None, channels]", "weights[None, : loss.shape[1]]", "class weights shifted by the background"),
        ("low < float(x) < high or", "low <= x <= high or", "open intervals closed"),
        ("<= 1e-6 * max(r)", "<= max(r)", "asymmetric distances accepted"),
    ),
    *of_losses(
        "cross_entropy.py",
        ("/ x.n.clamp(min=1)", "/ x.z.shape[-1]", "pixel losses divide by all pixels"),
        ("weights * classes", "weights", "class weights of a softmax ignored"),
        ("ratio(x.n.unsqueeze(-1), (w * x.sizes)", "ratio(x.n.unsqueeze(-1), (x.sizes)", "divided by the pixels"),
        ("present = (x.sizes > 0) *", "present = (x.sizes >= 0) *", "absent classes take their part of the mean"),
        ("self.smoothing * y.nll_others", "self.smoothing * y.nll", "labels not smoothed"),
        ("(1 - self.alpha, self.alpha)", "(self.alpha, 1 - self.alpha)", "alpha weights the background"),
        ("else y.q_to(self.gamma) * y.nll", "else y.p**self.gamma * y.nll", "easy pixels count more"),
        ("y.nll + self.epsilon * y.q", "y.nll + self.epsilon * y.p", "the error as 1 - error"),
        (".ceil().clamp(min=1)", ".floor().clamp(min=1)", "k rounded down"),
        ("(self.fraction * x.n - 1e-6)", "(self.fraction * x.n)", "k of a product that is rounded up"),
        ("n.unsqueeze(-1), x.sizes)", "n.unsqueeze(-1), x.sizes.clamp(min=1))", "less than a pixel weighs less"),
        ("self.rarity for", "1 for", "the root of exp-log's weights lost"),
        ("border * x.costs(self.cost)", "border", "the border weighs nothing wrong"),
        ("prior.log() - (-prior).log1p()", "prior.log()", "the background without a prior"),
        ("z = z - z.detach().amax(1, keepdim=True)", "z = z + 0", "a shift rounded away"),
    ),
    *of_losses(
        "overlap.py",
        ("fp_weight * m.fp + fn_weight * m.fn", "fn_weight * m.fp + fp_weight * m.fn", "swapped weights"),
        ("ratio(error, m.tp + error + smooth)", "1 - (m.tp + smooth) / (m.tp + error + smooth)", "1 - score"),
        ("tversky(m, 0.5, 0.5, self.smooth / 2)", "tversky(m, 0.5, 0.5, self.smooth)", "smoothed twice"),
        ('m.complemented(m.absent) if self.empty == "complement" else m\n\n', "m\n\n", "no policy for empty masks"),
        ("power(super().overlap(m), self.exponent)", "super().overlap(m)", "no power"),
        ("1 - self.gamma)) / 2", "self.gamma)) / 2", "the exponent is gamma"),
        ("squared + 2 * self.confusion(x).tp", "squared + self.confusion(x).tp", "half of the overlap in the total"),
        ("(smallest / size.clamp(min=TINY)) ** 2", "1 / (size + 1e-10) ** 2", "weights that vanish or explode"),
        ("x.total(e.clamp(min=0)) for e", "x.total(e.abs()) for e", "both"),
        ("(1 - w) * ratio(background", "w * ratio(background", "one weight for both"),
        ("tp[:, 1:].sum(1)", "tp.sum(1)", "the background right as a class"),
        ("((1 - distances) * pairs)", "((distances == 0) * pairs)", "what is near counted as wrong"),
        ("d / max(map(max, rows))", "d", "distances not scaled"),
        ("torch.where(m.tn + m.fp == 0, 0, background)", "background", "MCC of a full mask"),
        ("torch.log1p(2 * torch.sinh", "torch.log1p(torch.sinh", "log-cosh halved"),
    ),
    *of_losses(
        "lovasz.py",
        ("own = 0.5 / u0.clamp(min=1) + 0.5 /", "own = 1 / u0.clamp(min=1) + 0 /", "ties by the order of a sort"),
        ("(x.weight + x.wrong_logit)", "(1 + x.wrong_logit)", "a hinge where pixels are not valid"),
        ("bits.argsort(stable=True).flip(0)", "bits.argsort(stable=True)", "the smallest error first"),
        (", memory_format=torch.contiguous_format)  # so", ")  # so", "no loss of several classes with channels last"),
        ('if self.empty == "complement":\n            absent', "if False:\n            absent", "no complement"),
    ),
    *of_losses(
        "boundary.py",
        ("torch.where(absent, 1, -1)", "torch.where(absent, 0, 0)", "masks of one class without a gradient"),
        ("torch.where(signed > 0, signed, 1 - signed)", "signed.abs()", "no distance on the inner edge"),
        ("x.squared_error * weight", "x.squared_error.sqrt() * weight", "errors not squared"),
        ("ratio(largest - d, largest - 1)", "ratio(d, largest)", "the distance not inverted"),
        ("(2 * edge).clamp(min=0.2)", "(2 * edge)", "alpha without its limit"),
        ("(F.pad(x.spatial(t), (1, 1, 1, 1)))[..., 1:-1, 1:-1]", "(x.spatial(t))", "no boundary at the edge"),
    ),
    *of_losses(
        "robust.py",
        ("others = own.sum(1, keepdim=True) - own", "others = own", "the powers of the own class for the others'"),
        ("range(3 if t <= 1.2 else 6)", "range(1)", "lambda not yet found"),
        ("z.scatter(1, z.argmax(1, keepdim=True), -torch.inf)", "z", "the largest class counted twice"),
        ("return x.flip(1)", "return x.sum(1, keepdim=True) - x", "sums of others as differences"),
        ("- self.reverse_weight * self.log_zero * y.q", "- self.reverse_weight * self.log_zero * y.p", "p for 1 - p"),
        ("(self.nu + n) / (2 * n)", "(self.nu + n) / 2", "T-loss over one pixel"),
    ),
    *of_losses(
        "calibration.py",
        ("(z.amax(1, keepdim=True) - z - self.margin)", "(z - self.margin)", "a margin from 0"),
        ("(ratio(shares, weights) - (x.z", "(shares - (x.z", "zeros around the image in the mean of neighbors"),
        ("- 0.5 * soft).clamp", ").clamp", "soft bins without their middles"),
        ("ratio((ratio(error, count).abs() * filled)", "ratio((error.abs() * filled)", "sums of bins for their means"),
        ("count.scatter_add(2, bin_, share)", "count.scatter_add(2, bin_, 0 * share + 1)", "pixels counted twice"),
        ("(predicted - true).abs().mean(2)", "(predicted - true).abs().sum(2)", "the sum over the classes"),
        ("(true.clamp(min=TINY).log() - predicted", "(predicted.clamp(min=TINY).log() - predicted", "no divergence"),
    ),
    *of_losses(
        "components.py",
        ("valid = None if x.valid is None else x.valid.expand", "valid = None and x.valid.expand", "holes seen"),
        ("part if x.valid is None else part & x.valid", "part", "parts that are not valid"),
        ('== 0) if self.partition == "components"', '== 0) if self.partition == "cells"', "partitions swapped"),
        ("total / count.clamp(min=1), whole", "total, whole", "the sum over the objects"),
        ("sizes[:, 0, 1:] > 0", "sizes[:, 0, 1:] >= 0", "objects that an image does not have"),
        ('self.partition == "components", x.weight', 'self.partition == "cells", x.weight', "swapped at once"),
        ("[self.partition][:, x.background :]", "[self.partition]", "the background's objects counted"),
        ("w[:, 1:].amax(1, keepdim=True)", "w.amax(1, keepdim=True)", "the background's objects weigh"),
    ),
    *of_losses(
        "cldice.py",
        ("(hit / total)", "hit", "equal extremes of two dimensions have the gradient twice"),
        ("    left.sub_(before)\n", "", "a pixel and its neighbor both have the gradient"),
        ("ratio(x.total(skeleton * x.q)", "ratio(x.total(skeleton * x.p)", "recall for what is missed of a skeleton"),
        ("2 * stray * missed", "stray * missed", "the harmonic mean of clDice"),
        ("self.outside(x, x.t, x.q)", "self.outside(x, x.t, x.p)", "recall for 1 - recall"),
    ),
    *of_losses(
        "composite.py",
        ("loss.with_task(task))", "loss)", "the task not handed on"),
        ("weight * loss.value(x)", "loss.value(x)", "terms not weighed"),
        ("loss.at_epoch(history)[0]), sorted(switches)", "loss), sorted(switches)", "a switch inside a sum"),
    ),
    *of_losses(
        "schedule.py",
        ("if value > best else", "if value >= best else", "an equal value counts as better"),
        ("self.second.at_epoch(history[switch:])", "self.second.at_epoch(history)", "no new start of waiting"),
        ("else history[: switch - 1]", "else history", "switches of the first loss after its end"),
    ),
    *of_losses(
        "external.py",
        ("x[..., valid].unsqueeze(-1)", "x", "foreign code sees what is not valid"),
        ("v.clone().unflatten", "v.unflatten", "foreign code may change logits and target"),
        ("x.t.argmax(1)", "x.t.argmin(1)", "wrong class ids for foreign code"),
    ),
    Fault(MAPS, "(pieces == 1)", "(pieces >= 1)", "thinning cuts lines", "tests/data/test_distance_maps.py"),
    Fault(MAPS, "turn in (0, 4)", "turn in (0, 0)", "thinning from one side", "tests/data/test_distance_maps.py"),
    Fault(MAPS, "iterations=2", "iterations=1", "a thinner tube", "tests/data/test_distance_maps.py"),
    Fault(MAPS, "weights[0] = 1", "pass", "the background weighs by its size", "tests/data/test_distance_maps.py"),
    Fault(MAPS, "distance_transform_edt(objects == 0", "distance_transform_edt(objects > 0", "cells", "tests/data"),
    Fault("seglab/contract.py", '1 if self.kind == "multiclass" else 0', "0", "a task scores its background"),
    Fault("seglab/contract.py", "len(names) >= 2}", "len(names) >= 1}", "a softmax of one class"),
]


def found(fault: Fault, folder: Path) -> bool:
    """Whether the tests of a fault fail when it is planted in `folder`, a copy of the checkout."""
    file = folder / fault.file
    right = file.read_text()
    if right.count(fault.before) < 1 or fault.before == fault.after:
        return False
    file.write_text(right.replace(fault.before, fault.after))
    try:
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        command += fault.tests.split()
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode == 1
    finally:
        file.write_text(right)


def main(words: list[str]) -> int:
    """Plant the faults selected by the words, or all faults; return the exit code."""
    chosen = [
        (number, fault)
        for number, fault in enumerate(FAULTS, 1)
        if not words or any(word == str(number) or word in fault.file or word in fault.reason for word in words)
    ]
    survived = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "copy"
        left_out = shutil.ignore_patterns(".git", ".venv", "outputs", "dist", "__pycache__", ".*_cache", "shared")
        shutil.copytree(ROOT, folder, ignore=left_out)
        for number, fault in chosen:
            start = time.monotonic()
            seen = found(fault, folder)
            survived += not seen
            word = "found" if seen else "SURVIVED"
            print(f"{number:3d} {word:8s} {time.monotonic() - start:4.0f} s  {fault.file}: {fault.reason}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} faults found")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
