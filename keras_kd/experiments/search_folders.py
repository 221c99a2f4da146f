"""The folder of a search: which search it is of, so that none goes on with what another has kept."""

import json
import pathlib
from typing import Any

from keras_kd._internal.files import readable, replace
from keras_kd.experiments import run_settings


def claim(folder: pathlib.Path, decides: dict[str, Any]) -> None:
    """Note whose a folder is, and make it where it is not there.

    Args:
        folder: where a search keeps its trials.
        decides: its settings, as JSON has them.

    Raises:
        ValueError: it is of a search with other settings, or holds something else; a damaged file.
    """
    path = folder / "search.json"
    if path.exists():
        with readable(path, f"Remove {str(folder)!r}, and the search is made again."):
            there = dict(json.loads(path.read_text()))
        name = run_settings.difference(there, decides)
        if name is not None:
            raise ValueError(
                f"{str(folder)!r} holds a search with another `{name}` than is given now. Use another folder, or "
                "remove that one."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"Expected an empty folder, or one of a search. {str(folder)!r} holds something else.")
    folder.mkdir(parents=True, exist_ok=True)
    replace(path, lambda partial: partial.write_text(json.dumps(decides, indent=1)))
