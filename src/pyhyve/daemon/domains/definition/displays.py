"""Screens: graphics, video adapters and sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains.faults import unsupported
from pyhyve.xml.devices import Audio, Devices, Graphics, GraphicsListen, Video, VideoModel
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.daemon.domains.emulators import Emulator

__all__ = ["complete_displays", "complete_graphics"]

_VIDEO_KIB: Final = 16384
_PRIMARY_ONLY: Final = frozenset({"vga", "cirrus", "vmvga", "bochs", "ramfb"})


def complete_displays(devices: Devices, emulator: Emulator) -> Devices:
    """Return the devices with graphics, video and audio filled in. Raises LibvirtError."""
    graphics = tuple(complete_graphics(item) for item in devices.graphics)
    video = devices.video
    if graphics and not video and not all(item.type == "egl-headless" for item in graphics):
        video = (Video(),)
    completed = tuple(_complete_video(item, number, emulator) for number, item in enumerate(video))
    for item in completed[1:]:
        if item.model is not None and item.model.type in _PRIMARY_ONLY:
            raise unsupported(f"video type '{item.model.type}' is only valid as primary video device")
    return replace(devices, graphics=graphics, video=completed, audio=devices.audio or _audio(graphics))


def _audio(graphics: tuple[Graphics, ...]) -> tuple[Audio, ...]:
    for item in graphics:
        if item.type == "spice":
            return (Audio(id=1, type="spice"),)
        if item.type in {"sdl", "egl-headless"}:
            return ()
    return (Audio(id=1, type="none"),)


def complete_graphics(item: Graphics) -> Graphics:
    """Return one display with ports and listening addresses filled in."""
    if item.type not in {"vnc", "spice"}:
        return item
    port, autoport = item.port, item.autoport
    if item.type == "vnc":
        if item.socket and not item.listens:
            return replace(item, socket=None, listens=(GraphicsListen(type="socket", socket=item.socket),))
        if item.listens and item.listens[0].type == "socket":
            return replace(item, port=None, autoport=None, listen=None)
        if autoport or port in {None, -1, 0}:
            port, autoport = -1, True
        else:
            autoport = False
    elif port in {None, 0, -1} and item.tls_port in {None, 0, -1} and autoport is None and port != -1:
        return replace(item, port=None, listens=item.listens or (GraphicsListen(type="none"),))
    elif autoport:
        port = None
    listens = tuple(
        replace(listen, address=listen.address or (item.listen if number == 0 else None))
        if listen.type in {None, "address"}
        else listen
        for number, listen in enumerate(item.listens)
    ) or (GraphicsListen(type="address", address=item.listen),)
    address = listens[0].address if listens[0].type == "address" else None
    return replace(item, port=port, autoport=autoport, listens=listens, listen=address)


def _complete_video(item: Video, number: int, emulator: Emulator) -> Video:
    model = item.model or VideoModel()
    kind = model.type
    if kind in {None, "default"}:
        kind = next((name for name, device in _MODELS if emulator.has(device)), "none")
    model = replace(model, type=kind)
    if kind == "none":
        return replace(item, model=VideoModel(type="none"))
    if kind == "qxl":
        model = replace(model, ram=model.ram or 65536, vram=model.vram or 65536, vgamem=model.vgamem or _VIDEO_KIB)
    elif kind in {"vga", "cirrus", "vmvga", "bochs"}:
        model = replace(model, vram=model.vram or _VIDEO_KIB)
    else:
        model = replace(model, vram=None)
    return replace(item, model=replace(model, heads=model.heads or 1, primary=True if number == 0 else None))


_MODELS: Final = (("cirrus", "cirrus-vga"), ("vga", "VGA"), ("qxl", "qxl"), ("virtio", "virtio-gpu-pci"))
