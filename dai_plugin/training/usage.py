"""Whether an attached network was ever called."""

import logging

logger = logging.getLogger("dai_plugin")


class Usage:
    """How often the network was called, in any mode; it outlives the network."""

    def __init__(self) -> None:
        self.calls = 0


def say_if_unused(usage: Usage, name: str) -> None:
    """Says so of a network that was attached and never called."""
    if not usage.calls:
        logger.warning(
            "a %s was attached and never called: nothing was trained with views and "
            "invariance. If a framework builds its networks anew, attach to the one "
            "that it trains",
            name,
        )
