"""Hosts and ports as they stand in addresses."""


def host_port(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets: without them its end would be taken for the port."""
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def bare_host(host: str) -> str:
    """A host as sockets take it, without the brackets of an IPv6 address in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host
