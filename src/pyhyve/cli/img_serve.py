"""`pyhyve img serve`: an image as a network block device."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from pyhyve.cli.img_options import add_source, open_named, settings_from, warn
from pyhyve.cli.option_parser import Usage
from pyhyve.image.contract import ImageError

if TYPE_CHECKING:
    from pyhyve.cli.option_parser import Arguments, VerbParser


def configure_serve(parser: VerbParser) -> None:
    """Options of `serve`, named as qemu-nbd's."""
    add_source(parser)
    parser.add_argument("-b", "--bind", default="127.0.0.1", metavar="ADDRESS", help="listen here (%(default)s)")
    parser.add_argument("-p", "--port", default="10809", help="TCP port (%(default)s; 0: any, printed)")
    parser.add_argument("-k", "--socket", metavar="PATH", help="listen on this unix socket instead")
    parser.add_argument("-x", "--export-name", default="", metavar="NAME", help="name of the export")
    parser.add_argument("-r", "--read-only", action="store_true", help="refuse writes")
    parser.add_argument("-t", "--persistent", action="store_true", help="stay when the client leaves")
    parser.add_argument("--cache", default="writeback", help="cache mode")
    parser.add_argument("filename")


def listen(arguments: Arguments) -> socket.socket:
    """The listening socket."""
    if not arguments.port.isdecimal() or int(arguments.port) > 65535:
        msg = "--port expects a number up to 65535"
        raise Usage(msg)
    try:
        if arguments.socket is not None:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(arguments.socket)
        else:
            listener = socket.create_server((arguments.bind, int(arguments.port)))
    except OSError as error:
        where = arguments.socket or f"{arguments.bind}:{arguments.port}"
        msg = f"Failed to listen on {where}: {error.strerror}"
        raise ImageError(msg) from error
    listener.listen(16)
    return listener


def run_serve(arguments: Arguments) -> int:
    """Serve until the client leaves, or until SIGTERM when persistent."""
    from pyhyve.image.nbd.server import NbdServer

    settings = settings_from(arguments, writable=not arguments.read_only, cache=arguments.cache)
    with open_named(arguments.filename, arguments, settings) as image:
        listener = listen(arguments)
        server = NbdServer(listener, image, arguments.export_name, persistent=arguments.persistent)

        def stop(_number: int, _frame: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        try:
            if arguments.socket is None:
                host, port = listener.getsockname()[:2]
                print(f"nbd://{host}:{port}/{arguments.export_name}", flush=True)
            else:
                print(f"nbd+unix:///{arguments.export_name}?socket={arguments.socket}", flush=True)
            server.serve(warn)
        except KeyboardInterrupt:
            pass
        finally:
            server.close()
            if arguments.socket is not None:
                os.unlink(arguments.socket)  # noqa: PTH108 - a name given by the user, not a path of ours
    return 0
