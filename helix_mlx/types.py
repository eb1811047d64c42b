"""Types that every part of the package shares: callbacks of long operations, messages and prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Progress = Callable[[int, int], None]
"""Called with the amount done and the total."""
StepProgress = Callable[[str, int, int], None]
"""Called with the name of the current step, the amount done and the total."""
Notice = Callable[[str], None]
"""Called with one line for the user."""
Cancel = Callable[[], bool]
"""Returns whether to stop."""
Message = Mapping[str, str]
"""One message of a conversation: {"role": "user" | "assistant" | "system", "content": text}. An answer's reasoning
stands in its content, between its marks, or apart as "reasoning_content"."""
Prompt = str | Sequence[int]
"""Text, or token ids."""
