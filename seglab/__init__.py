"""Compare loss functions to find out which one to train a segmentation model with.

>>> import seglab
>>> study = seglab.sweep("loss=bce,dice", "seed=1,2", study="first")  # doctest: +SKIP
>>> print(study.verdict())  # doctest: +SKIP

Names are imported on first use, so that `import seglab` is fast. `seglab.train` and its siblings are the modules of the
commands, not functions.
"""

TYPE_CHECKING = False  # importing typing would take half of the import time
if TYPE_CHECKING:
    from seglab.api import Run, Study, Verdict, compare, load, run, sweep

    __version__: str

__all__ = ["Run", "Study", "Verdict", "compare", "load", "run", "sweep"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from seglab import api

        return getattr(api, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("seglab")
    raise AttributeError(f"module 'seglab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
