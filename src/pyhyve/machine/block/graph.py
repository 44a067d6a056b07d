"""The block graph: adds and removes nodes by QEMU's `BlockdevOptions`, and tells who uses which."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.image.contract import ImageError, ImageLockedError, OpenRequest
from pyhyve.image.filename import parse_reference, resolve_relative
from pyhyve.image.opening import MAX_CHAIN_DEPTH, OpenSettings, open_overlay, open_reference, open_storage
from pyhyve.image.registry import PROBE_SIZE_BYTES, find_format, probe_format
from pyhyve.machine.block.attach import drained
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.node import BlockNode
from pyhyve.machine.holders import describe_holders
from pyhyve.machine.identifiers import is_identifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyhyve.image.contract import Image
    from pyhyve.image.storage import Storage
    from pyhyve.machine.block.attach import Attachment

_LOG = logging.getLogger(__name__)
MAX_NODES = 4096
CACHE_OPTIONS: dict[str, dict[str, Any]] = {
    "writeback": {},
    "none": {"cache": {"direct": True}},
    "unsafe": {"cache": {"no-flush": True}},
    "writethrough": {"cache": {"write-through": True}},
    "directsync": {"cache": {"direct": True, "write-through": True}},
}
"""Cache modes of `-drive` as options of nodes; `write-through` is our own: QEMU keeps it in the device."""
_RUNTIME_OPTIONS = ("offset", "size")
"""Options of `raw` that its image takes as they are."""


class BlockGraph:
    """All nodes of one machine. Methods may be called from any thread; each is one step."""

    def __init__(self, *, inactive: bool = False) -> None:
        """`inactive`: disks are another's until they are taken (`handover`)."""
        self.inactive = inactive
        self.nodes: dict[str, BlockNode] = {}
        self._is_closed = False
        self._numbers = itertools.count()
        self._depth = 0
        self.lock = threading.RLock()

    # -- looking ------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> BlockNode | None:
        """The node called `name`."""
        return self.nodes.get(name)

    def need(self, name: str) -> BlockNode:
        """The node called `name`. Raises ChangeError."""
        node = self.nodes.get(name)
        if node is None:
            msg = f"Cannot find device='{name}' nor node-name='{name}'"
            raise ChangeError(msg)
        return node

    def __iter__(self) -> Iterator[BlockNode]:
        return iter(list(self.nodes.values()))

    # -- adding and removing ------------------------------------------------------------------------------------------

    def add(self, options: Mapping[str, Any]) -> BlockNode:
        """Add the node that `options`, checked `BlockdevOptions`, describe. Raises ChangeError, with nothing added."""
        name = options.get("node-name")
        if name is None:
            msg = "'node-name' must be specified for the root node"
            raise ChangeError(msg)
        with self.lock:
            return self._open(options, str(name), implicit=False)

    def add_unnamed(self, options: Mapping[str, Any]) -> BlockNode:
        """Add the node that `options` describe under a name that no user can give. Raises ChangeError."""
        with self.lock:
            return self._open(options, self.fresh_name(), implicit=True)

    def add_file(
        self,
        path: str,
        format_name: str | None,
        *,
        readonly: bool,
        snapshot: bool = False,
        node_name: str = "",
        cache: str = "writeback",
    ) -> BlockNode:
        """Add a format node on the file `path` (and the file's own), as `-drive` does. Raises ChangeError."""
        with self.lock:
            self._check_room()
            if node_name:
                self._check_name(node_name)
            if snapshot and not readonly:
                try:
                    image = open_overlay(path, OpenSettings(format_name=format_name, writable=True, cache=cache))
                except (ImageError, OSError, ValueError) as error:
                    raise ChangeError(_reason(error)) from error
                return self._adopt(image, node_name or self.fresh_name(), {"driver": "qcow2"}, readonly=False)
            if format_name is None:
                format_name = self._probe(path)
            options = {
                **({"node-name": node_name} if node_name else {}),
                "driver": format_name,
                "file": {"driver": "file", "filename": path, "discard": "unmap", **CACHE_OPTIONS[cache]},
                "read-only": readonly,
                "discard": "unmap",
            }
            return self._open(options, node_name or self.fresh_name(), implicit=not node_name)

    def remove(self, name: str) -> None:
        """`blockdev-del`. Raises ChangeError while somebody uses the node."""
        with self.lock:
            node = self.nodes.get(name)
            if node is None or node.implicit:
                msg = f"Failed to find node with node-name='{name}'"
                raise ChangeError(msg)
            if node.users:
                msg = f"Node {name} is in use"
                raise ChangeError(msg)
            self.discard(node)

    def discard(self, node: BlockNode) -> None:
        """Close `node` and, with it, nodes below that were made for it alone."""
        self.nodes.pop(node.name, None)
        children = [child for child in (node.file, node.backing) if child is not None]
        node.close()
        node.file = node.backing = None
        for child in children:
            self.release(child, node.name)

    def hold(self, node: BlockNode, user: str) -> None:
        """Remember that `user` needs `node`."""
        with self.lock:
            node.users.append(user)

    def release(self, node: BlockNode, user: str) -> None:
        """`user` needs `node` no longer: one that was made for it goes."""
        with self.lock:
            if user in node.users:
                node.users.remove(user)
            if node.implicit and not node.users and node.name in self.nodes:
                self.discard(node)

    def make_writable(self, node: BlockNode, above: Sequence[Attachment]) -> None:
        """Open `node` for writing; `above` are the disks it is part of. Raises ChangeError."""
        self.change_access(node, above, writable=True)

    def change_access(self, node: BlockNode, above: Sequence[Attachment], *, writable: bool) -> None:
        """Open a format node again, for writing or for reading alone. Raises ChangeError; then it is as before."""
        image = node.need_image()
        if image.readonly is not writable:
            return
        if node.file is None:
            msg = f"Block node '{node.name}' is not one that can be opened again: name its nodes"
            raise ChangeError(msg)
        with self.lock, drained(above):
            if not image.readonly:
                image.flush()
            image.backing = None
            image.close()
            try:
                self._open_image(node, writable=writable)
            except (ImageError, OSError, ValueError) as error:
                self._open_image(node, writable=not writable)
                raise ChangeError(_reason(error)) from error
            finally:
                for other in self.nodes.values():
                    if other.backing is node and other.image is not None:
                        other.image.backing = node.image
                for attachment in above:
                    if attachment.node is node:
                        attachment.refresh()

    def close(self) -> None:
        """Close every node; for the machine's end, when all devices are gone."""
        with self.lock:
            self._is_closed = True
            for node in list(self.nodes.values()):
                if node.image is not None:
                    node.image.backing = None
            # What is stored in a file before the file.
            for node in sorted(self.nodes.values(), key=lambda node: node.is_protocol):
                try:
                    node.close()
                except (ImageError, OSError) as error:  # a full disk: the others are closed all the same
                    _LOG.warning("%s: %s", node.filename, error)
            self.nodes.clear()

    # -- opening ------------------------------------------------------------------------------------------------------

    def _check_room(self) -> None:
        if self._is_closed:
            msg = "the machine has ended"
            raise ChangeError(msg)
        if len(self.nodes) >= MAX_NODES:
            msg = f"there are {MAX_NODES} block nodes already"
            raise ChangeError(msg)

    def fresh_name(self) -> str:
        """A name that no node has and no user can give."""
        while True:
            name = f"#block{next(self._numbers):03d}"
            if name not in self.nodes:
                return name

    def _check_name(self, name: str) -> None:
        if not is_identifier(name) or len(name) > 31:
            msg = f"Invalid node-name: '{name}'"
            raise ChangeError(msg)
        if name in self.nodes:
            msg = f"Duplicate nodes with node-name='{name}'"
            raise ChangeError(msg)

    def _open(self, options: Mapping[str, Any], name: str, *, implicit: bool, auto_readonly: bool = False) -> BlockNode:
        self._check_room()
        if not implicit:
            self._check_name(name)
        node = BlockNode(
            name,
            str(options["driver"]),
            options,
            readonly=bool(options.get("read-only", False)),
            auto_readonly=bool(options.get("auto-read-only", auto_readonly)),
            implicit=implicit,
            unlocked=self.inactive,
        )
        try:
            if node.is_protocol:
                node.probe() if node.auto_readonly else node.borrow_storage(writable=not node.readonly)
            else:
                self._open_format(node)
        except (ImageError, OSError, ValueError) as error:
            self._undo(node)
            raise ChangeError(_reason(error)) from error
        except BaseException:
            self._undo(node)
            raise
        self.nodes[name] = node
        return node

    def _undo(self, node: BlockNode) -> None:
        children = [child for child in (node.file, node.backing) if child is not None]
        node.file = node.backing = None
        node.close()
        for child in children:
            self.release(child, node.name)

    def _open_format(self, node: BlockNode) -> None:
        options = node.options
        node.file = below = self._child(node, options["file"])
        if not below.is_protocol:
            msg = f"a node of driver '{node.driver}' needs a file, not the {below.driver} node '{below.name}'"
            raise ChangeError(msg)
        image = self._open_image(node, writable=not node.readonly)
        if "backing" in options:
            backing = options["backing"]
            if backing is not None:
                node.backing = self._child(node, backing, readonly=True)
                image.backing = node.backing.need_image()
        elif image.backing_reference is not None:
            node.backing = self._own_backing(node, image)
            image.backing = node.backing.need_image()

    def _open_image(self, node: BlockNode, *, writable: bool) -> Image:
        """Open a node's image on its file, and on the backing node it has. Raises ImageError, OSError, ChangeError."""
        options, below = node.options, node.file
        if below is None:
            msg = f"node '{node.name}' has no file"
            raise ChangeError(msg)
        image_format = find_format(node.driver)
        storage = below.borrow_storage(writable=writable)
        cache = below.cache_mode
        may_write = writable and not self.inactive

        def open_sibling(sibling: str, writable: bool) -> Storage:  # noqa: FBT001 - the contract's signature
            where = resolve_relative(sibling, storage.filename)
            return open_storage(where, OpenSettings(writable=writable and may_write, cache=cache))

        runtime = {key: str(options[key]) for key in _RUNTIME_OPTIONS if key in options}
        node.image = image = image_format.open(OpenRequest(storage, may_write, open_sibling, runtime))
        node.readonly = not writable
        node.image_readonly, image.readonly = image.readonly, node.readonly
        if node.backing is not None:
            image.backing = node.backing.need_image()
        return image

    def open_again(self, node: BlockNode) -> None:
        """Open a format node's image anew, as it was. Raises ImageError, OSError, ValueError, ChangeError."""
        self._open_image(node, writable=not node.readonly)

    def _child(self, node: BlockNode, reference: Any, *, readonly: bool = False) -> BlockNode:  # noqa: ANN401 - JSON
        """The node that `reference` names or describes, held by `node`."""
        if isinstance(reference, str):
            child = self.need(reference)
        else:
            inline = dict(reference)
            name = inline.get("node-name")
            if readonly or node.readonly:
                inline.setdefault("read-only", True)
            if "cache" in node.options:
                inline.setdefault("cache", node.options["cache"])
            child = self._open(inline, name or self.fresh_name(), implicit=name is None, auto_readonly=True)
        self.hold(child, node.name)
        return child

    def _own_backing(self, node: BlockNode, image: Image) -> BlockNode:
        """Nodes for the chain that the image itself refers to."""
        below = image.backing_reference
        if below is None:  # pragma: no cover - the caller looked
            msg = "no backing file"
            raise ChangeError(msg)
        where = resolve_relative(below.filename, image.storage.filename)
        name = self.fresh_name()
        if os.path.exists(where):  # noqa: PTH110 - what does not exist may be an address or a description
            if self._depth >= MAX_CHAIN_DEPTH:
                msg = f"The backing chain is deeper than {MAX_CHAIN_DEPTH} images"
                raise ChangeError(msg)
            driver = below.format_name or self._probe(where)
            options = {"driver": driver, "file": {"driver": "file", "filename": where}, "read-only": True}
            self._depth += 1
            try:
                child = self._open(options, name, implicit=True)
            except ChangeError as error:
                msg = str(error)
                raise ChangeError(_as_backing_error(msg)) from error
            finally:
                self._depth -= 1
        else:
            settings = OpenSettings(format_name=below.format_name, cache=node.cache_mode)
            try:
                opened = open_reference(parse_reference(where), settings)
            except ImageError as error:
                raise ChangeError(_as_backing_error(str(error))) from error
            child = self._adopt(opened, name, {"driver": opened.format_name}, readonly=True)
        child.implicit = True
        self.hold(child, node.name)
        return child

    def _adopt(self, image: Image, name: str, options: Mapping[str, Any], *, readonly: bool) -> BlockNode:
        """Nodes for an image that is open, and for each below it."""
        node = BlockNode(name, image.format_name, options, readonly=readonly, implicit=True, image=image)
        self.nodes[name] = node
        if image.backing is not None:
            below = image.backing
            node.backing = self._adopt(below, self.fresh_name(), {"driver": below.format_name}, readonly=True)
            self.hold(node.backing, name)
        return node

    def _probe(self, path: str) -> str:
        try:
            storage = open_storage(path, OpenSettings(lock=False))
        except (ImageError, OSError, ValueError) as error:
            raise ChangeError(_reason(error)) from error
        try:
            return probe_format(storage.pread(PROBE_SIZE_BYTES, 0), path)
        finally:
            storage.close()


def _as_backing_error(text: str) -> str:
    return text if text.startswith("Could not open backing") else f"Could not open backing file: {text}"


def _reason(error: ImageError | OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, ImageLockedError):
        # The text ends with the file's name in brackets.
        path = str(error).rpartition("[")[2].rstrip("].?")
        holders = describe_holders(Path(path))
        return f"{error} It is open in {holders}." if holders else str(error)
    return str(error)
