"""Decompressed volumes kept within a bound: the one place where training data takes memory."""

from __future__ import annotations

from typing import Callable, Generic, Hashable, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")


class VolumeCache(Generic[Value]):
    """Loads on demand, forgets what was not used for longest.

    Args:
        load: makes the value of a key.
        size: of a value in bytes.
        limit_mib: of all values together; a value larger than that is handed out and not kept.
    """

    def __init__(self, load: Callable[[Hashable], Value], size: Callable[[Value], int], limit_mib: float) -> None:
        self._load, self._size = load, size
        self._kept: LRUCache = LRUCache(max(limit_mib * 2**20, 1), getsizeof=size)
        self._mean, self._seen = 0.0, 0

    def __getitem__(self, key: Hashable) -> Value:
        if key in self._kept:
            return self._kept[key]
        value = self._load(key)
        self.keep(key, value)
        return value

    def keep(self, key: Hashable, value: Value) -> None:
        """Put in what was loaded elsewhere, unless it is larger than the whole bound."""
        size = self._size(value)
        self._seen += 1
        self._mean += (size - self._mean) / self._seen
        if size <= self._kept.maxsize:
            self._kept[key] = value

    @property
    def limit(self) -> int:
        """Bytes that it holds at most."""
        return int(self._kept.maxsize)

    @property
    def bytes(self) -> int:
        """Held now."""
        return int(self._kept.currsize)

    def growth(self, count: int) -> int:
        """Bytes by which the cache still grows until it is full or holds ``count`` values, each as large as those it has seen."""
        wanted = min(count * self._mean, self.limit)
        return max(int(wanted - self._kept.currsize), 0)

    @property
    def full(self) -> bool:
        """Whether the next value will push another one out (as large as an average one)."""
        return bool(self._kept) and self._kept.currsize * (1 + 1 / len(self._kept)) > self._kept.maxsize
