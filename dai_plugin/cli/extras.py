"""The parts of the package that need more packages than it does."""

import importlib
from typing import Any


def of_report(module: str) -> Any:
    """A module of `dai_plugin.report`.

    Raises:
        RuntimeError: a package that it needs is not installed.
    """
    try:
        return importlib.import_module(f"dai_plugin.report.{module}")
    except ImportError as error:
        raise RuntimeError(
            f"tables and pictures need the extra packages of `report` ({error}): "
            "pip install 'dai-plugin[report]'; `dai-plugin measure` needs none of them"
        ) from error
