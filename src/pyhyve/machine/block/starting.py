"""Starts jobs from the arguments of QMP's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.block.copying import BackupJob, CommitJob, MirrorJob, StreamJob
from pyhyve.machine.block.creating import CreateJob, create_for
from pyhyve.machine.block.errors import ChangeError

if TYPE_CHECKING:
    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.block.job import Job
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.block.services import BlockServices

_UNSUPPORTED = ("bitmap", "bitmap-mode", "replaces", "bottom", "x-perf")


def start(services: BlockServices, kind: str, options: dict[str, Any]) -> Job:
    """Start a job of `kind`. Raises ChangeError."""
    for key in _UNSUPPORTED:
        if key in options:
            msg = f"Parameter '{key}' is not supported"
            raise ChangeError(msg)
    for key in ("on-error", "on-source-error", "on-target-error"):
        if options.get(key, "report") not in {"report", "auto"}:
            msg = f"Parameter '{key}' does not accept value '{options[key]}'"
            raise ChangeError(msg)
    job = prepare(services, kind, options)
    services.jobs.add(job)
    return job


def prepare(services: BlockServices, kind: str, options: dict[str, Any]) -> Job:
    """A job that is ready to start. Raises ChangeError."""
    if kind == "create":
        services.jobs.check_name(options["job-id"])
        return CreateJob(services, options["job-id"], options["options"])
    node, attachment = services.find(options["device"])
    name = options.get("job-id") or (attachment.name if attachment is not None else "")
    if not name:
        msg = f"An explicit job ID is required for node '{node.name}'"
        raise ChangeError(msg)
    busy = services.jobs.at_work_on(node)
    if busy is not None:
        msg = f"Node '{options['device']}' is busy: block device is in use by block job: {busy.kind}"
        raise ChangeError(msg)
    services.jobs.check_name(name)
    match kind:
        case "stream":
            return StreamJob(services, name, options, node, _base_of(services, node, options))
        case "commit":
            return _commit(services, name, options, node, attachment)
        case "mirror" | "backup":
            target = _target(services, options)
        case _:
            target = _new_target(services, kind, node, options)
    if target is node:
        msg = "Source and target cannot be the same" if "backup" in kind else "Can't mirror node into itself"
        raise ChangeError(msg)
    if any(below is target for below in node.chain()):
        msg = f"Can't use '{target.name}' as the target: it is part of the disk"
        raise ChangeError(msg)
    try:
        if "backup" in kind:
            if options["sync"] not in {"full", "top", "none"}:
                msg = f"sync mode '{options['sync']}' needs a bitmap, which is not supported"
                raise ChangeError(msg)
            return BackupJob(services, name, options, node, attachment, target)
        if options["sync"] not in {"full", "top", "none"}:
            msg = f"Sync mode '{options['sync']}' not supported"
            raise ChangeError(msg)
        return MirrorJob(services, name, options, node, attachment, target, sync=options["sync"])
    except ChangeError:
        if kind.startswith("drive-") and not target.users:
            services.graph.discard(target)
        raise


def _target(services: BlockServices, options: dict[str, Any]) -> BlockNode:
    target, _ = services.find(options["target"])
    if target.need_image().readonly:
        msg = f"Block node '{target.name}' is read-only"
        raise ChangeError(msg)
    return target


def _new_target(services: BlockServices, kind: str, node: BlockNode, options: dict[str, Any]) -> BlockNode:
    """The node of the file that a `drive-*` command names, made unless it is to exist."""
    image_format = options.get("format") or (node.driver if options.get("mode") != "existing" else None)
    backing = None
    if options.get("mode", "absolute-paths") != "existing":
        backing = node.backing if options["sync"] == "top" else None
        create_for(options["target"], image_format or node.driver, node.need_image().size_bytes, backing)
    name = str(options.get("node-name", "")) if kind == "drive-mirror" else ""
    if backing is None:
        return services.graph.add_file(options["target"], image_format, readonly=False, node_name=name)
    # What is below the disk is open already, perhaps for writing: another opening would find it locked.
    above = {
        "driver": image_format or node.driver,
        "file": {"driver": "file", "filename": options["target"], "discard": "unmap"},
        "discard": "unmap",
        "backing": backing.name,
    }
    return services.graph.add({**above, "node-name": name}) if name else services.graph.add_unnamed(above)


def _by_node_or_file(services: BlockServices, node: BlockNode, options: dict[str, Any], kind: str) -> BlockNode | None:
    """The node of the chain that `KIND-node` or `KIND` (a file name) means. Raises ChangeError."""
    wanted = options.get(f"{kind}-node")
    if wanted is not None and kind in options:
        msg = f"'{kind}-node' and '{kind}' cannot be specified at the same time"
        raise ChangeError(msg)
    if wanted is not None:
        found = services.graph.need(wanted)
        if not any(below is found for below in node.chain()):
            msg = f"'{wanted}' is not in this backing file chain"
            raise ChangeError(msg)
        return found
    if kind in options:
        for below in node.chain():
            reference = below.image.backing_reference if below.image is not None else None
            if below.filename == options[kind]:
                return below
            if reference is not None and reference.filename == options[kind]:
                return below.backing
        msg = f"Can't find '{options[kind]}' in the backing chain"
        raise ChangeError(msg)
    return None


def _base_of(services: BlockServices, node: BlockNode, options: dict[str, Any]) -> BlockNode | None:
    base = _by_node_or_file(services, node, options, "base")
    if base is node:
        msg = f"Node '{node.name}' is not a backing image of '{node.name}'"
        raise ChangeError(msg)
    if base is None and "backing-file" in options:
        msg = "backing file specified, but streaming the entire chain"
        raise ChangeError(msg)
    return base


def _commit(
    services: BlockServices, name: str, options: dict[str, Any], node: BlockNode, attachment: Attachment | None
) -> Job:
    top = _by_node_or_file(services, node, options, "top") or node
    base = _by_node_or_file(services, node, options, "base") or list(node.chain())[-1]
    chain = list(node.chain())
    if chain.index(base) <= chain.index(top):
        msg = (
            "cannot commit an image into itself"
            if base is top
            else f"'{base.name}' is not a backing image of '{top.name}'"
        )
        raise ChangeError(msg)
    if top is not node:
        return CommitJob(services, name, options, top, base)
    if "backing-file" in options:
        msg = "'backing-file' specified, but 'top' is the active layer"
        raise ChangeError(msg)
    services.graph.make_writable(base, services.above(base))
    return MirrorJob(services, name, options, node, attachment, base, sync="full", kind="commit")
