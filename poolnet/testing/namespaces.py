"""Networks for tests and benchmarks: Linux network namespaces, with cables, a switch, routers, address translation.

Needs root and ``ip``. Nothing touches the network of the machine itself: every interface is made inside a namespace of
this network, and goes with it.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

#: Everybody outside; addresses are given out from .1 on.
_OUTSIDE = "10.77.0"
_SWITCH = "switch"
#: What a home router does: translate what goes out, take in nothing that nobody inside asked for. Without the second
#: rule Linux would take an early probe from outside for itself, and then choose another port for the answer to it.
_TRANSLATION = """
table ip poolnet {
    chain out { type nat hook postrouting priority 100; oifname "outside" masquerade; }
    chain in { type filter hook input priority 0; iifname "outside" drop; }
}
"""


def can_make_namespaces() -> bool:
    """Return whether this machine lets us make network namespaces and cables between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        return False
    try:
        with open_network() as network:
            network.add_host("a")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def can_translate() -> bool:
    """Return whether there is ``nft``."""
    return shutil.which("nft") is not None


class Network:
    """Hosts on one switch, and routers with hosts behind them. Made by `open_network`."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._names: list[str] = []
        self._addresses: dict[str, str] = {}

    def add_switch(self) -> None:
        """Begin: make the switch."""
        self._add_namespace(_SWITCH)
        self.run(_SWITCH, "ip", "link", "add", "bridge", "type", "bridge")
        self.run(_SWITCH, "ip", "link", "set", "bridge", "up")

    def add_host(self, name: str) -> str:
        """Plug a new host into the switch; return its address."""
        self._add_namespace(name)
        self._plug(name)
        return self._addresses[name]

    def add_host_behind_router(self, name: str) -> str:
        """Plug a new router into the switch and a new host into the router, which translates; return its address."""
        router, inside = f"{name}-router", f"10.78.{len(self._names)}"
        self._add_namespace(router)
        self._add_namespace(name)
        self._plug(router)
        self._cable(router, "inside", name, "outside")
        self._set_up(router, "inside", f"{inside}.1")
        self._set_up(name, "outside", f"{inside}.2")
        self.run(router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        self.run(router, "nft", "-f", "-", stdin=_TRANSLATION)
        self.run(name, "ip", "route", "add", "default", "via", f"{inside}.1")
        self._addresses[name] = f"{inside}.2"
        return self._addresses[name]

    def under(self, name: str) -> tuple[str, ...]:
        """Return the command that runs another command on a host."""
        return ("ip", "netns", "exec", self._namespace(name))

    def run(self, name: str, *command: str, stdin: str = "") -> None:
        """Run a command on a host."""
        subprocess.run([*self.under(name), *command], input=stdin, text=True, check=True, capture_output=True)

    def limit_uplink(self, name: str, rate: str) -> None:
        """Send from a host no faster than that (as ``tc`` writes it: ``20mbit``), as a home router would."""
        command = f"tc qdisc replace dev outside root tbf rate {rate} burst 32kb latency 200ms"
        self.run(name, *command.split())

    def pull_plug(self, name: str) -> None:
        """Pull the cable out of the switch."""
        self.run(_SWITCH, "ip", "link", "set", self._port(name), "down")

    def plug_in(self, name: str) -> None:
        """Put it back."""
        self.run(_SWITCH, "ip", "link", "set", self._port(name), "up")

    def switch_off(self, name: str) -> None:
        """Take down a host's interface: its addresses stay, its routes go, and sending fails."""
        self.run(name, "ip", "link", "set", "outside", "down")

    def switch_on(self, name: str) -> None:
        """Bring it up again."""
        self.run(name, "ip", "link", "set", "outside", "up")
        self._add_default_route(name)

    def remove(self) -> None:
        """Remove every namespace, and with them all that is in them."""
        for name in self._names:
            subprocess.run(["ip", "netns", "del", self._namespace(name)], check=False, capture_output=True)

    def _namespace(self, name: str) -> str:
        return f"pn{self._token}-{name}"

    def _port(self, name: str) -> str:
        return f"port{self._names.index(name)}"

    def _add_namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", self._namespace(name)], check=True, capture_output=True)
        self._names.append(name)
        self.run(name, "ip", "link", "set", "lo", "up")

    def _plug(self, name: str) -> None:
        port = self._port(name)
        self._cable(_SWITCH, port, name, "outside")
        self.run(_SWITCH, "ip", "link", "set", port, "master", "bridge")
        self.run(_SWITCH, "ip", "link", "set", port, "up")
        self._addresses[name] = f"{_OUTSIDE}.{self._names.index(name)}"
        self._set_up(name, "outside", self._addresses[name])
        self._add_default_route(name)

    def _add_default_route(self, name: str) -> None:
        self.run(name, "ip", "route", "add", "default", "via", f"{_OUTSIDE}.254")  # nobody is there

    def _cable(self, one: str, end: str, other: str, other_end: str) -> None:
        self.run(one, *f"ip link add {end} type veth peer name {other_end} netns {self._namespace(other)}".split())

    def _set_up(self, name: str, interface: str, address: str) -> None:
        self.run(name, "ip", "address", "add", f"{address}/24", "dev", interface)
        self.run(name, "ip", "link", "set", interface, "up")


@contextlib.contextmanager
def open_network() -> Iterator[Network]:
    """Make a switch with nothing plugged in; everything is removed after the block."""
    network = Network(secrets.token_hex(3))
    try:
        network.add_switch()
        yield network
    finally:
        network.remove()
