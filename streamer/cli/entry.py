"""Where a process of the command line begins, before anything that takes time is imported.

The modules of the commands, and the tree that is built of them, take some tenths of a second; Ctrl-C is heard then too.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process; never returns."""
    try:
        from streamer.cli.main import main as run

        run()
    except KeyboardInterrupt as error:
        from streamer.cli.complain import complain
        from streamer.cli.exit import status

        complain(error)
        sys.exit(status(error))
    finally:
        # If Ctrl-C came while code was run that was compiled from a text (every dataclass is made so), the interpreter
        # remembers, and ends by the signal whatever is made of it; the next such code has it forget.
        exec("")  # noqa: S102
