"""`seglab COMMAND ...`: the same as `python -m seglab.COMMAND ...`."""

import importlib
import sys

import seglab
from seglab.engine.config import CONF


def main() -> None:
    """Run the command named by the first argument, with the remaining arguments as its options."""
    names = sorted(file.stem for file in CONF.glob("*.yaml"))
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"seglab {seglab.__version__}")
    elif name in ("--help", "-h"):
        print("usage: seglab COMMAND OPTION=VALUE ...; seglab COMMAND --help lists the options\n")
        for command in names:
            title = (importlib.import_module(f"seglab.{command}").__doc__ or "").partition("\n")[0]
            print(f"  {command:<10} {title.partition(': ')[2]}")
    elif name not in names:
        raise SystemExit(f"seglab: expected one of {', '.join(names)}, got {name}")
    else:
        sys.argv[:2] = [f"seglab {name}"]  # the command sees only its own options
        importlib.import_module(f"seglab.{name}").main()


if __name__ == "__main__":
    main()
