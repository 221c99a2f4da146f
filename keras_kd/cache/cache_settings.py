"""The settings of a cache."""

import contextlib
import json
from typing import Any

from keras_kd._internal import sparse_targets
from keras_kd.cache import row_fingerprints
from keras_kd.cache.elements import Augment, Key

#: "packed" is for top-k targets, see `packed_classes`; what else is kept beside them is float16.
DTYPES = ("float16", "float32", "packed")

#: Settings that earlier formats do not have.
NEW = ("tokens", "template")


def make_settings(
    fingerprint: dict[str, str],
    kinds: dict[str, str],
    specs: dict[str, Any] | None,
    top_k: int | None,
    dtype: str,
    views: int,
    augment: Augment | None,
    key: Key | None,
    check_bytes: int,
) -> dict[str, Any]:
    """Return the settings of a cache as plain values.

    Args:
        fingerprint: of the teacher.
        kinds: the head of the teacher under each name that is kept.
        specs: symbolic tensors of its targets, or None where they are not known before data are seen.
        top_k: see `TeacherCache`, as for what follows.
        dtype: see there.
        views: see there.
        augment: see there.
        key: see there.
        check_bytes: see there.

    Raises:
        ValueError: settings out of range, or targets that they do not fit.
    """
    if dtype not in DTYPES:
        raise ValueError(f"Expected `dtype` to be one of {DTYPES}. Received: dtype={dtype!r}")
    if dtype == "packed" and top_k is None:
        raise ValueError(
            'Expected `top_k`, the number of classes to keep, with dtype="packed", which is the code of a few classes. '
            'Received: top_k=None. Give top_k, as 50, or dtype="float16" for all classes.'
        )
    if isinstance(views, bool) or not isinstance(views, int) or views < 1:
        raise ValueError(f"Expected `views` to be a whole number from 1 on. Received: views={views!r}")
    if views > 1 and augment is None:
        raise ValueError(f"Expected `augment` for several views, which would be equal without. Received: views={views}")
    if isinstance(check_bytes, bool) or check_bytes not in row_fingerprints.TYPES:
        raise ValueError(
            f"Expected `check_bytes` to be one of {tuple(row_fingerprints.TYPES)}. Received: "
            f"check_bytes={check_bytes!r}"
        )
    sparse_targets.check_top_k(top_k, kinds, specs)
    return {
        **fingerprint,
        "taps": kinds,
        "top_k": top_k,
        "dtype": dtype,
        "check_bytes": check_bytes,
        "views": views,
        "augmented": augment is not None,
        "key": None if key is None else key if isinstance(key, str) else "a function",
    }


def check_template(template: Any) -> Any:
    """Return a template as the file will have it.

    Raises:
        TypeError: it is neither a string nor a dict of plain values.
    """
    if template is None or isinstance(template, str):
        return template
    with contextlib.suppress(TypeError, ValueError):
        if isinstance(template, dict):
            return json.loads(json.dumps(template, sort_keys=True))
    raise TypeError(
        "Expected `template` to be a string, or a dict of strings, numbers and lists of these. Received: "
        f"{template!r} of type {type(template).__name__}"
    )


def check_taps(taps: Any) -> tuple[str, ...]:
    """Return names without repetitions.

    Raises:
        ValueError: these are no names.
    """
    if isinstance(taps, str) or not taps or not all(isinstance(name, str) for name in taps):
        raise ValueError(f'Expected `taps` to be names, as ("logits",). Received: taps={taps!r}')
    return tuple(dict.fromkeys(taps))
