"""``python -m mooring`` is the ``mooring`` command."""

from mooring.cli import main

if __name__ == "__main__":
    main()
