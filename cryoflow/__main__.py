"""``python -m cryoflow`` is the ``cryoflow`` command."""

from cryoflow.cli import main

main()
