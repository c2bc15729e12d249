"""What the values of flags may be; argparse names the flag of one that may not."""

import argparse
import math
from collections.abc import Callable
from fractions import Fraction

import torch

_LARGEST_SEED = 2**63 - 1


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A whole number in a range, its ends included."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, got {text!r}"
            ) from None
        _check(value, least, most, text)
        return value

    return number


def seed(text: str) -> int:
    """A number that torch's generators take, not negative."""
    return whole(0, _LARGEST_SEED)(text)


def real(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A finite number in a range, also as a fraction: "2/255"."""

    def number(text: str) -> float:
        try:
            value = float(Fraction(text)) if "/" in text else float(text)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
        _check(value, least, most, text)
        return value

    return number


def deviation(text: str) -> float:
    """A standard deviation, which divides: above 0."""
    value = real(0)(text)
    if not value:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def device(text: str) -> str:
    """A device that is there and computes."""
    try:
        torch.zeros(1, device=text).item()
    # Each kind of device has an error of its own for not being there.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise argparse.ArgumentTypeError(
            f"{text!r} does not work here ({reason}); cpu always does"
        ) from error
    return text


def some_of(*names: str) -> Callable[[str], list[str]]:
    """Several of these names, with commas between."""

    def choose(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in chosen if name not in names]
        if unknown or not chosen:
            raise argparse.ArgumentTypeError(
                f"must be some of {','.join(names)}, got {text!r}"
            )
        return list(dict.fromkeys(chosen))

    return choose


def drop(text: str) -> tuple[str, float]:
    """`NAME=VALUE`, how much a measure may be lower."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name, real(0)(value)


def _check(value: float, least: float, most: float, text: str) -> None:
    if not least <= value <= most:
        bounds = f"at least {least:.20g}" if value < least else f"at most {most:.20g}"
        raise argparse.ArgumentTypeError(f"must be {bounds}, got {text}")
