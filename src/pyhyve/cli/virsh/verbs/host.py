"""The daemon's host and what it offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lxml import etree

from pyhyve.cli.virsh.documents import DUMP_USAGE, parse, show
from pyhyve.cli.virsh.flags import collect, exclusive
from pyhyve.cli.virsh.output import cpu_list, param_text
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_CPU_STATES: Final = ("user", "kernel", "idle", "iowait")
_CPU_LABELS: Final = {"user": "user:", "kernel": "system:", "idle": "idle:", "iowait": "iowait:", "intr": "intr:"}
_COMPARED: Final = {
    "host": (
        "CPU described in {} is incompatible with host CPU",
        "CPU described in {} is identical to host CPU",
        "Host CPU is a superset of CPU described in {}",
        "Failed to compare host CPU with {}",
    ),
    "hypervisor": (
        "CPU described in {} is incompatible with the CPU provided by hypervisor on the host",
        "CPU described in {} is identical to the CPU provided by hypervisor on the host",
        "The CPU provided by hypervisor on the host is a superset of CPU described in {}",
        "Failed to compare hypervisor CPU with {}",
    ),
}
_SUSPEND: Final = {"mem": 0, "disk": 1, "hybrid": 2}
_TUNE: Final = ("shm-pages-to-scan", "shm-sleep-millisecs", "shm-merge-across-nodes")
_CPU_FLAGS: Final = {"features": 1, "migratable": 2}


@verb("hostname", "host", "", "the host's name")
def hostname(shell: Shell, values: Values) -> None:
    """Show the host's name."""
    with shell.failing("failed to get hostname"):
        shell.print(shell.connection.hostname())


@verb("uri", "host", "", "the canonical URI of the connection")
def uri(shell: Shell, values: Values) -> None:
    """Show the URI."""
    connection = shell.connection
    with shell.failing("failed to get URI"):
        connection.uri()
    # What the daemon calls itself says nothing of how it was reached: that is the client's part.
    shell.print(shell.uri or connection.uri())


@verb("version", "host", "[--daemon]", "versions of client, daemon and hypervisor")
def version(shell: Shell, values: Values) -> None:
    """Show versions."""
    from importlib import metadata

    connection = shell.connection
    try:
        ours = metadata.version("pyhyve")
    except metadata.PackageNotFoundError:
        ours = "unknown"
    kind, api = connection.type(), connection.library_version()
    shell.print(f"Compiled against library: pyhyve {ours}")
    shell.print(f"Using library: pyhyve {ours}")
    shell.print(f"Using API: {kind} {_dotted(api)}")
    number = connection.version()
    if number:
        shell.print(f"Running hypervisor: {kind} {_dotted(number)}")
    else:
        shell.print(f"Cannot extract running {kind} hypervisor version")
    if values.flag("daemon"):
        shell.print(f"Running against daemon: {_dotted(api)}")


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


@verb("capabilities", "host", DUMP_USAGE, "what host and hypervisor can do")
def capabilities(shell: Shell, values: Values) -> None:
    """Show capabilities."""
    with shell.failing("failed to get capabilities"):
        xml = shell.connection.capabilities()
    show(shell, values, xml + "\n" if values.get("xpath") is None else xml)


@verb(
    "domcapabilities",
    "host",
    "[--virttype <string>] [--emulatorbin <string>] [--arch <string>] [--machine <string>] " + DUMP_USAGE,
    "what a domain could have",
)
def domcapabilities(shell: Shell, values: Values) -> None:
    """Show domain capabilities."""
    asked = (values.get("emulatorbin"), values.get("arch"), values.get("machine"), values.get("virttype"))
    with shell.failing("failed to get emulator capabilities"):
        xml = shell.connection.domain_capabilities(*asked)
    show(shell, values, xml)


@verb("sysinfo", "host", DUMP_USAGE, "the host's SMBIOS tables")
def sysinfo(shell: Shell, values: Values) -> None:
    """Show system information."""
    with shell.failing("failed to get sysinfo"):
        show(shell, values, shell.call("CONNECT_GET_SYSINFO", 0).sysinfo)


@verb("maxvcpus", "host", "[--type <string>]", "the most vCPUs a domain may have")
def maxvcpus(shell: Shell, values: Values) -> None:
    """Show the most vCPUs: what a domain's capabilities say, or else the driver."""
    kind = values.get("type")
    try:
        text = shell.call("CONNECT_GET_DOMAIN_CAPABILITIES", None, None, None, kind, 0).capabilities
        most = (parse(text).xpath("string(/domainCapabilities/vcpu/@max)") or "").strip()
    except LibvirtError:
        most = ""
    shell.print(most or str(shell.call("CONNECT_GET_MAX_VCPUS", kind).max_vcpus))


@verb("nodeinfo", "host", "", "the host at a glance")
def nodeinfo(shell: Shell, values: Values) -> None:
    """Show the host at a glance."""
    with shell.failing("failed to get node information"):
        info = shell.connection.node_info()
    facts = (
        ("CPU model:", info.model),
        ("CPU(s):", info.cpus),
        ("CPU frequency:", f"{info.mhz} MHz"),
        ("CPU socket(s):", info.sockets),
        ("Core(s) per socket:", info.cores),
        ("Thread(s) per core:", info.threads),
        ("NUMA cell(s):", info.nodes),
        ("Memory size:", f"{info.memory_kib} KiB"),
    )
    for label, value in facts:
        shell.fact(label, value, 20)


@verb("nodecpumap", "host", "[--pretty]", "which of the host's CPUs are online")
def nodecpumap(shell: Shell, values: Values) -> None:
    """Show the CPU map."""
    with shell.failing("Unable to get cpu map"):
        answer = shell.call("NODE_GET_CPU_MAP", 1, 1, 0)
    shell.fact("CPUs present:", answer.ret)
    shell.fact("CPUs online:", answer.online)
    bits = answer.cpumap
    if values.flag("pretty"):
        shown = cpu_list(bits, answer.ret)
    else:
        shown = "".join("y" if n // 8 < len(bits) and bits[n // 8] >> n % 8 & 1 else "-" for n in range(answer.ret))
    shell.fact("CPU map:", shown)


@verb("nodecpustats", "host", "[--cpu <number>] [--percent]", "the host's CPU time by kind")
def nodecpustats(shell: Shell, values: Values) -> None:
    """Show CPU times."""
    import time

    cpu = values.number("cpu", minimum=-1, maximum=(1 << 31) - 1)
    number = -1 if cpu is None else cpu
    with shell.failing("Unable to get number of cpu stats"):
        count = shell.call("NODE_GET_CPU_STATS", number, 0, 0).nparams
    if not count:
        return
    if not values.flag("percent"):
        for name, value in _cpu_times(shell, number, count).items():
            if name in _CPU_LABELS:
                shell.print(f"{_CPU_LABELS[name]:<15} {value:>20}")
        return
    first = _cpu_times(shell, number, count)
    if "utilization" in first:
        shell.print(f"usage:          {float(first['utilization']):>5.1f}%")
        return
    time.sleep(1)
    second = _cpu_times(shell, number, count)
    spent = {name: second[name] - first.get(name, 0) for name in second if name in _CPU_LABELS}
    total = sum(spent.values())
    share = {name: 100 * difference / total if total else 0.0 for name, difference in spent.items()}
    usage = share.get("user", 0.0) + share.get("kernel", 0.0) + share.get("intr", 0.0)
    shell.print(f"{'usage:':<15} {usage:>5.1f}%")
    for name, percent in share.items():
        shell.print(f"{_CPU_LABELS[name]:<15} {percent:>5.1f}%")


def _cpu_times(shell: Shell, cpu: int, count: int) -> dict[str, int]:
    with shell.failing("Unable to get node cpu stats"):
        return {stat.field: stat.value for stat in shell.call("NODE_GET_CPU_STATS", cpu, count, 0).params}


@verb("nodememstats", "host", "[--cell <number>]", "the host's memory by kind")
def nodememstats(shell: Shell, values: Values) -> None:
    """Show memory."""
    cell = values.number("cell", minimum=-1, maximum=(1 << 31) - 1)
    number = -1 if cell is None else cell
    with shell.failing("Unable to get number of memory stats"):
        count = shell.call("NODE_GET_MEMORY_STATS", 0, number, 0).nparams
    with shell.failing("Unable to get memory stats"):
        stats = shell.call("NODE_GET_MEMORY_STATS", count, number, 0).params if count else []
    for stat in stats:
        shell.print(f"{stat.field:<7}: {stat.value:>20} KiB")


@verb("freecell", "host", "[--cellno <number>] [--all]", "free memory of NUMA cells")
def freecell(shell: Shell, values: Values) -> None:
    """Show free memory."""
    exclusive(values, "all", "cellno")
    cell = values.number("cellno", minimum=0, maximum=(1 << 31) - 1)
    if values.flag("all"):
        cells = [int(c.get("id", "0")) for c in parse(shell.connection.capabilities()).findall(".//cells/cell")]
        if not cells:
            msg = "NUMA not supported"
            raise VerbFailed(msg)
        total = 0
        for number in cells:
            free = shell.call("NODE_GET_CELLS_FREE_MEMORY", number, 1).cells[0]
            shell.print(f"{number:>5}: {free // 1024:>10} KiB")
            total += free
        shell.say("--------------------")
        shell.say(f"{'Total':>5}: {total // 1024:>10} KiB".replace(":  ", ":  "))
    elif cell is not None:
        free = shell.call("NODE_GET_CELLS_FREE_MEMORY", cell, 1).cells
        shell.print(f"{cell}: {free[0] // 1024} KiB")
    else:
        shell.print(f"Total: {shell.connection.free_memory_bytes() // 1024} KiB")


def _page_kib(values: Values) -> int | None:
    size = values.scaled("pagesize", 1024)
    return None if size is None else -(-size // 1024)


@verb("freepages", "host", "[--cellno <number>] [--pagesize <number>] [--all]", "free pages of NUMA cells")
def freepages(shell: Shell, values: Values) -> None:
    """Show free pages."""
    exclusive(values, "all", "cellno")
    cell, size = values.number("cellno", minimum=0, maximum=(1 << 31) - 1), _page_kib(values)
    document = parse(shell.connection.capabilities())
    cells = document.findall(".//cells/cell")
    if values.flag("all"):
        for i, element in enumerate(cells):
            number = int(element.get("id", "0"))
            known = [int(p.get("size", "0")) for p in element.findall("pages")] or [
                int(p.get("size", "0")) for p in document.findall("./host/cpu/pages")
            ]
            if i:
                shell.print()
            _pages(shell, number, known if size is None else [size])
        return
    if cell is None:
        msg = "missing cellno argument"
        raise VerbFailed(msg)
    if size is None:
        msg = "missing pagesize argument"
        raise VerbFailed(msg)
    counts = shell.call("NODE_GET_FREE_PAGES", [size], cell, 1, 0).counts
    shell.print(f"{size}KiB: {counts[0]}")


def _pages(shell: Shell, cell: int, sizes: list[int]) -> None:
    counts = [(size, shell.call("NODE_GET_FREE_PAGES", [size], cell, 1, 0).counts[0]) for size in sizes]
    shell.print(f"Node {cell}:")
    for size, count in counts:
        shell.print(f"{size}KiB: {count}")


@verb(
    "allocpages",
    "host",
    "<pagesize> <pagecount> [--cellno <number>] [--add] [--all]",
    "change how many huge pages there are",
)
def allocpages(shell: Shell, values: Values) -> None:
    """Allocate pages."""
    exclusive(values, "all", "cellno")
    size, count = _page_kib(values), values.number("pagecount", minimum=0)
    cell = values.number("cellno", minimum=-1, maximum=(1 << 31) - 1)
    start, cells = (-1 if cell is None else cell), 1
    if values.flag("all"):
        start = 0
        cells = len(parse(shell.connection.capabilities()).findall(".//cells/cell"))
    shell.call("NODE_ALLOC_PAGES", [size], [count], start, cells, collect(values, {"add": 1}))


@verb("nodesevinfo", "host", "", "what the host offers for encrypted guests")
def nodesevinfo(shell: Shell, values: Values) -> None:
    """Show SEV."""
    with shell.failing("Unable to get host SEV information"):
        count = shell.call("NODE_GET_SEV_INFO", 0, 0).nparams
        params = shell.call("NODE_GET_SEV_INFO", count, 0).params
    for param in params:
        shell.print(f"{param.field:<18}: {param_text(param)}")


@verb("nodesuspend", "host", "<target> <duration>", "suspend the host for so many seconds")
def nodesuspend(shell: Shell, values: Values) -> None:
    """Suspend the host."""
    target, duration = values.text("target"), values.number("duration")
    if target not in _SUSPEND:
        msg = "Invalid target"
        raise VerbFailed(msg)
    if duration is None or duration < 0:
        msg = "Invalid duration"
        raise VerbFailed(msg)
    with shell.failing("The host was not suspended"):
        shell.call("NODE_SUSPEND_FOR_DURATION", _SUSPEND[target], duration, 0)


@verb("node-memory-tune", "host", " ".join(f"[--{name} <number>]" for name in _TUNE), "how the host merges equal pages")
def node_memory_tune(shell: Shell, values: Values) -> None:
    """Show or set page merging."""
    from pyhyve.rpc.values import ParamType, TypedParam

    params = [
        TypedParam(name.replace("-", "_"), ParamType.UINT, number)
        for name in _TUNE
        if (number := values.number(name, minimum=0, maximum=(1 << 32) - 1)) is not None
    ]
    if params:
        with shell.failing("Unable to change memory parameters"):
            shell.call("NODE_SET_MEMORY_PARAMETERS", params, 0)
        return
    with shell.failing("Unable to get number of memory parameters"):
        count = shell.call("NODE_GET_MEMORY_PARAMETERS", 0, 0).nparams
    if not count:
        return
    with shell.failing("Unable to get memory parameters"):
        found = shell.call("NODE_GET_MEMORY_PARAMETERS", count, 0).params
    shell.print("Shared memory:")
    for param in found:
        shell.print(f"\t{param.field.removeprefix('shm_'):<15} {param_text(param)}")


# -- CPU models --------------------------------------------------------------------------------------------------------


@verb("cpu-models", "host", "<arch>", "names of CPU models")
def cpu_models(shell: Shell, values: Values) -> None:
    """List CPU models."""
    with shell.failing("failed to get CPU model names"):
        answer = shell.call("CONNECT_GET_CPU_MODEL_NAMES", values.text("arch"), 1, 0)
    if not answer.ret:
        shell.hint("all CPU models are accepted\n")
    for name in answer.models:
        shell.print(name)


def _cpus(path: str) -> list[str]:
    """The CPUs described in a file: ``<cpu>`` elements, domains or (domain) capabilities."""
    text = read_file(path)
    try:
        document = parse(f"<container>{text.partition('?>')[2] if text.startswith('<?xml') else text}</container>")
    except VerbFailed as error:
        msg = f"File '{path}' is not a valid XML document"
        raise VerbFailed(msg) from error
    found: list[Any] = []
    for element in document:
        if element.tag == "cpu":
            found.append(element)
        elif element.tag == "domain":
            found += element.findall("cpu")
        elif element.tag == "capabilities":
            found += element.findall("host/cpu")
        elif element.tag == "domainCapabilities":
            found += element.findall("cpu/mode[@name='host-model'][@supported='yes']")
    for element in found:
        if element.tag == "mode":
            element.tag = "cpu"
            for name in list(element.attrib):
                del element.attrib[name]
    if not found:
        msg = (
            f"File '{path}' does not contain any <cpu> element or valid domain XML, host capabilities XML, or domain "
            "capabilities XML"
        )
        raise VerbFailed(msg)
    return [etree.tostring(element, encoding="unicode", with_tail=False) for element in found]


def _compared(shell: Shell, values: Values, path: str, result: int, kind: str) -> None:
    incompatible, identical, superset, failed = _COMPARED[kind]
    if result == 0:
        shell.print(incompatible.format(path))
        raise VerbFailed
    if result not in {1, 2}:
        raise VerbFailed(failed.format(path))
    shell.print((identical if result == 1 else superset).format(path))


@verb("cpu-compare", "host", "<file> [--error] [--validate]", "compare the host's CPU with a description")
def cpu_compare(shell: Shell, values: Values) -> None:
    """Compare with the host's CPU."""
    path, flags = values.text("file"), collect(values, {"error": 1, "validate": 2})
    cpus = _cpus(path)
    with shell.failing(f"Failed to compare host CPU with {path}"):
        result = shell.call("CONNECT_COMPARE_CPU", cpus[0], flags).result
    _compared(shell, values, path, result, "host")


_MODEL_USAGE: Final = "[--virttype <string>] [--emulator <string>] [--arch <string>] [--machine <string>]"


def _which(values: Values) -> tuple[str | None, ...]:
    return tuple(values.get(name) for name in ("emulator", "arch", "machine", "virttype"))


@verb(
    "hypervisor-cpu-compare",
    "host",
    f"<file> {_MODEL_USAGE} [--error] [--validate]",
    "compare the CPU a hypervisor offers with a description",
)
def hypervisor_cpu_compare(shell: Shell, values: Values) -> None:
    """Compare with the hypervisor's CPU."""
    path, flags = values.text("file"), collect(values, {"error": 1, "validate": 2})
    cpus = _cpus(path)
    with shell.failing(f"Failed to compare hypervisor CPU with {path}"):
        result = shell.call("CONNECT_COMPARE_HYPERVISOR_CPU", *_which(values), cpus[0], flags).result
    _compared(shell, values, path, result, "hypervisor")


@verb(
    "cpu-baseline", "host", "<file> [--features] [--migratable]", "the CPU that several described ones have in common"
)
def cpu_baseline(shell: Shell, values: Values) -> None:
    """Compute a baseline."""
    cpus = _cpus(values.text("file"))
    shell.write(shell.call("CONNECT_BASELINE_CPU", cpus, collect(values, _CPU_FLAGS)).cpu)


@verb(
    "hypervisor-cpu-baseline",
    "host",
    f"[--file <string>] {_MODEL_USAGE} [--features] [--migratable] [--model <string>]",
    "the CPU in common that a hypervisor can offer",
)
def hypervisor_cpu_baseline(shell: Shell, values: Values) -> None:
    """Compute a baseline the hypervisor can offer."""
    exclusive(values, "file", "model")
    path, model = values.get("file"), values.get("model")
    if path is None and model is None:
        msg = "Either --file or --model must be provided"
        raise VerbFailed(msg)
    cpus = _cpus(path) if path is not None else [f"<cpu><model>{model}</model></cpu>"]
    flags = collect(values, _CPU_FLAGS)
    shell.write(shell.call("CONNECT_BASELINE_HYPERVISOR_CPU", *_which(values), cpus, flags).cpu)
