"""Build the site: run the notebooks, then Sphinx, whose every warning is an error.

    make docs                          # all notebooks in full: half an hour, once; then only those that changed
    make docs ARGS=--smoke             # the same cells on less data, for less time
    make docs ARGS=--links             # also asks whether the links to other hosts are alive: needs a network

Sphinx reads a copy of the tree, docs/_build/source, in which the notebooks are the executed ones. Files keep their
places there, so a link that works in the repository works on the site.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zlib

from run_notebooks import ROOT, run_all

BUILD = ROOT / "docs" / "_build"
SOURCE = BUILD / "source"
#: What pages link to or show, beside the pages themselves.
FOLDERS = ("docs", "examples", "keras_kd", "tests")
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")


def main() -> None:
    """Build it; the exit code is 1 if a notebook fails, or Sphinx has anything to say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--smoke", action="store_true", help="run the notebooks with their parameters for a minute each"
    )
    parser.add_argument("--fresh", action="store_true", help="start from nothing, and execute every notebook again")
    parser.add_argument("--links", action="store_true", help="check the links to other hosts")
    options = parser.parse_args()
    if options.fresh:
        for folder in ("source", "html", "doctrees"):
            shutil.rmtree(BUILD / folder, ignore_errors=True)
    executed = BUILD / ("executed-smoke" if options.smoke else "executed")
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    chosen = drawn(notebooks) if options.smoke else notebooks
    if not run_all(chosen, executed, smoke=options.smoke, fresh=options.fresh):
        sys.exit("The site was not built: a notebook failed.")
    gather([executed / path.name if path in chosen else path for path in notebooks])
    sphinx("html")
    check_hosts(BUILD / "html")
    if options.links:
        sphinx("linkcheck")
    print("Open docs/_build/html/index.html, or serve it: python -m http.server --directory docs/_build/html")


def drawn(notebooks: list[pathlib.Path]) -> list[pathlib.Path]:
    """Return all notebooks, or the quarter that KERAS_KD_DRAW chooses; the others are shown without their outputs."""
    draw = os.environ.get("KERAS_KD_DRAW")
    if not draw:
        return notebooks
    order = sorted(notebooks, key=lambda path: zlib.crc32((draw + path.stem).encode()))
    return sorted(order[: -(-len(order) // 4)])


def gather(notebooks: list[pathlib.Path]) -> None:
    """Copy into SOURCE what has changed, and remove from it what is gone."""
    wanted = {pathlib.Path(name): ROOT / name for name in PAGES}
    for name in FOLDERS:
        files = (path for path in (ROOT / name).rglob("*") if path.is_file())
        wanted |= {path.relative_to(ROOT): path for path in files if not {"_build", "__pycache__"} & set(path.parts)}
    wanted |= {pathlib.Path("notebooks") / path.name: path for path in notebooks}
    wanted[pathlib.Path("index.md")] = wanted.pop(pathlib.Path("docs/index.md"))
    for name, path in wanted.items():
        target = SOURCE / name
        if not target.exists() or target.read_bytes() != path.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in [path for path in SOURCE.rglob("*") if path.is_file()]:
        if path.relative_to(SOURCE) not in wanted:
            path.unlink()


def sphinx(builder: str) -> None:
    """Run Sphinx; a warning is an error."""
    options = ["--fail-on-warning", "--nitpicky", "--quiet", "--jobs", "auto"]
    folders = ["--conf-dir", SOURCE / "docs", "--doctree-dir", BUILD / "doctrees", SOURCE, BUILD / builder]
    command = [sys.executable, "-m", "sphinx", "--builder", builder, *options, *map(str, folders)]
    if subprocess.run(command, cwd=ROOT).returncode:
        shutil.rmtree(BUILD / "doctrees", ignore_errors=True)  # or the next run would not repeat the warnings
        sys.exit(f"The site has errors; the paths above are those of the copies in {SOURCE.relative_to(ROOT)}.")


def check_hosts(folder: pathlib.Path) -> None:
    """Stop if a page loads anything from another host: the site must work without a network."""
    address = r"""["'](?:https?:)?//"""
    loads = re.compile(rf"<(?:script|img|iframe|source)[^>]*\ssrc={address}[^>]*>|<link[^>]*\shref={address}[^>]*>")
    outside = {path.name: loads.findall(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    for name, tags in outside.items():
        if tags:
            sys.exit(f"Expected {name} to load nothing from other hosts. Received: {tags}")


if __name__ == "__main__":
    main()
