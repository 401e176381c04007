"""The command ``mmdiff``: a table of typed functions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mmdiff.commands.dispatch import dispatch

COMMANDS = {
    "vocode": "mmdiff.commands.vocode:vocode",
    "sound": "mmdiff.commands.sound:sound",
    "edit": "mmdiff.commands.edit:edit",
    "clip": "mmdiff.commands.clip:clip",
    "mel": "mmdiff.commands.mel:mel",
    "recipes": "mmdiff.commands.recipes:recipes",
    "cp": "mmdiff.commands.recipes:cp",
    "run": "mmdiff.commands.recipes:run",
    "fetch": "mmdiff.commands.fetch:fetch",
    "evaluate": "mmdiff.commands.evaluate:evaluate",
    "search": "mmdiff.commands.search:search",
    "bench": "mmdiff.commands.bench:bench",
    "convert": "mmdiff.commands.convert:convert",
    "export": "mmdiff.commands.export:export",
    "info": "mmdiff.commands.info:info",
}
"""Where each command's function is. It is imported when asked for, and imports torch when called."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the process's own; return the exit status."""
    return dispatch(COMMANDS, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
