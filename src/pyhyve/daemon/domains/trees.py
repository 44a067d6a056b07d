"""Trees of moments in a domain's life: what its snapshots and its checkpoints have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.store import Collection

__all__ = ["KeptTrees", "Tree"]

_Item = TypeVar("_Item")
_Tree = TypeVar("_Tree", bound="Tree[Any]")


class Tree(ABC, Generic[_Item]):
    """Items by name, in the order in which they were made, and which one the domain is at."""

    def __init__(self, items: dict[str, _Item] | None = None, current: str | None = None) -> None:
        self.items = {} if items is None else items
        self.current = current

    @staticmethod
    @abstractmethod
    def parent_of(item: _Item) -> str | None:
        """Name of what an item grew from; None for roots."""

    @staticmethod
    @abstractmethod
    def adopted(item: _Item, parent: _Item) -> _Item:
        """An item that grows from what ``parent`` grew from."""

    def children(self, name: str | None) -> list[str]:
        """Names of the items that grew from one (None: of the roots)."""
        return [key for key, item in self.items.items() if self.parent_of(item) == name]

    def descendants(self, name: str) -> list[str]:
        """Names of all that grew from one, each after what it grew from."""
        found: list[str] = []
        waiting = self.children(name)
        while waiting:
            key = waiting.pop(0)
            found.append(key)
            waiting.extend(self.children(key))
        return found

    def remove(self, name: str) -> None:
        """Take one out; what grew from it grows from its parent now."""
        gone = self.items[name]
        for key in self.children(name):
            self.items[key] = self.adopted(self.items[key], gone)
        del self.items[name]
        if self.current == name:
            self.current = self.parent_of(gone)

    def names(self, start: str | None, *, roots: bool, topological: bool) -> list[str] | None:
        """Names in the order of the tree, as lists ask for them; None for all in any order.

        ``roots``: only those; with a ``start``, as libvirt has one flag for both, all that grew from it.
        """
        if start is not None:
            return self.descendants(start) if roots else self.children(start)
        if roots:
            return self.children(None)
        if topological:
            return [key for root in self.children(None) for key in (root, *self.descendants(root))]
        return None


class KeptTrees(Generic[_Tree]):
    """Every domain's tree of one kind, in memory and on disk."""

    def __init__(self, collection: Collection[_Tree], make: Callable[[], _Tree]) -> None:
        self._collection = collection
        self._make = make
        self._trees: dict[bytes, _Tree] = {}

    def of(self, domain: ManagedDomain) -> _Tree:
        """Return a domain's tree."""
        return self._trees.setdefault(domain.uuid, self._make())

    def count(self, domain: ManagedDomain) -> int:
        """How many items it has."""
        tree = self._trees.get(domain.uuid)
        return len(tree.items) if tree is not None else 0

    def load(self, domains: Iterable[ManagedDomain]) -> None:
        """Read every domain's tree. Blocks."""
        trees = self._collection.load()
        for domain in domains:
            if domain.uuid_text in trees:
                self._trees[domain.uuid] = trees[domain.uuid_text]

    async def save(self, domain: ManagedDomain) -> None:
        """Write a domain's tree."""
        tree = self.of(domain)
        if tree.items:
            await self._collection.save(domain.uuid_text, tree)
        else:
            await self.forget(domain)

    async def forget(self, domain: ManagedDomain) -> None:
        """Forget a domain's tree; what is in its images stays."""
        self._trees.pop(domain.uuid, None)
        await self._collection.remove(domain.uuid_text)
