"""What our docstrings and pages need of Sphinx beyond its own: names in backticks, papers, formulas."""

import inspect
import pathlib
import re
from typing import Any

import keras
import site_names
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

_API = pathlib.Path(__file__).parent / "api"
_ARXIV = re.compile(r"\barXiv (\d{4}\.\d{4,5})")


class PythonName(SphinxRole):
    """Show `text` as code, and link it where it is a public name, as in `Distiller.compile` or `losses.pkt`."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link, or the code alone."""
        code = nodes.literal(self.rawtext, self.text)
        target = full_name(self.text.removesuffix("()"), self.env.ref_context.get("py:module", "keras_kd"))
        if target is None:
            return [code], []
        link = addnodes.pending_xref("", code, refdomain="py", reftype="obj", reftarget=target, refexplicit=True)
        link["refdoc"] = self.env.docname
        self.set_source_info(link)
        return [link], []


class AutoFamily(SphinxDirective):
    """Show what a package offers of one of its files: `.. autofamily:: keras_kd.losses.logits`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the entries, in the order of the file."""
        names = site_names.family(self.arguments[0])
        kinds = ["class" if isinstance(site_names.public_names()[name], type) else "function" for name in names]
        entries = [f".. auto{kind}:: {name}" for kind, name in zip(kinds, names, strict=True)]
        module = f".. currentmodule:: {names[0].rpartition('.')[0]}"
        return self.parse_text_to_nodes("\n\n".join([module, *entries]))


def full_name(text: str, module: str) -> str | None:
    """Return the documented name that `text` means in a module, or None where it means none, or several."""
    objects = site_names.documented_names(_API)
    names = objects | {f"{name}.{member}" for name in objects for member in _members(name)}
    for name in (f"{module}.{text}", f"keras_kd.{text}", re.sub(r"^kd\b", "keras_kd", text)):
        if name in names:
            return name
    ending = [name for name in (names if "." in text else objects) if name.endswith(f".{text}")]
    return ending[0] if len(ending) == 1 else None


def _members(name: str) -> list[str]:
    value = site_names.public_names().get(name)
    if not isinstance(value, type):
        return []
    own = {key for key, member in vars(value).items() if member.__doc__ and not key.startswith("_")}
    return sorted(own - set(site_names.PLUMBING))


def _link_papers(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [_ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", line) for line in lines]


def _show_arguments(app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
    """Show the arguments of a class: Keras's layers and models hide them behind `__new__(*args, **kwargs)`."""
    if what != "class" or not issubclass(obj, keras.layers.Layer):
        return None
    signature = inspect.signature(obj.__init__)
    bare = [each.replace(annotation=each.empty) for each in list(signature.parameters.values())[1:]]
    return str(inspect.Signature(bare)), None


def _leave_out_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of a named tuple, which its docstring tells of."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


def _mend_links(app: Sphinx, document: nodes.document) -> None:
    """Send links to the README to the first page, which includes it; a folder has no page, and its link goes."""
    folder = app.env.doc2path(app.env.docname).parent
    for link in [link for link in document.findall(addnodes.pending_xref) if link["reftype"] == "myst"]:
        if link["reftarget"] == "README":
            link["reftarget"] = app.config.root_doc
        elif (folder / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def _without_notebooks(app: Sphinx, docname: str, source: list[str]) -> None:
    """Ask for no notebooks where there are none: that would be a warning, which cannot be told from others."""
    if docname == app.config.root_doc and not any(app.srcdir.glob("notebooks/*.ipynb")):
        source[0] = source[0].replace("notebooks/*", "")


def _formula(translator: Any, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _formula_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register all of it."""
    app.add_role("python_name", PythonName())
    app.add_directive("autofamily", AutoFamily)
    app.connect("autodoc-process-docstring", _link_papers)
    app.connect("autodoc-process-signature", _show_arguments)
    app.connect("autodoc-skip-member", _leave_out_fields)
    app.connect("source-read", _without_notebooks)
    app.connect("doctree-read", _mend_links)
    app.add_html_math_renderer("mathml", inline_renderers=(_formula, None), block_renderers=(_formula_block, None))
