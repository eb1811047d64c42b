"""Types that every part of the package shares: what callers hand in to be told of, or to stop, long work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Progress = Callable[[int, int], None]
"""Is told how much is done, and how much there is in all."""
StepProgress = Callable[[str, int, int], None]
"""Is told the name of the step under way, how much of it is done, and how much there is in all."""
Notice = Callable[[str], None]
"""Is told one line for the user."""
Cancel = Callable[[], bool]
"""Returns whether to stop."""
Message = Mapping[str, str]
"""One message of a conversation: {"role": "user" | "assistant" | "system", "content": text}. An answer's reasoning
stands in its content, between its marks, or apart as "reasoning_content"."""
Prompt = str | Sequence[int]
"""Text, or token ids."""
