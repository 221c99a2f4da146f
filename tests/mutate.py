"""Change a module one place at a time, and print which changes its tests find.

    python -m tests.mutate --sample 30 --seed 0 keras_kd/schedules.py -- tests/test_schedules.py -k ramp

Each change is made in a copy of the tree, and the tests are run there with `-x`. A change that no test finds is printed
as SURVIVED: either a test is missing, or the change does not matter, which is for a reader to decide. Importing
TensorFlow takes seconds; it is imported once, and each run is a fork of that process. Of the known tools, mutmut forks
a process that has run the tests, whose TensorFlow a fork cannot use, and cosmic-ray starts a process for each change.
"""

import argparse
import ast
import copy
import importlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]

#: What is put in the place of what.
_OPERATORS = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn}
_OPERATORS |= {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.And: ast.Or}
_OPERATORS |= {there: here for here, there in _OPERATORS.items()}
_OPERATORS |= {ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult}
_NAMES = {"min": "max", "minimum": "maximum", "argmin": "argmax", "mean": "sum", "any": "all", "zeros": "ones"}
_NAMES |= {there: here for here, there in _NAMES.items()}

Change = tuple[ast.AST, str]


def changes(node: ast.AST) -> Iterator[Change]:
    """Yield a node and a replacement, for a node and all that is in it."""
    yield from ((node, f"({ast.unparse(each)})") for each in of_expression(node))
    dropped = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if dropped or isinstance(node, (ast.AugAssign, ast.Raise, ast.Delete)) or _sets_attribute(node):
        yield node, "pass"
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield node, "return None"
    for name, field in ast.iter_fields(node):
        # What is raised and how it is worded is not changed, nor are types.
        if name in ("annotation", "returns") or isinstance(node, (ast.Raise, ast.JoinedStr)):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield from changes(child)


def of_expression(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the replacements of an expression."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in _OPERATORS:
        yield _with(node, op=_OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _OPERATORS:
        yield _with(node, ops=[_OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + max(1, node.value))
    elif isinstance(node, ast.IfExp):
        yield _with(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
        field = "id" if isinstance(node, ast.Name) else "attr"
        if getattr(node, field) in _NAMES:
            yield _with(node, **{field: _NAMES[getattr(node, field)]})
    elif isinstance(node, ast.Call):
        ordered = ast.unparse(node.func).split(".")[-1] not in _NAMES  # of a minimum, the order does not matter
        swaps = ordered and len(node.args) > 1 and not any(isinstance(each, ast.Starred) for each in node.args[:2])
        if swaps and ast.dump(node.args[0]) != ast.dump(node.args[1]):
            yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
        for keyword in node.keywords:
            yield _with(node, keywords=[each for each in node.keywords if each is not keyword])


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _sets_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript))


def applied(source: str, node: ast.AST, replacement: str) -> str:
    """Return the source with the text of a node replaced; its places are in bytes of UTF-8."""
    lines = source.encode().splitlines(keepends=True)
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    return (before + replacement.encode() + after).decode()


def tested(folder: pathlib.Path, tests: list[str], seconds: float) -> bool:
    """Run the tests in a fork that has TensorFlow, and return whether they pass, and in time."""
    process = os.fork()
    if process == 0:
        _run(folder, tests)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def _run(folder: pathlib.Path, tests: list[str]) -> None:
    """Run the tests of a folder, and end this process with pytest's exit code."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "keras_kd")]:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)  # of processes that tests start
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="as keras_kd/schedules.py")
    parser.add_argument("tests", nargs="+", help="files of tests, or what else pytest takes")
    parser.add_argument("--sample", type=int, help="how many changes, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of that (default: 0)")
    options = parser.parse_args()
    sys.dont_write_bytecode = True  # files of one size that change within a second would be treated as the same
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in ("tensorflow", "keras"):
        importlib.import_module(name)
    source = (ROOT / options.module).read_text()
    found = list(changes(ast.parse(source)))
    drawn = (
        found if options.sample is None else random.Random(options.seed).sample(found, min(options.sample, len(found)))
    )
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(judge(copied(pathlib.Path(folder)), options.module, options.tests, source, drawn))


def copied(folder: pathlib.Path) -> pathlib.Path:
    """Copy the files of this tree, without those that git ignores."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.decode().splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def judge(folder: pathlib.Path, module: str, tests: list[str], source: str, drawn: list[Change]) -> int:
    """Print for each change whether the tests find it, and return 0, or 1 where they fail without a change."""
    started = time.monotonic()
    if not tested(folder, tests, 600):
        print("The tests fail without a change:\n" + (folder / "output.txt").read_text()[-2000:])
        return 1
    limit = 10 + 3 * (time.monotonic() - started)
    survived = 0
    for node, replacement in drawn:
        (folder / module).write_text(applied(source, node, replacement))
        passed = tested(folder, tests, limit)
        survived += passed
        before = " ".join((ast.get_source_segment(source, node) or "").split())
        print(f"{'SURVIVED' if passed else 'found':<9}{module}:{node.lineno}: {before}  ->  {replacement}", flush=True)
    count = len(drawn)
    print(f"{count - survived} of {count} changes found ({100 * (count - survived) / max(count, 1):.0f} %)")
    return 0


if __name__ == "__main__":
    main()
