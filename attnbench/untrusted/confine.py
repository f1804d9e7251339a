"""What a candidate process may do: set by itself ahead of torch and of the plugin, and never to be taken back.

Landlock (landlock(7)) keeps it to its scratch folder, away from the network and from other processes' memory and
signals; seccomp (seccomp(2)) refuses system calls that no kernel needs; limits (setrlimit(2)) bound memory, files and
processes. Landlock and seccomp come by the packages of the extra `untrusted`; what is missing here is said.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnbench.paths import import_folder
from attnbench.plugins import split_spec

GET_PACKAGES = "pip install 'attnbench[untrusted]'"
# Of the memory that is free when it starts. Shared memory, where inputs and outputs lie, does not count.
MEMORY_SHARE = 0.8
# Of one file, what it prints included: more than compilers write.
FILE_BYTES = 64 * 2**20
# Processes and threads beyond those that the user has when it starts: compilers and pools, no endless forks.
MORE_PROCESSES = 512
# What Python, its packages, compilers and drivers read.
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/sys", "/dev", "/nix")
WRITABLE_DEVICES = ("/dev/null",)
# Landlock denies TCP since its 4th ABI, signals to other processes since its 6th: Linux 6.7 and 6.12.
ABI_OF_NETWORK, ABI_OF_SIGNALS = 4, 6
# No kernel needs these: to reach the network, other processes or the machine's settings, or to leave the process group,
# which is stopped between calls. io_uring opens sockets of its own; clone and fork stay, since compilers are programs.
REFUSED = (
    "socket", "connect", "bind", "listen", "accept", "accept4",
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open", "userfaultfd",
    "add_key", "request_key", "keyctl", "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsmount",
    "pivot_root", "chroot", "setns", "unshare", "init_module", "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "settimeofday", "clock_settime",
    "adjtimex", "clock_adjtime", "sethostname", "setdomainname", "setpriority", "sched_setscheduler", "sched_setattr",
    "ioprio_set", "setrlimit", "setsid", "setpgid",
)  # fmt: skip
# prlimit(2) of a new limit; without one, it only tells the old.
NEW_LIMIT_ARGUMENT = 2


def confine(protection: Mapping[str, Any]) -> list[str]:
    """Confines this process for good; what of it this system lacks, in words.

    protection: `scratch`, the folder that it may write to; `specs`, the plugins, whose folders it may read.
    """
    lacking = missing()
    _limit()
    if not _without_landlock():
        _landlock(Path(protection["scratch"]), protection["specs"])
    if not _without_seccomp():
        lacking += _seccomp()
    return lacking


def missing() -> list[str]:
    """The protection that this system does not offer, in words, with the way out where there is one."""
    lacking = [*(_without_landlock() or _landlock_parts()), *_without_seccomp()]
    if os.geteuid() == 0:
        lacking.append("limit on processes: root is not held to it; run as another user")
    return lacking


def _without_landlock() -> list[str]:
    """Why there is no Landlock here."""
    try:
        import landlockpy
    except ImportError:
        return [f"Landlock: {GET_PACKAGES}"]
    if not landlockpy.supported():
        return ["Landlock: this kernel has none, or it is switched off (Linux 5.13, CONFIG_SECURITY_LANDLOCK)"]
    return []


def _landlock_parts() -> list[str]:
    """What of Landlock an older kernel has not."""
    import landlockpy

    abi, told = landlockpy.abi_version(), []
    if abi < ABI_OF_NETWORK:
        told.append("Landlock on TCP: Linux 6.7")
    if abi < ABI_OF_SIGNALS:
        told.append("Landlock on signals: Linux 6.12")
    return told


def _without_seccomp() -> list[str]:
    try:
        import pyseccomp  # noqa: F401  # loads libseccomp
    except ImportError:
        return [f"seccomp: {GET_PACKAGES}"]
    except (OSError, RuntimeError):
        return ["seccomp: libseccomp is not installed; apt install libseccomp2"]
    return []


def _limit() -> None:
    from attnbench.machine.facts import available_memory_bytes

    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES)
    _lower(resource.RLIMIT_DATA, int(available_memory_bytes("cpu") * MEMORY_SHARE))
    _lower(resource.RLIMIT_NPROC, _running() + MORE_PROCESSES)


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(limit, (value, value))


def _running() -> int:
    """Threads of this user now, which a limit on processes counts."""
    count, user = 0, os.getuid()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{process}").st_uid == user:
                count += len(os.listdir(f"/proc/{process}/task"))
    return count


def _landlock(scratch: Path, specs: Sequence[str]) -> None:
    from landlockpy import AccessFS, Ruleset, Scope

    read = AccessFS.READ_FILE | AccessFS.READ_DIR | AccessFS.EXECUTE
    with Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL) as ruleset:
        for path in readable(specs):
            ruleset.allow_path(path, read if path.is_dir() else AccessFS.READ_FILE)
        for path in map(Path, WRITABLE_DEVICES):
            ruleset.allow_path(path, AccessFS.READ_FILE | AccessFS.WRITE_FILE)
        ruleset.allow_path(scratch, ruleset.handled_fs)
        ruleset.restrict()


def readable(specs: Sequence[str]) -> list[Path]:
    """What it may read: the system, this Python and its packages, the folders of plugins that are files."""
    return list(dict.fromkeys(path.resolve() for path in _readable(specs) if path.exists()))


def _readable(specs: Sequence[str]) -> Iterator[Path]:
    yield from map(Path, SYSTEM_FOLDERS)
    yield from map(Path, (sys.prefix, sys.base_prefix, import_folder()))
    yield from (Path(entry) for entry in sys.path if entry)
    for name, module in list(sys.modules.items()):  # setuptools' way to a package that is installed as a checkout
        if name.startswith("__editable__"):
            yield from map(Path, getattr(module, "MAPPING", {}).values())
    for spec in specs:
        place, _ = split_spec(spec)
        if place.endswith(".py"):
            yield Path(place).resolve().parent


def _seccomp() -> list[str]:
    """Which calls it could not refuse, in words."""
    import pyseccomp

    rules, unknown = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW), []
    for name in REFUSED:
        try:
            rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
        except (OSError, ValueError):  # a call that this architecture has not, or that libseccomp does not know
            unknown.append(name)
    set_limit = pyseccomp.Arg(NEW_LIMIT_ARGUMENT, pyseccomp.NE, 0)
    rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "prlimit64", set_limit)
    rules.load()
    return [f"seccomp on {', '.join(unknown)}: unknown to libseccomp here"] if unknown else []
