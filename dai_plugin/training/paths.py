"""The way from a network to one of its modules, which a loop may replace."""

from torch import nn


class Path:
    """How a module is reached from the network: looked up again at little cost."""

    def __init__(self, base: nn.Module, module: nn.Module) -> None:
        names = base.named_modules(remove_duplicate=False)
        full = next((name for name, each in names if each is module), "")
        self._steps: list[tuple[dict[str, nn.Module | None], str, nn.Module]] = []
        for part in full.split(".") if full else []:
            child = base._modules[part]
            assert child is not None
            self._steps.append((base._modules, part, child))
            base = child

    def still_leads_there(self) -> bool:
        """Whether no module on the way was replaced."""
        return all(held.get(part) is child for held, part, child in self._steps)
