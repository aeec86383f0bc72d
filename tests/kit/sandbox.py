"""Run a command in what a systemd unit makes of its process: sandbox.py FILTER STATE_DIR COMMAND...

Its own mounts, read-only but for the state directory; no capabilities and no new privileges; system
calls of FILTER (`@system-service`) only, others are answered EPERM. For root; it needs libseccomp.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 1 << 18
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, LAST_CAPABILITY = 24, 38, 40
CAPABILITY_VERSION_3 = 0x20080522
SCMP_ACT_ALLOW, SCMP_ACT_ERRNO = 0x7FFF0000, 0x00050000


def main(filter_: str, state_dir: str, *command: str) -> None:
    calls = list(system_calls(filter_))
    check(LIBC.unshare(CLONE_NEWNS))
    check(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    check(LIBC.mount(state_dir.encode(), state_dir.encode(), None, MS_BIND, None))
    change_mount("/", AT_RECURSIVE, set_=MOUNT_ATTR_RDONLY)
    change_mount(state_dir, 0, clear=MOUNT_ATTR_RDONLY)
    for capability in range(LAST_CAPABILITY + 1):
        check(LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    check(LIBC.capset(header, (ctypes.c_uint32 * 6)()))
    os.umask(0o077)
    allow_only(calls)
    os.execve(command[0], command, {**os.environ, "STATE_DIRECTORY": state_dir})


def system_calls(group: str) -> Iterator[str]:
    """Yield the names of the system calls in a group of systemd's."""
    words = ["systemd-analyze", "syscall-filter", "--no-pager", group]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in map(str.strip, lines[1:]):
        if name.startswith("@"):
            yield from system_calls(name)
        elif name and not name.startswith("#"):
            yield name


def change_mount(path: str, flags: int, *, set_: int = 0, clear: int = 0) -> None:
    attributes = (ctypes.c_uint64 * 4)(set_, clear, 0, 0)
    size = ctypes.sizeof(attributes)
    where = (AT_FDCWD, path.encode(), flags)
    check(LIBC.syscall(SYS_MOUNT_SETATTR, *where, attributes, size))


def allow_only(calls: list[str]) -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(SCMP_ACT_ERRNO | errno.EPERM))
    for name in calls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # or this machine has no such call
            check(seccomp.seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0))
    check(seccomp.seccomp_load(context))


def check(code: int) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
