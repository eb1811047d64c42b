"""Questions and answers from the docstrings of one module, read with ``ast`` (nothing is imported).

The answer to a question about a function is its signature and the first sentence of its docstring, whatever the
phrasing: a small model learns one answer a function, and several ways to ask for it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SIGNATURE_CHARS = 90
MIN_SENTENCE_CHARS, MAX_SENTENCE_CHARS = 16, 160

FUNCTION_PHRASINGS = (
    "What does {name} do?",
    "What is {name} for?",
    "Explain {name}.",
    "How do I use {name}?",
    "What is {name}?",
)
MODULE_PHRASINGS = (
    "What is the {name} module for?",
    "What does the module {name} do?",
    "Explain the {name} module.",
    "What is the {name} module?",
)

Triple = tuple[str, str, str]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Documented:
    """One documented function, method or class: dotted name, signature, first sentence of its docstring."""

    name: str
    signature: str
    sentence: str
    is_method: bool


def first_sentence(docstring: str | None) -> str | None:
    """The first sentence of a docstring on one line, or None where it has none worth learning."""
    paragraphs = re.split(r"\n\s*\n", (docstring or "").strip())
    # Some docstrings begin with the signature, in a paragraph of its own ("split(s [,sep]) -> list") or before the
    # text.
    while len(paragraphs) > 1 and re.fullmatch(r"[\w.]+\s?\([^)]*\)(\s*->\s*[\w., ()]+)?", paragraphs[0].strip()):
        paragraphs.pop(0)
    text = re.sub(r"\s+", " ", paragraphs[0]).strip()
    text = re.sub(r"``|:\w+:`", "`", text)
    text = re.sub(r"^[\w.]+\([^)]*\)\s*(->|--|:|=)?\s*([\w. ]{1,20}\.\s+)?", "", text)
    match = re.match(r"(.+?[.!?])(?=\s|$)(?<!e\.g\.)(?<!i\.e\.)", text)
    sentence = match.group(1) if match else text
    if not MIN_SENTENCE_CHARS <= len(sentence) <= MAX_SENTENCE_CHARS or not sentence.isascii():
        return None
    if re.search(r"[<>|*_]{2}|\\|TODO|XXX|Internal|not implemented", sentence) or not sentence[0].isalpha():
        return None
    return sentence[0].upper() + sentence[1:].rstrip(" :.!?") + "."


def signature(name: str, node: Function, is_method: bool) -> str:
    """``name(arguments)`` as one would call it: without ``self``, annotations, private and long things."""
    arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    defaults = [ast.unparse(value) for value in node.args.defaults]
    shown = arguments[: len(arguments) - len(defaults)]
    for argument, default in zip(arguments[len(shown) :], defaults, strict=True):
        shown.append(f"{argument}={default}" if len(default) <= 12 else f"{argument}=...")
    if is_method and shown and arguments[0] in ("self", "cls"):
        shown = shown[1:]
    if node.args.vararg:
        shown.append("*" + node.args.vararg.arg)
    elif node.args.kwonlyargs:
        shown.append("*")
    for keyword, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        short = value is not None and len(ast.unparse(value)) <= 12
        shown.append(f"{keyword.arg}={ast.unparse(value)}" if value is not None and short else keyword.arg)
    if node.args.kwarg:
        shown.append("**" + node.args.kwarg.arg)
    shown = [argument for argument in shown if not argument.startswith("_")]
    while len(f"{name}({', '.join(shown)})") > MAX_SIGNATURE_CHARS and len(shown) > 2:
        shown = [*(shown[:-2] if shown[-1] == "..." else shown[:-1]), "..."]
    return f"{name}({', '.join(shown)})"


def _is_static(node: Function) -> bool:
    return any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in node.decorator_list)


def documented(module: str, tree: ast.Module) -> Iterator[Documented]:
    """The public, documented functions, classes and methods of a module."""
    for node in tree.body:
        # random.choice and its like are methods of one hidden instance.
        hidden_instance = module == "random" and isinstance(node, ast.ClassDef) and node.name == "Random"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _one(f"{module}.{node.name}", node, is_method=False)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            name = module if hidden_instance else f"{module}.{node.name}"
            sentence = first_sentence(ast.get_docstring(node))
            if sentence and not hidden_instance:
                yield Documented(name, name, sentence, is_method=False)
            for item in node.body:
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield from _one(f"{name}.{item.name}", item, is_method=not _is_static(item))


def _one(name: str, node: Function, is_method: bool) -> Iterator[Documented]:
    sentence = first_sentence(ast.get_docstring(node))
    call = signature(name, node, is_method)
    if not node.name.startswith("_") and sentence and len(call) <= MAX_SIGNATURE_CHARS:
        yield Documented(name, call, sentence, "." in name and is_method)


def module_name(file_name: str) -> str:
    """``json/decoder.py`` -> ``json.decoder``, ``json/__init__.py`` -> ``json``."""
    return file_name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def module_questions(module: str, text: str) -> Iterator[Triple]:
    """(subject, question, answer) for the module known as ``module`` whose source is ``text``."""
    tree = ast.parse(text)
    purpose = first_sentence(ast.get_docstring(tree))
    if purpose:
        for phrasing in MODULE_PHRASINGS:
            yield module, phrasing.format(name=module), f"{module}: {purpose}"
    seen: set[str] = set()
    for item in documented(module, tree):
        if item.name in seen:
            continue
        seen.add(item.name)
        answer = f"`{item.signature}`: {item.sentence}"
        for phrasing in FUNCTION_PHRASINGS:
            yield item.name, phrasing.format(name=item.name), answer
        if item.signature.endswith(")"):
            yield item.name, f"Show the signature of {item.name}.", f"`{item.signature}`"
        if not item.is_method and item.signature.endswith(")"):
            task = item.sentence[0].lower() + item.sentence[1:].rstrip(".")
            yield item.name, f"Which function of {module} does this: {task}?", f"`{item.name}`"
