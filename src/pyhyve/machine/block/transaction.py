"""Several block actions, all or none: everything that can fail is done before anything is changed."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyhyve.machine.block import snapshots
from pyhyve.machine.block.attach import drained
from pyhyve.machine.block.creating import create_for
from pyhyve.machine.block.errors import ChangeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.block.services import BlockServices


@dataclass(slots=True)
class _Step:
    """One action: what carries it out, what takes back its preparation, and the disks that must be at rest."""

    commit: Callable[[], None]
    undo: Callable[[], None]
    attachments: list[Attachment]


def run(services: BlockServices, actions: list[dict[str, Any]], properties: dict[str, Any]) -> None:
    """Carry out `TransactionAction`s. Raises ChangeError; then nothing was changed."""
    if properties.get("completion-mode", "individual") != "individual":
        msg = "completion-mode 'grouped' is not supported"
        raise ChangeError(msg)
    steps: list[_Step] = []
    try:
        for action in actions:
            steps.append(_prepare(services, str(action["type"]), action["data"]))  # noqa: PERF401 - undone one by one
        attachments = {id(found): found for step in steps for found in step.attachments}
        with drained(attachments.values()):
            for step in steps:
                step.commit()
    except BaseException:
        for step in reversed(steps):
            step.undo()
        raise


def _prepare(services: BlockServices, kind: str, data: dict[str, Any]) -> _Step:
    match kind:
        case "blockdev-snapshot":
            return _external(services, data["node"], services.graph.need(data["overlay"]), _nothing)
        case "blockdev-snapshot-sync":
            return _external_file(services, data)
        case "blockdev-snapshot-internal-sync":
            return _internal(services, data)
        case "blockdev-backup" | "drive-backup":
            return _backup(services, kind.removeprefix("blockdev-"), data)
        case _:
            msg = "Transaction aborted using Abort action"
            raise ChangeError(msg)


def _nothing() -> None:
    """Nothing to take back."""


def _external(services: BlockServices, name: str, overlay: BlockNode, undo: Callable[[], None]) -> _Step:
    node, attachment = services.find(name)
    image = overlay.need_image()
    problem = ""
    if overlay.users:
        problem = f"The overlay '{overlay.name}' is already in use"
    elif overlay.backing is not None:
        problem = "The overlay already has a backing image"
    elif overlay.is_protocol or image.format_name == "raw":
        problem = "The overlay does not support backing images"
    elif image.readonly:
        problem = f"Block node '{overlay.name}' is read-only"
    elif overlay is node:
        problem = f"Making '{node.name}' a backing child of '{overlay.name}' would create a cycle"
    elif attachment is not None and attachment.is_wrapped:
        problem = f"Node '{node.name}' is busy: block device is in use by block job"
    if problem:
        raise ChangeError(problem)

    def commit() -> None:
        node.need_image().flush() if not node.need_image().readonly else None
        overlay.backing = node
        image.backing = node.need_image()
        overlay.options = {**overlay.options, "backing": node.name}
        if attachment is not None:
            attachment.switch(overlay)

    def take_back() -> None:
        services.graph.release(node, overlay.name)
        undo()

    # From now on: another action of the transaction must not make `node` the overlay of what is above it.
    services.graph.hold(node, overlay.name)
    return _Step(commit, take_back, [] if attachment is None else [attachment])


def _external_file(services: BlockServices, data: dict[str, Any]) -> _Step:
    name = data.get("device") or data.get("node-name")
    if not name or ("device" in data and "node-name" in data):
        msg = "Need exactly one of 'device' and 'node-name'"
        raise ChangeError(msg)
    try:
        node, _ = services.find(name)
    except ChangeError as error:
        msg = f"Cannot find device='{data.get('device', '')}' nor node-name='{data.get('node-name', '')}'"
        raise ChangeError(msg) from error
    path, image_format = str(data["snapshot-file"]), str(data.get("format", "qcow2"))
    is_new = data.get("mode", "absolute-paths") != "existing"
    if is_new:
        create_for(path, image_format, node.need_image().size_bytes, node)
    options = {
        "driver": image_format,
        "file": {"driver": "file", "filename": path, "discard": "unmap"},
        "backing": None,
    }
    try:
        if "snapshot-node-name" in data:
            overlay = services.graph.add({**options, "node-name": data["snapshot-node-name"]})
        else:
            overlay = services.graph.add_unnamed(options)
    except ChangeError:
        if is_new:
            _unlink(path)
        raise

    def undo() -> None:
        services.graph.discard(overlay)
        if is_new:
            _unlink(path)

    try:
        return _external(services, name, overlay, undo)
    except ChangeError:
        undo()
        raise


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - the path as it was given


def _internal(services: BlockServices, data: dict[str, Any]) -> _Step:
    device, name = str(data["device"]), str(data["name"])
    snapshots.check_internal(services, device, name)
    _, attachment = services.find(device)
    taken = []

    def commit() -> None:
        taken.append(snapshots.take_internal(services, device, name, services.hardware.clock.now_ns()))

    def undo() -> None:
        for entry in taken:
            services.find(device)[0].need_image().delete_snapshot(entry)

    return _Step(commit, undo, [] if attachment is None else [attachment])


def _backup(services: BlockServices, kind: str, data: dict[str, Any]) -> _Step:
    from pyhyve.machine.block import starting  # noqa: PLC0415 - the two know each other

    job = starting.prepare(services, kind, data)
    return _Step(lambda: services.jobs.add(job), job.clean, [])
