"""Makes images: `blockdev-create`, and the files of snapshots and copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.image.contract import BackingReference, CreateRequest, ImageError
from pyhyve.image.opening import create_file, create_image
from pyhyve.image.registry import find_format
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.job import Job

if TYPE_CHECKING:
    from pyhyve.image.storage import Storage
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.block.services import BlockServices

_RENAMED = {"version": "compat", "block-state-zero": "block_state_zero"}
_VERSIONS = {"v2": "0.10", "v3": "1.1"}


class CreateJob(Job):
    """Makes an image in a node's file, or the file itself."""

    kind = "create"
    is_block_job = False

    def __init__(self, services: BlockServices, name: str, options: dict[str, Any]) -> None:
        """`options` are checked `BlockdevCreateOptions`."""
        super().__init__(name, {"auto-dismiss": False}, services.jobs.tell)
        self._services = services
        self._options = options
        self.total = 1

    def work(self) -> None:
        """Make it."""
        try:
            self._make()
        finally:
            self.done = 1

    def _make(self) -> None:
        options = dict(self._options)
        driver = options.pop("driver")
        size = int(options.pop("size", 0))
        if driver == "file":
            try:
                made = create_file(options["filename"])
            except ImageError as error:
                raise ChangeError(str(error).removeprefix(f"{options['filename']}: ")) from error
            try:
                made.truncate(size)
            finally:
                made.close()
            return
        below = options.pop("file")
        if not isinstance(below, str):
            msg = "blockdev-create: 'file' names a node"
            raise ChangeError(msg)
        backing = None
        if "backing-file" in options:
            backing = BackingReference(options.pop("backing-file"), options.pop("backing-fmt", None))
        image_format = find_format(driver)
        if image_format.create is None:
            msg = f"Driver '{driver}' does not support blockdev-create"
            raise ChangeError(msg)
        known = {option.name for option in image_format.options}
        values = {}
        for key, value in options.items():
            name = _RENAMED.get(key, key).replace("-", "_")
            if name not in known:
                msg = f"Driver '{driver}' does not support the option '{key}'"
                raise ChangeError(msg)
            values[name] = _VERSIONS.get(value, value) if key == "version" else value
        storage = self._services.graph.need(below).borrow_storage(writable=True)
        storage.truncate(0)
        image_format.create(CreateRequest(storage, size, values, backing, _no_sibling))
        storage.flush()


def _no_sibling(name: str) -> Storage:
    msg = f"an image in a node has no further file '{name}'"
    raise ImageError(msg)


def create_for(path: str, format_name: str, size_bytes: int, backing: BlockNode | None) -> None:
    """A new image file of a disk's size. Raises ChangeError."""
    below = None if backing is None else BackingReference(backing.filename, backing.driver)
    try:
        create_image(path, format_name, size_bytes, None, below)
    except (ImageError, OSError, ValueError) as error:
        raise ChangeError(str(error).removeprefix(f"{path}: ")) from error
