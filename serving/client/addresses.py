"""Hosts and ports in addresses."""

import ipaddress


def host_port(host: str, port: int) -> str:
    """HOST:PORT; an IPv6 address is put in brackets, otherwise its end would be read as the port."""
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def bare_host(host: str) -> str:
    """The host in the form that sockets take: an IPv6 address without the brackets of a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_url(address: str) -> bool:
    """Whether an address is that of a REST server; those of gRPC servers are HOST:PORT or gRPC's names."""
    return address.startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: localhost, 127.0.0.0/8, ::1, or the address of all its interfaces."""
    try:
        address = ipaddress.ip_address(bare_host(host))
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
