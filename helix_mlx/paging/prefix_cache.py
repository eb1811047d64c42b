"""The prefix cache: full pages stay reusable after release, until their memory is needed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import PageAllocator
from helix_mlx.paging.page_pool import DRAFT, TARGET
from helix_mlx.paging.snapshots import Snapshots


@dataclass(frozen=True)
class Match:
    """Pages that hold the beginning of some tokens, and their digests.

    Where layers are recurrent, these are the pages before the last snapshot; `known` counts those behind it, too.
    """

    pages: list[int]
    digests: list[bytes]
    known: int = 0


class PrefixCache:
    """Finds pages by their tokens and those of all pages before them.

    The key of a page is a digest of its parent's key and of its own tokens; the first page's parent is the identity
    of the models. Only pages that were committed are known, so no draft that was not verified can be among them.

    Args:
        allocator: keeps known pages when their last holder lets go, and tells which one it takes for something else.
        page_size: positions in a page.
        identity: of the models that the keys and values come from.
        enabled: False knows nothing, ever.
        snapshots: of the recurrent states at some of the pages' ends.
        recurrent: whether the target has recurrent layers, so that pages help no further than a snapshot.
    """

    def __init__(
        self,
        allocator: PageAllocator,
        page_size: int,
        identity: bytes,
        enabled: bool = True,
        snapshots: Snapshots | None = None,
        recurrent: bool = False,
    ) -> None:
        self._allocator = allocator
        self._page_size = page_size
        self._root = blake2b(identity, digest_size=32).digest()
        self.enabled = enabled
        self.snapshots = Snapshots(0) if snapshots is None else snapshots
        self._recurrent = recurrent
        self._pages: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}
        allocator.on_evict = self._uncache

    def __len__(self) -> int:
        return len(self._pages)

    def match(self, tokens: Sequence[int]) -> Match:
        """The longest chain of cached pages that these tokens start with. They are not held yet."""
        found = Match([], [])
        digest = self._root
        if not self._pages:
            return found
        for start in range(0, len(tokens) - self._page_size + 1, self._page_size):
            digest = self._chained(digest, tokens[start : start + self._page_size])
            page = self._pages.get(digest)
            if page is None:
                break
            found.pages.append(page)
            found.digests.append(digest)
        if not self._recurrent:
            return found
        known = self.snapshots.deepest(TARGET, found.digests)
        return Match(found.pages[:known], found.digests[:known], len(found.pages))

    def add(self, table: BlockTable, tokens: Sequence[int], pages: int) -> None:
        """Add the first pages of a block table.

        Args:
            table: of a sequence with these tokens; it remembers what is known of it already.
            tokens: at least as many as fill the pages.
            pages: how many of its pages are committed.
        """
        if not self.enabled:
            return
        size = self._page_size
        for index in range(len(table.digests), pages):
            parent = table.digests[-1] if table.digests else self._root
            digest = self._chained(parent, tokens[index * size : (index + 1) * size])
            table.digests.append(digest)
            # If two sequences computed the same page, the first one stays in the cache.
            if digest not in self._pages:
                page = table.pages[index]
                self._pages[digest], self._digests[page] = page, digest
                self._allocator.pin_cached(page)

    def clear(self) -> None:
        """Clear the cache."""
        for page in list(self._digests):
            self._uncache(page)
            self._allocator.uncache(page)

    def _chained(self, parent: bytes, tokens: Sequence[int]) -> bytes:
        return blake2b(parent + struct.pack(f"<{len(tokens)}I", *tokens), digest_size=32).digest()

    def _uncache(self, page: int) -> None:
        digest = self._digests.pop(page)
        del self._pages[digest]
        for model in (TARGET, DRAFT):
            self.snapshots.drop(model, digest)
