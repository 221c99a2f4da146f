"""What can be searched: temperature, alpha, method, weights."""

from typing import Any

from keras_kd import losses
from keras_kd.experiments.benchmark_run import fresh_terms
from keras_kd.term import Term

_NAMES = ("temperature", "alpha", "method", "weights")


def check_space(space: dict[str, Any]) -> dict[str, Any]:
    """Return the space, or raise an error that describes what is wrong with it."""
    unknown = sorted(set(space) - set(_NAMES))
    if unknown or not space:
        raise ValueError(
            f"Expected `space` to name some of {_NAMES}. Received: {sorted(space)}. To search for anything else, "
            "write a keras_tuner.HyperModel whose `build` returns a compiled Distiller."
        )
    plain = {name: space[name] for name in ("temperature", "alpha") if name in space}
    for name, values in {**plain, **space.get("weights", {})}.items():
        is_range = isinstance(values, tuple) and len(values) == 2 and values[0] < values[1]
        if isinstance(values, tuple) and (not is_range or (name != "alpha" and values[0] <= 0)):
            raise ValueError(
                f"Expected the range of {name!r} as (low, high), above 0 where it is drawn by its logarithm. Received: "
                f"{values!r}. A list gives choices."
            )
    for method in space.get("method", {}).values():
        if not callable(method):
            fresh_terms(method)
    _check_weights(space)
    return space


def _check_weights(space: dict[str, Any]) -> None:
    methods = methods_of(space)
    if any(callable(method) for method in methods.values()):
        return
    names = {term.name for method in methods.values() for term in method}
    unknown = sorted(set(space.get("weights", {})) - names)
    if unknown:
        raise ValueError(f"Expected `weights` to name terms: {sorted(names)}. Received: {unknown}")


def parameter(hp: Any, name: str, values: Any) -> Any:
    """Ask KerasTuner for a value of a range or of a list; one number is itself."""
    if isinstance(values, tuple):
        sampling = "linear" if name == "alpha" else "log"
        return hp.Float(name, float(values[0]), float(values[1]), sampling=sampling)
    return hp.Choice(name, values) if isinstance(values, list) else hp.Fixed(name, values)


def methods_of(space: dict[str, Any]) -> dict[str, Any]:
    """Return the methods of a space: terms, or functions that make them, by name."""
    return space.get("method", {"kl_divergence": [Term(losses.kl_divergence)]})


def weight_of(term: str) -> str:
    """Return the name under which a term's weight is searched."""
    return f"weight of {term}"
