"""What the kernel, curl and servers say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench import machine
from bench.client import Answer, has_body, parse_answers
from bench.errors import BenchError
from bench.namespace import parse_paged_in
from bench.processes import TICK, Meter, parse_peak, parse_stat, tree

STAT = "4242 ({name}) S 17 4242 4242 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0 98765 1 2 3"


@pytest.mark.parametrize("name", ["python", "a) R 1 (b", "(sd-pam)", "with space"])
def test_stat(name: str) -> None:
    assert parse_stat(STAT.replace("{name}", name)) == (17, 124, 98765)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n", 2 << 20), ("Name:\tkthreadd\n", 0), ("", 0)],
)
def test_peak(status: str, expected: int) -> None:
    assert parse_peak(status) == expected


@pytest.mark.parametrize(
    ("vmstat", "expected"), [("nr_free_pages 1\npgpgin 3\npgpgout 9\n", 3072), ("nr_free_pages 1\n", 0)]
)
def test_paged_in(vmstat: str, expected: int) -> None:
    assert parse_paged_in(vmstat) == expected


def test_tree_and_meter_of_a_process_with_a_child() -> None:
    work = "sum(range(3_000_000))"
    inner = f"import sys; {work}; print(flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    meter = Meter(os.getpid())
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the grandchild has worked
        below = tree(process.pid)
        assert len(below) == 2
        assert process.pid in below
        assert set(below) < set(tree(os.getpid()))
        cpu, peak = meter.read()
        assert cpu >= 1 / TICK
        assert peak > 3 << 20
    assert tree(process.pid) == {}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("200 0.012 1048576 1048576\n", Answer(200, 0.012, 1048576, 1048576)),
        ("200 0.012 1048576 \n", Answer(200, 0.012, 1048576, None)),
        ("200 0.5 10 10\n200 0.1 20 20\n", Answer(200, 0.5, 30, 20)),
    ],
)
def test_answers_of_curl(said: str, expected: Answer) -> None:
    assert parse_answers(said) == expected


def test_curl_that_says_nothing() -> None:
    with pytest.raises(BenchError):
        parse_answers("")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nh", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nx", True),
    ],
)
def test_where_a_body_begins(data: bytes, expected: bool) -> None:
    assert has_body(data) is expected


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nmodel\t\t: 167\nmodel name\t: Intel(R) Xeon(R): Processor\n", "Intel(R) Xeon(R): Processor"),
        ("processor\t: 0\nuarch\t\t: sifive,u74\n", "sifive,u74"),
    ],
)
def test_cpu_model(cpuinfo: str, expected: str) -> None:
    assert machine.cpu_model(cpuinfo) == expected


def test_cpu_without_a_name_is_called_after_its_architecture() -> None:
    assert machine.cpu_model("processor\t: 0\nBogoMIPS\t: 50.00\n") == os.uname().machine


@pytest.mark.parametrize(
    ("meminfo", "expected"), [("MemTotal:       24684084 kB\nMemFree: 1 kB\n", "23.5 GiB"), ("", "unknown")]
)
def test_memory(meminfo: str, expected: str) -> None:
    assert machine.memory(meminfo) == expected


MOUNTS = """\
1 0 254:0 / / rw shared:1 - ext4 /dev/vda rw
2 1 0:5 / /srv rw - tmpfs tmpfs rw
3 1 0:6 / /srv/data rw master:1 - xfs /dev/vdb rw
4 1 0:7 / /srv/data rw - btrfs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/x", ("ext4", "/dev/vda")),
        ("/srv", ("tmpfs", "tmpfs")),
        ("/srvx", ("ext4", "/dev/vda")),
        ("/srv/data/deep", ("btrfs", "/dev/vdc")),
    ],
)
def test_which_file_system_holds_a_path(path: str, expected: tuple[str, str]) -> None:
    assert machine.mount_of(path, MOUNTS) == expected
