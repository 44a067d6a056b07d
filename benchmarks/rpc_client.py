"""A client of python3-libvirt, run by the system's Python: ``rpc_client.py JOB URI COUNT CLIENTS``; prints JSON.

Every process connects, says so, and starts when all have; figures are of the time between the first start and the last
end. It is apart because the binding is Debian's, for Debian's Python.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
import zlib
from typing import Any

import libvirt

WARM_UP = 50
STATISTICS = 0  # every group
POOL = "bench"
RANDOM = random.Random(1).randbytes(1 << 20)


def info(_connection: Any, domain: Any, count: int) -> Any:
    """Ask for one domain's state and memory again and again."""
    for _ in range(count):
        domain.info()
    return domain.info()[0]


def list_and_info(connection: Any, domain: Any, count: int) -> Any:
    """List the domains that run, and ask for one's information."""
    names = 0
    for _ in range(count):
        names = len(connection.listAllDomains(1))
        domain.info()
    return names


def list_all(connection: Any, _domain: Any, count: int) -> Any:
    """List every domain."""
    found = 0
    for _ in range(count):
        found = len(connection.listAllDomains())
    return found


def statistics(connection: Any, _domain: Any, count: int) -> Any:
    """Ask for every statistic of every domain."""
    found = 0
    for _ in range(count):
        found = len(connection.getAllDomainStats(STATISTICS))
    return found


JOBS = {"info": info, "list-info": list_and_info, "list": list_all, "stats": statistics}


def client(job: str, uri: str, count: int, barrier: Any, results: Any) -> None:
    """One process."""
    connection = libvirt.open(uri)
    domain = next(iter(connection.listAllDomains(1)), None) or connection.listAllDomains()[0]
    work = JOBS[job]
    work(connection, domain, 1 if job in {"list", "stats"} else WARM_UP)
    barrier.wait()
    started = time.perf_counter()
    result = work(connection, domain, count)
    results.put((started, time.perf_counter(), result))
    connection.close()


def throughput(job: str, uri: str, count: int, clients: int) -> dict[str, Any]:
    """Microseconds a call takes, all clients together."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(clients), context.Queue()
    processes = [context.Process(target=client, args=(job, uri, count, barrier, results)) for _ in range(clients)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    seconds = max(end for _, end, _ in found) - min(start for start, _, _ in found)
    return {"us": seconds / (count * clients) * 1e6, "result": found[0][2]}


def latency_beside_statistics(uri: str, count: int) -> dict[str, Any]:
    """The 99th percentile of one client's info(), in microseconds, while another asks for all statistics."""
    context = multiprocessing.get_context("fork")
    stop, ready = context.Event(), context.Event()

    def busy() -> None:
        connection = libvirt.open(uri)
        while not stop.is_set():
            connection.getAllDomainStats(STATISTICS)
            ready.set()

    process = context.Process(target=busy)
    process.start()
    ready.wait(600)
    connection = libvirt.open(uri)
    domain = next(iter(connection.listAllDomains(1)), None) or connection.listAllDomains()[0]
    times = []
    for _ in range(count):
        started = time.perf_counter()
        domain.info()
        times.append(time.perf_counter() - started)
    stop.set()
    process.join()
    times.sort()
    return {"us": times[int(len(times) * 0.99)] * 1e6, "result": domain.info()[0]}


def define(uri: str, xml: str, count: int) -> dict[str, Any]:
    """Define so many domains beside what there is."""
    connection = libvirt.open(uri)
    have = len(connection.listAllDomains())
    for number in range(have, count):
        connection.defineXML(xml.replace("NAME", f"bench-{number}"))
    return {"us": 0, "result": len(connection.listAllDomains())}


def start(uri: str, name: str) -> dict[str, Any]:
    """Start a domain if it does not run."""
    connection = libvirt.open(uri)
    domain = connection.lookupByName(name)
    if not domain.isActive():
        domain.create()
    return {"us": 0, "result": domain.state()[0]}


def destroy(uri: str, name: str) -> dict[str, Any]:
    """End a domain that runs; that there is none is well too."""
    connection = libvirt.open(uri)
    for domain in connection.listAllDomains(1):
        if domain.name() == name:
            domain.destroy()
    return {"us": 0, "result": 0}


def volume(connection: Any, directory: str, mebibytes: int) -> Any:
    """A raw volume of that size, full of random bytes, in a pool of its own; what is there already serves again."""
    found = [pool for pool in connection.listAllStoragePools() if pool.name() == POOL]
    if found:
        return found[0].storageVolLookupByName("data")
    pool = connection.storagePoolCreateXML(
        f"<pool type='dir'><name>{POOL}</name><target><path>{directory}</path></target></pool>",
        libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD,
    )
    made = pool.createXML(f"<volume><name>data</name><capacity unit='MiB'>{mebibytes}</capacity></volume>")
    transfer("upload", connection, made, mebibytes)
    return made


def transfer(job: str, connection: Any, of: Any, mebibytes: int) -> int:
    """Send so much to a volume, or receive it; return the checksum of what went over."""
    stream = connection.newStream()
    left, check = mebibytes << 20, 0

    def give(_stream: Any, size: int, _opaque: Any) -> bytes:
        nonlocal left, check
        part = RANDOM[: min(size, left)]
        left -= len(part)
        check = zlib.crc32(part, check)
        return part

    def take(_stream: Any, part: bytes, _opaque: Any) -> int:
        nonlocal check
        check = zlib.crc32(part, check)
        return len(part)

    if job == "upload":
        of.upload(stream, 0, mebibytes << 20)
        stream.sendAll(give, None)
    else:
        of.download(stream, 0, mebibytes << 20)
        stream.recvAll(take, None)
    stream.finish()
    return check


def throughput_of_streams(job: str, uri: str, directory: str, mebibytes: int) -> dict[str, Any]:
    """Microseconds a mebibyte takes."""
    connection = libvirt.open(uri)
    of = volume(connection, directory, mebibytes)
    started = time.perf_counter()
    result = transfer(job, connection, of, mebibytes)
    return {"us": (time.perf_counter() - started) / mebibytes * 1e6, "result": result}


def main() -> None:
    """Do one job."""
    job, uri, *rest = sys.argv[1:]
    if job == "define":
        answer = define(uri, rest[0], int(rest[1]))
    elif job == "start":
        answer = start(uri, rest[0])
    elif job == "destroy":
        answer = destroy(uri, rest[0])
    elif job in {"upload", "download"}:
        answer = throughput_of_streams(job, uri, rest[0], int(rest[1]))
    elif job == "beside":
        answer = latency_beside_statistics(uri, int(rest[0]))
    else:
        answer = throughput(job, uri, int(rest[0]), int(rest[1]))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
