"""The formats of an export, one in each file: how it is written, what runs it, and how far it may differ.

One more is a file with `variants`, a line in `_FORMATS`, and what opens it in `runtimes.model_files.open_file`.
"""

import importlib.util
from collections.abc import Callable, Sequence

from keras_kd.exporting.formats import keras_file, litert, onnx, saved_model
from keras_kd.exporting.formats.format import Format as Format

#: By the names that users give: from the entries of `quantize` to one format for each file.
_FORMATS: dict[str, Callable[[tuple[str | None, ...]], list[Format]]] = {
    "saved_model": saved_model.variants,
    "litert": litert.variants,
    "onnx": onnx.variants,
    "keras": keras_file.variants,
}


def chosen(formats: Sequence[str], quantize: str | None | Sequence[str | None]) -> list[Format]:
    """Return the formats by name; there are as many LiteRT files as `quantize` has entries.

    Raises:
        ValueError: a name that is none.
        ImportError: a package is missing.
    """
    kinds = (quantize,) if quantize is None or isinstance(quantize, str) else tuple(quantize)
    names, quantized = tuple(_FORMATS), tuple(litert.TOLERANCES)
    if isinstance(formats, str) or not formats or not set(formats) <= set(names):
        raise ValueError(f"Expected `formats` to be some of {names}, as in formats=('litert',). Received: {formats!r}")
    if not kinds or not set(kinds) <= set(quantized):
        raise ValueError(f"Expected `quantize` to be of {quantized}, or several of them. Received: {quantize!r}")
    if any(kinds) and "litert" not in formats:
        raise ValueError(f"Expected 'litert' among `formats`: quantize={quantize!r} is for that. Received: {formats!r}")
    found = [each for name in dict.fromkeys(formats) for each in _FORMATS[name](kinds)]
    for each in found:
        missing = [name for name in each.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f'The format {each.name!r} needs {missing}: pip install "keras_kd[{each.extra}]"')
    return found
