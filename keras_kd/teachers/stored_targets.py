"""What a teacher of stored targets reads of a cache, without what builds and reads its files."""

import pathlib
from typing import Any


class StoredTargets:
    """Targets of a teacher on disk, as `teachers.Cached` reads them.

    Attributes:
        path: of the cache.
        epoch: whose view is joined to the examples; None before training.
    """

    path: pathlib.Path
    epoch: int | None = None

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of what is stored."""
        raise NotImplementedError

    @property
    def mark(self) -> str | None:
        """What examples carry that were joined by this cache."""
        raise NotImplementedError

    @property
    def tokens(self) -> dict[str, Any] | None:
        """What the tokens are, of a teacher that reads text."""
        raise NotImplementedError

    def kind(self, name: str) -> str:
        """Return what an output of the teacher is."""
        raise NotImplementedError

    def names_few(self, name: str) -> bool:
        """Return whether only some classes are stored under a name."""
        raise NotImplementedError

    def specs(self) -> dict[str, Any] | None:
        """Return symbolic tensors of what is stored, or None where it is not known yet."""
        raise NotImplementedError
