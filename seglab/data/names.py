"""Names of image and mask files: what they have in common, and what to set where they do not fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from os.path import basename, commonprefix


@dataclass(frozen=True)
class Affix:
    """What file names of one kind add, before and behind what the images' and the masks' have in common."""

    prefix: str
    suffixes: tuple[str, ...]

    def fits(self, name: str) -> int:
        """Give how many characters of a name it accounts for; -1 where it does not fit."""
        return max((len(self.prefix) + len(suffix) for suffix in self.suffixes if self.core(name, suffix)), default=-1)

    def core(self, name: str, suffix: str) -> str:
        """Give a name, of which folders are a part, without prefix and suffix; "" where they do not fit."""
        last = basename(name)
        fits = last.startswith(self.prefix) and last.endswith(suffix) and len(last) > len(self.prefix) + len(suffix)
        return name[: len(name) - len(last)] + last[len(self.prefix) : len(last) - len(suffix)] if fits else ""

    def split(self, name: str) -> tuple[str, str]:
        """Give the core of a name, and which suffix it has: the longest of them that fits; two empty ones if none."""
        found = [(self.core(name, suffix), suffix) for suffix in self.suffixes if self.core(name, suffix)]
        return min(found, key=lambda pair: len(pair[0]), default=("", ""))


def proposal(images: Sequence[str], masks: Sequence[str]) -> str:
    """Say what to set so that masks find their images, given all names without their endings; "" if nothing is seen.

    Both lists are the same where images and masks share a folder.
    """
    apart = set(images) != set(masks)
    roots = set(images) if apart else {name for name in images if not rest_of(name, set(images))}
    rests = Counter(rest for name in masks if (rest := rest_of(name, roots)))
    if 0 < len(rests) <= 5 and rests.total() >= len(masks) / (2 if apart else 3):
        words = " or ".join(sorted(rests))
        value = spell(next(iter(rests))) if len(rests) == 1 else f"[{','.join(map(spell, sorted(rests)))}]"
        return f"{'every mask ends' if len(rests) == 1 else 'masks end'} in {words}: set {option('mask_suffix', value)}"
    return common_affixes(list(map(basename, images)), list(map(basename, masks))) if apart else ""


def rest_of(name: str, roots: Container[str]) -> str:
    """Give what a name adds to the longest of some other names that it begins with; digits would be a number's end."""
    places = (k for k in range(len(name) - 1, 0, -1) if name[:k] in roots and not name[k].isdigit())
    return next((name[k:] for k in places), "")


def common_affixes(images: Sequence[str], masks: Sequence[str]) -> str:
    """Propose prefixes and suffixes that all names of a kind share, where what is left fits together."""
    if min(len(images), len(masks)) < 2:
        return ""
    heads = [beginning(images), beginning(masks)]
    tails = [backward(beginning(list(map(backward, names)))) for names in (images, masks)]
    shared = len(beginning(list(map(backward, heads))))  # belongs to what they have in common
    heads = [head[: len(head) - shared] for head in heads]
    shared = len(beginning(tails))
    tails = [tail[shared:] for tail in tails]
    image, mask = (Affix(head, (tail,)) for head, tail in zip(heads, tails, strict=True))
    cores = [{affix.split(name)[0] for name in names} for affix, names in ((image, images), (mask, masks))]
    if 2 * len(cores[0] & cores[1]) < min(map(len, cores)):
        return ""
    found = {"image_prefix": heads[0], "image_suffix": tails[0], "mask_prefix": heads[1], "mask_suffix": tails[1]}
    found = {name: value for name, value in found.items() if value}
    words = {"prefix": "begins with", "suffix": "ends in"}
    seen = [f"every {name[:-7]} {words[name[-6:]]} {value}" for name, value in found.items()]
    return f"{' and '.join(seen)}: set {' '.join(option(name, spell(value)) for name, value in found.items())}"


def beginning(names: Sequence[str]) -> str:
    """Give what all names begin with."""
    return commonprefix(names)  # noqa: RUF071, characters are what is meant


def backward(text: str) -> str:
    return text[::-1]


def spell(value: str) -> str:
    """Write a value as the command line takes it."""
    return value if re.fullmatch(r"[\w.+-]*", value) else f'"{value}"'


def option(name: str, value: str) -> str:
    """Write an option as a shell takes it."""
    word = f"dataset.{name}={value}"
    return word if re.fullmatch(r"[\w.+=,-]*", word) else f"'{word}'"
