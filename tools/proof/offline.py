"""Runs a command with the network cut off: `python -m tools.proof.offline COMMAND …`; its exit status is the command's.

On Linux the command gets a network of its own that holds nothing but the loopback interface: a server on 127.0.0.1
works, and no outside address has a route. That needs root or unprivileged user namespaces. Where it cannot be had, this
says so and runs the command all the same.

The command finds HF_HUB_OFFLINE=1 in its environment, and PEFT_LESSONS_NETWORK: `cut` or `open`.
"""

import ctypes
import os
import socket
import struct
import subprocess
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1  # linux/sockios.h, linux/if.h


def unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def cut_network() -> None:
    """Move this process into a network with only the loopback interface, up. OSError where the system forbids it."""
    import fcntl  # Windows has none

    user, group = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWNET)
    except PermissionError:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        for file, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{file}", "w") as entry:  # in the new user namespace we stay who we are
                entry.write(line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack_from("h", answer, 16)[0]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def network_can_be_cut() -> bool:
    """Try it in a child process, since a half-made namespace (Ubuntu restricts them) cannot be left again."""
    if sys.platform != "linux":
        return False
    child = os.fork()
    if child == 0:
        try:
            cut_network()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(command: list[str]) -> int:
    if not command:
        sys.exit("usage: python -m tools.proof.offline COMMAND [ARGUMENT …]")
    cut = network_can_be_cut()
    if cut:
        cut_network()
        print("The network is cut off: only this computer's own addresses can be reached.", flush=True)
    else:
        print("The network cannot be cut off on this system; the Hugging Face hub is switched off.", flush=True)
    network = {"HF_HUB_OFFLINE": "1", "PEFT_LESSONS_NETWORK": "cut" if cut else "open"}
    try:
        return subprocess.run(command, env=os.environ | network).returncode
    except FileNotFoundError:
        sys.exit(f"there is no command {command[0]!r}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
