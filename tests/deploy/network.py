"""A machine and the network around it, as two network namespaces with a wire between
them. Run by `inside`; says what each user of the machine got through to.

    machine (10.0.0.4, fd12::4, 2606:4700::4) ── wire ── around: everything else
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import inside
from rendered import MACHINE

AROUND = "around"
RESOLVER = "127.0.0.53"
# Addresses around the machine, by what they are.
INTERNET = ["93.184.216.34", "8.8.8.8", "2606:2800::34"]
METADATA = ["169.254.169.254", "169.254.170.2", "fd00:ec2::254"]
PRIVATE = [
    "10.0.0.5",
    "10.255.0.9",
    "172.16.0.9",
    "172.31.255.9",
    "192.168.7.7",
    "100.64.0.9",
    "169.254.169.253",
    "169.254.169.123",
    "198.18.0.9",
    "192.0.2.9",
    "fd12::5",
    "fe80::5",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::a00:5",
    "2002:a00:5::1",
]
# Where nobody listens for connections: to many.
MANY = ["224.0.0.251", "239.255.255.250", "255.255.255.255", "ff02::fb"]
OWN = ["127.0.0.1", "127.8.8.8", "::1", "10.0.0.4", "2606:4700::4", "0.0.0.0"]

# Answers at each address from that address, as each were another host.
LISTENER = """
import json, select, socket, sys
sockets = []
for address in json.loads(sys.argv[1]):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    scope = (0, socket.if_nametoindex("wall")) if address.startswith("fe80") else ()
    for port in (53, 80):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            it = socket.socket(family, kind)
            it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            it.bind((address, port, *scope))
            if kind == socket.SOCK_STREAM:
                it.listen(100)
            sockets.append(it)
print("up", flush=True)
while True:
    for it in select.select(sockets, [], [])[0]:
        if it.type == socket.SOCK_STREAM:
            one, _ = it.accept()
            one.sendall(b"hello")
            one.close()
        else:
            _, who = it.recvfrom(2000)
            it.sendto(b"hello", who)
"""

PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
def through(way):
    address, kind, port = way.split(" ")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    scope = (0, int(sys.argv[2])) if address[:3] in ("fe8", "ff0") else ()
    with socket.socket(family, KINDS[kind]) as it:
        it.settimeout(1)
        it.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            it.connect((address, int(port), *scope))
            if kind == "udp":
                it.send(b"hello")
            return it.recv(5) == b"hello"
        except OSError:
            return False
ways = json.loads(sys.argv[1])
with ThreadPoolExecutor(32) as pool:
    print(json.dumps([way for way, it in zip(ways, pool.map(through, ways)) if it]))
"""

SEEN = """
table inet seen {
  set four { type ipv4_addr; size 256; flags dynamic; }
  set six { type ipv6_addr; size 256; flags dynamic; }
  chain prerouting {
    type filter hook prerouting priority -300;
    iifname wall meta l4proto { tcp, udp } update @four { ip daddr counter }
    iifname wall meta l4proto { tcp, udp } update @six { ip6 daddr counter }
  }
}
"""


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def lay() -> int:
    """The wire, and who has which address."""
    sh("mount -t tmpfs tmpfs /run && mkdir -p /run/netns")
    sh(f"ip netns add {AROUND} && ip link add wire type veth peer name wall netns {AROUND}")
    around = f"ip -n {AROUND}"
    sh(
        f"ip link set lo up && ip link set wire up && {around} link set lo up && {around} link set wall up"
    )
    for address in ("10.0.0.4/32", "fd12::4/128", "2606:4700::4/128"):
        sh(f"ip address add {address} dev wire {'nodad' if ':' in address else ''}")
        sh(f"{around} route add {address} dev wall")
    sh("ip route add default dev wire && ip -6 route add default dev wire metric 1")
    sh("ip route add 224.0.0.0/4 dev wire")
    for address in INTERNET + METADATA + PRIVATE:
        width = "/128 nodad" if ":" in address else "/32"
        sh(f"{around} address add {address}{width} dev wall")
    # What arrives is counted, whoever it is for.
    subprocess.run(
        ["ip", "netns", "exec", AROUND, "nft", "-f", "-"], input=SEEN, text=True, check=True
    )
    return socket.if_nametoindex("wire")


def listen(addresses: list[str], *prefix: str) -> subprocess.Popen:
    it = subprocess.Popen(
        [*prefix, sys.executable, "-c", LISTENER, json.dumps(addresses)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert it.stdout is not None and it.stdout.readline() == "up\n"
    return it


def arrived() -> set[str]:
    """The addresses that packets came for since the last look."""
    seen = json.loads(sh(f"ip netns exec {AROUND} nft -j list table inet seen"))
    sh(f"ip netns exec {AROUND} nft flush set inet seen four")
    sh(f"ip netns exec {AROUND} nft flush set inet seen six")
    sets = [it["set"] for it in seen["nftables"] if "set" in it]
    return {one["elem"]["val"] for it in sets for one in it.get("elem", [])}


def refused(counter: str) -> int:
    listed = json.loads(sh(f"nft -j list counter inet browserfleet {counter}"))
    return next(it["counter"]["packets"] for it in listed["nftables"] if "counter" in it)


def probe(index: int, user: int, group: int | None = None) -> dict[str, list[str]]:
    """What a user of the machine gets through to."""
    addresses = INTERNET + METADATA + PRIVATE + MANY + OWN
    asked = [f"{it} {way}" for it in addresses for way in ("tcp 80", "udp 80", "tcp 53")]
    asked += [f"{RESOLVER} {kind} {port}" for kind in ("tcp", "udp") for port in (53, 80)]
    arrived()
    done = subprocess.run(
        ["setpriv", f"--reuid={user}", f"--regid={group or user}", "--clear-groups", "--"]
        + [sys.executable, "-c", PROBE, json.dumps(asked), str(index)],
        check=True,
        capture_output=True,
        text=True,
    )
    return {"through": sorted(json.loads(done.stdout)), "arrived": sorted(arrived())}


def answers() -> bool:
    """Whether a browser that listens can answer, here and outside."""
    own, port = ["127.0.0.1", "10.0.0.4"], 80
    it = listen(own, "setpriv", f"--reuid={inside.BROWSER}", "--clear-groups", "--inh-caps=-all")
    heard = []
    for address, prefix in (("127.0.0.1", ""), ("10.0.0.4", f"ip netns exec {AROUND} ")):
        code = f"import socket; print(socket.create_connection(({address!r}, {port}), 2).recv(5))"
        heard.append(sh(f'{prefix}{sys.executable} -c "{code}"') == "b'hello'\n")
    it.kill()
    return heard == [True, True]


def main() -> None:
    folder = Path(sys.argv[1])
    inside.own_files(folder)
    inside.own_users()
    index = lay()
    rules = Path("/etc/browserfleet/browsers.nft")
    rules.parent.mkdir(exist_ok=True)
    shutil.copy(MACHINE / "browsers.nft", rules)
    Path("/etc/resolv.conf").unlink()
    Path("/etc/resolv.conf").write_text(f"nameserver {RESOLVER}\n", encoding="ascii")
    listeners = [
        listen(INTERNET + METADATA + PRIVATE, "ip", "netns", "exec", AROUND),
        listen([it for it in OWN if it != "0.0.0.0"] + [RESOLVER]),
    ]
    said = {"open": probe(index, inside.BROWSER)}

    sh("nft -c -f /etc/browserfleet/browsers.nft")
    firewall = str(MACHINE / "browserfleet-firewall")
    sh(firewall)
    said["browser"] = probe(index, inside.BROWSER)
    said["browser's group"] = probe(index, 64_993, inside.BROWSER)
    said["counted"] = refused("browsers_refused")
    said["metadata counted"] = refused("metadata_refused")
    said["root"] = probe(index, 0)
    said["agent"] = probe(index, inside.AGENT)
    said["somebody"] = probe(index, 64_994)

    # An operator lets pages to one address inside and keeps them from one outside.
    Path("/etc/browserfleet/nft.d").mkdir()
    Path("/etc/browserfleet/nft.d/ours.nft").write_text(
        "add element inet browserfleet allowed4 { 10.0.0.5 }\n"
        "add element inet browserfleet inside4 { 8.8.8.0/24 }\n",
        encoding="ascii",
    )
    sh("echo 'nameserver 10.255.0.9' >> /etc/resolv.conf")
    sh("echo 'nameserver fd12::5' >> /etc/resolv.conf")
    # Twice: each start of the agent does it again.
    sh(firewall)
    sh(firewall)
    said["operator"] = probe(index, inside.BROWSER)
    for it in listeners:
        it.kill()
        it.wait()
    # Ports below 1024 are everybody's from here on.
    sh("sysctl -qw net.ipv4.ip_unprivileged_port_start=0")
    said["answers"] = answers()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
