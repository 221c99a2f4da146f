"""The code of the pages: README and docs, by heading, run as a reader would run it."""

import dataclasses
import pathlib

from markdown_it import MarkdownIt

ROOT = pathlib.Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of code: the heading above it, the line before it, where it is, and its content."""

    page: str
    heading: str
    label: str
    line: int
    code: str

    def run(self, namespace: dict) -> None:
        """Run it; an error names the line of the page."""
        exec(compile("\n" * self.line + self.code, ROOT / self.page, "exec"), namespace)

    def lines(self) -> int:
        """Return how many lines of code there are, without comments and empty ones."""
        lines = [line.strip() for line in self.code.splitlines()]
        return sum(bool(line) and not line.startswith("#") for line in lines)


def blocks(page: str) -> list[Block]:
    """Return the Python blocks of a page, in its order."""
    found, heading, label = [], "", ""
    tokens = MarkdownIt().parse((ROOT / page).read_text())
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline" and before is not None and before.type == "heading_open":
            heading = token.content
        elif token.type == "inline":
            label = token.content
        elif token.type == "fence" and token.info == "python":
            found.append(Block(page, heading, label, token.map[0] + 1, token.content))
    return found
