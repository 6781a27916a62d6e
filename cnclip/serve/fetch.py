"""Fetches images from URLs of the hosts that the server's owner allows.

A name is resolved here, and the connection goes to the address that was checked: a name that
resolves to another address the next time (DNS rebinding) wins nothing. Redirections are followed
by hand, and checked in the same way.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from .._text import hide_secrets, printable
from ..errors import ImageError
from .options import ServerOptions

if TYPE_CHECKING:
    import httpx

_MAX_REDIRECTIONS = 5
_PORTS = {"http": 80, "https": 443}


class Fetcher:
    """Fetches images."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._hosts = [host.lower() for host in options.allow_urls or ()]
        self._opened: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            await self._opened.aclose()

    async def fetch(self, url: str) -> bytes:
        """The content of a URL.

        Raises:
            ImageError: no URLs are allowed, or not of this host; the host does not respond in time,
                or responds with an error or too much.
        """
        if not self._hosts:
            raise ImageError("the server fetches no URLs: send the image as base64 or a data URL")
        try:
            async with asyncio.timeout(self._options.url_timeout):
                return await self._fetch(url)
        except TimeoutError as error:
            reason = f"no image within {self._options.url_timeout:g} s"
            raise ImageError(reason, file=_shown(url)) from error

    async def _fetch(self, url: str) -> bytes:
        import httpx

        for _ in range(_MAX_REDIRECTIONS + 1):
            try:
                response = await self._request(url)
            except ImageError:
                raise
            except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
                reason = f"cannot be fetched: {type(error).__name__}"
                raise ImageError(reason, file=_shown(url)) from error
            if isinstance(response, bytes):
                return response
            url = response
        raise ImageError(f"more than {_MAX_REDIRECTIONS} redirections", file=_shown(url))

    async def _request(self, url: str) -> bytes | str:
        """The content of a URL, or the URL to which it redirects."""
        host, port = self._allowed(url)
        parts = urlsplit(url)
        address = await _public_address(host, port, url)
        numeric = f"[{address}]" if ":" in address else address
        target = parts._replace(netloc=f"{numeric}:{port}", fragment="").geturl()
        named = f"[{host}]" if ":" in host else host
        headers = {"Host": named if port == _PORTS[parts.scheme] else f"{named}:{port}"}
        stream = self._client().stream(
            "GET", target, headers=headers, extensions={"sni_hostname": host}
        )
        async with stream as response:
            if response.has_redirect_location:
                return urljoin(url, response.headers["Location"])
            if response.status_code != 200:
                reason = f"the server responded with {response.status_code}"
                raise ImageError(reason, file=_shown(url))
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > self._options.max_url_bytes:
                    reason = f"more than {self._options.max_url_bytes} bytes"
                    raise ImageError(reason, file=_shown(url))
            return bytes(content)

    def _client(self) -> httpx.AsyncClient:
        import httpx

        if self._opened is None:
            # No proxy of the environment: it would contact hosts that were not checked.
            self._opened = httpx.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                # A connection is that of one name; the pool knows addresses only.
                limits=httpx.Limits(max_keepalive_connections=0),
                timeout=self._options.url_timeout,
                headers={"User-Agent": "cnclip", "Accept": "image/*,*/*;q=0.5"},
            )
        return self._opened

    def _allowed(self, url: str) -> tuple[str, int]:
        """The host and port of a URL, if they are allowed."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").encode("idna").decode(), parts.port
        except (UnicodeError, ValueError) as error:
            raise ImageError("not a URL", file=_shown(url)) from error
        if parts.scheme not in _PORTS or not host or parts.username or parts.password:
            reason = "expected an http or https URL without a password"
            raise ImageError(reason, file=_shown(url))
        port = port or _PORTS[parts.scheme]
        is_usual = port == _PORTS[parts.scheme]
        for known in self._hosts:
            name, _, known_port = known.partition(":")
            matches = (
                name == "*" or name == host or (name.startswith("*.") and host.endswith(name[1:]))
            )
            if matches and (known_port == str(port) if known_port else is_usual):
                return host, port
        reason = "the server fetches nothing from this host and port"
        raise ImageError(reason, file=_shown(url))


async def _public_address(host: str, port: int, url: str) -> str:
    """An address of a host; all of its addresses must be public."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    if not addresses or not all(map(is_public, addresses)):
        raise ImageError("a host in a private network", file=_shown(url))
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is of the public internet: not private, link-local, or reserved."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        # Addresses that a gateway turns into those of IPv4.
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _shown(url: str) -> str:
    return printable(hide_secrets(url))[:200]
