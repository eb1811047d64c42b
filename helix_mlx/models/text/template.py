"""A model's chat template: its variables, where it expects reasoning, and rendering messages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import Environment, meta, nodes
from jinja2.exceptions import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers import PreTrainedTokenizerBase

from helix_mlx.errors import SettingsError
from helix_mlx.thinking import ThinkMarks

_REASONING = "reasoning_content"
"""Where a message has its reasoning, if not in its content."""
_FIELDS = (_REASONING, "thinking", "reasoning")
"""What templates call the reasoning of a message that they want apart from its content, the usual name first."""
_HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
_HARMONY_MARKS = ThinkMarks(
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    plain="<|channel|>final<|message|>",
)
"""How gpt-oss writes: in channels, of which mlx-lm knows no marks. An answer without reasoning has a channel, too."""
_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the variable that turns thinking on and off, the usual name first."""
_GENERATION_TAG = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
"""A tag of transformers' own, which marks answers for training."""
_VARIABLES_OF_ARGUMENTS = ("tools", "documents")
"""Arguments of transformers' rendering that are nothing but variables of the template."""


class ChatTemplate:
    """The chat template of a tokenizer, and the marks of the model's reasoning.

    Args:
        wrapper: mlx-lm's tokenizer.
    """

    def __init__(self, wrapper: TokenizerWrapper) -> None:
        self._wrapper = wrapper
        start, end = getattr(wrapper, "think_start", None), getattr(wrapper, "think_end", None)
        self.marks = ThinkMarks(start, end) if start and end else None
        vocab = wrapper.get_vocab() if self.marks is None else ()
        if self.marks is None and all(token in vocab for token in _HARMONY):
            self.marks = _HARMONY_MARKS

    @property
    def _inner(self) -> Any:
        """The tokenizer within mlx-lm's, which would turn thinking on where nobody has said so."""
        return self._wrapper._tokenizer

    @property
    def _function(self) -> Any:
        """A template in Python, which mlx-lm has for a few families; None where it is in Jinja."""
        return getattr(self._wrapper, "_chat_template", None)

    @property
    def source(self) -> str:
        """The template in Jinja; empty where there is none."""
        template = self._inner.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return template if isinstance(template, str) else ""

    @cached_property
    def _tree(self) -> nodes.Template | None:
        """The template in Jinja as it parses; None where it does not, and rendering says what is wrong with it."""
        try:
            return Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION_TAG.sub("", self.source))
        except TemplateError:
            return None

    @cached_property
    def variables(self) -> frozenset[str]:
        """The variables that a template in Jinja reads."""
        return frozenset() if self._tree is None else frozenset(meta.find_undeclared_variables(self._tree))

    @cached_property
    def switch(self) -> str | None:
        """The variable that turns thinking on and off; None where there is none."""
        if self._in_python:
            return str(getattr(self._wrapper, "_thinking_kwarg", _SWITCHES[0]))
        return next((name for name in _SWITCHES if name in self.variables), None)

    @property
    def _in_python(self) -> bool:
        """Whether a function renders, which may take any variable: mlx-lm's, or one that a tokenizer brings along."""
        own = getattr(type(self._inner), "apply_chat_template", None)
        return self._function is not None or own is not PreTrainedTokenizerBase.apply_chat_template

    @cached_property
    def _field(self) -> str | None:
        """Where the template looks for the reasoning of a message; None where it reads the content alone."""
        if self._function is not None:
            return _REASONING  # as OpenAI has it, which is what those functions are written for
        read: set[object] = set()
        if self._tree is not None:
            read |= {node.attr for node in self._tree.find_all(nodes.Getattr)}
            read |= {getattr(node.arg, "value", None) for node in self._tree.find_all(nodes.Getitem)}
            calls = [node for node in self._tree.find_all(nodes.Call) if getattr(node.node, "attr", None) == "get"]
            read |= {getattr(node.args[0], "value", None) for node in calls if node.args}
        return next((field for field in _FIELDS if field in read), None)

    def chosen(self, thinking: bool | None, template_args: Mapping[str, Any] | None) -> dict[str, Any]:
        """The variables of a request.

        Args:
            thinking: what to set the template's switch to; None leaves it alone.
            template_args: further variables by name.

        Raises:
            SettingsError: a variable is not the caller's to set, or thinking is set twice.
        """
        chosen = dict(template_args or {})
        for name in chosen:
            if name in _reserved():
                raise SettingsError(f"template-arg {name} is set by Helix itself; leave it out")
        if thinking is not None:
            switch = self.switch or _SWITCHES[0]
            if switch in chosen:
                raise SettingsError(f"thinking is set twice, by thinking and by template-arg {switch}; use only one")
            chosen[switch] = thinking
        return chosen

    def unread(self, thinking: bool | None, template_args: Mapping[str, Any] | None) -> list[str]:
        """Of the settings of a request, those that the template does not read: they change nothing."""
        if self._in_python:
            return []
        unread = [f"template-arg {name}" for name in template_args or () if name not in self.variables]
        return [*(["thinking"] if thinking is not None and self.switch is None else []), *unread]

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The text of a conversation, ready for the model's answer; raises whatever the template raises."""
        text = self._render([self._told(message, "") for message in messages], variables)
        # An answer that was begun by the prompt lacks the start mark, which only the rendered prompt can tell.
        opened = self.marks.behind(text).opened if self.marks is not None else ""
        if opened and any(_unopened(message, self.marks) for message in messages):
            text = self._render([self._told(message, opened) for message in messages], variables)
        return text

    def _render(self, messages: list[dict[str, Any]], variables: Mapping[str, Any]) -> str:
        if self._function is not None:
            return str(self._function(messages, add_generation_prompt=True, **variables))
        return str(self._inner.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **variables))

    def _told(self, message: Mapping[str, Any], opened: str) -> dict[str, Any]:
        """A message in the form that the template expects: reasoning apart where it asks for that, else in the content.

        Most templates find the reasoning in the content by its marks and drop it from all turns but the last; those
        that know nothing of reasoning keep it. So the very text that was generated is what they get.
        """
        told, marks = dict(message), self.marks
        if marks is None or message.get("role") != "assistant" or not isinstance(message.get("content"), str):
            return told
        content, reasoning = message["content"], told.pop(_REASONING, None)
        if reasoning is None and opened and _unopened(message, marks):
            content = opened + content
        if reasoning is None:
            reasoning, content = marks.parts(content)
        if reasoning is None:
            return told
        if self._field is not None:
            return {**told, "content": content.lstrip("\n"), self._field: reasoning.strip("\n")}
        return {**told, "content": marks.whole(reasoning, content)}


def _unopened(message: Mapping[str, Any], marks: ThinkMarks | None) -> bool:
    """Whether an answer ends its reasoning without having begun it."""
    content = message.get("content")
    if marks is None or message.get("role") != "assistant" or not isinstance(content, str):
        return False
    return _REASONING not in message and marks.end in content and marks.start not in content


def _reserved() -> frozenset[str]:
    """Names that rendering takes for itself."""
    own = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    return frozenset({*own, "messages", "conversations"} - set(_VARIABLES_OF_ARGUMENTS))
