"""Weights of the layers, which sum to alpha: pure functions."""

from collections.abc import Mapping, Sequence

Law = str | Sequence[float] | Mapping[str, float]
Key = tuple[str, int]  # a layer, and which of its calls in a forward


def key_name(key: Key) -> str:
    """What users see: "name" for the first call of a layer, "name:1" for the second."""
    name, call = key
    return f"{name}:{call}" if call else name


def layer_weights(
    num_layers: int,
    alpha: float = 0.1,
    law: Law = "exponential",
    last_to_first: float = 10.0,
) -> list[float]:
    """Weights alpha_l of the layers, first to last, which sum to `alpha`.

    Args:
        num_layers: L.
        alpha: the sum of all weights, in [0, 1].
        law: "exponential" (the paper's: `ratio^((l-1)/(L-1))`), "linear" (from 1 to
            ratio), "uniform", or relative weights of one's own (a mapping is taken in
            its own order).
        last_to_first: ratio of the last weight to the first, for the first two laws.

    Raises:
        ValueError: an unknown law, a wrong number of weights, negative or all-zero
            weights, `alpha` outside [0, 1], or `last_to_first <= 0`.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {num_layers}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if not last_to_first > 0:
        raise ValueError(f"last_to_first must be positive, got {last_to_first}")
    raw = _relative_weights(num_layers, law, last_to_first)
    if len(raw) != num_layers:
        raise ValueError(f"got {len(raw)} layer weights for {num_layers} layers")
    if not all(0 <= weight < float("inf") for weight in raw) or not any(raw):
        raise ValueError(
            f"layer weights must be finite, none negative and not all zero, got {raw}"
        )
    return [alpha * weight / sum(raw) for weight in raw]


def _relative_weights(
    num_layers: int,
    law: Law,
    last_to_first: float,
) -> list[float]:
    depth = [i / max(num_layers - 1, 1) for i in range(num_layers)]
    if law == "exponential":
        return [last_to_first**d for d in depth]
    if law == "linear":
        return [1 + (last_to_first - 1) * d for d in depth]
    if law == "uniform":
        return [1.0] * num_layers
    if isinstance(law, str):
        raise ValueError(
            f"unknown law of layer weights {law!r}: take 'exponential', 'linear', "
            "'uniform', or give one number a layer"
        )
    return [float(w) for w in (law.values() if isinstance(law, Mapping) else law)]


def spread_weights(
    law: Law, last_to_first: float, chosen: Sequence[str], fired: Sequence[Key]
) -> list[float]:
    """Weights that sum to 1, for layers in the order in which they fired.

    Args:
        law: as in `layer_weights`; numbers of one's own belong to the chosen layers, in
            their order or by name, and a layer left out of a mapping weighs nothing.
            The calls of a layer share its number.
        last_to_first: as in `layer_weights`.
        chosen: names of the chosen layers.
        fired: the calls: (name, 0) the first of a layer, (name, 1) its second.

    Raises:
        KeyError: a mapping names a layer that was not chosen.
        ValueError: as in `layer_weights`.
    """
    if isinstance(law, str):
        return layer_weights(len(fired), 1.0, law, last_to_first)
    if isinstance(law, Mapping):
        unknown = [name for name in law if name not in chosen]
        if unknown:
            raise KeyError(
                f"layer_weights names {unknown}, which are not among the chosen layers "
                f"{list(chosen)}"
            )
        law = [law.get(name, 0.0) for name in chosen]
    own = dict(zip(chosen, layer_weights(len(chosen), 1.0, law), strict=True))
    layers = [name for name, _ in fired]
    return layer_weights(
        len(fired), 1.0, [own[name] / layers.count(name) for name in layers]
    )
