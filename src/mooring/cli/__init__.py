"""The ``mooring`` command. This module stays light: ``mooring --help`` must answer at once.

``table`` names the commands, ``app`` is the lazy group over them, ``commands/`` holds one module per command,
``client`` speaks to a server, ``repl/`` is the chat of ``mooring run``.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and exit with its code (see ``exit_codes``)."""
    try:
        from mooring.cli.app import build_app

        build_app()(prog_name="mooring")
    except KeyboardInterrupt:
        sys.exit(130)
