"""A body through a transport that encrypts: what is sent must pass it, so that it is held back there."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from streamer.web.outlet import Outlet, Parts


class SecuredOutlet(Outlet):
    """For TLS. Of a client that does not read, one piece and the buffers of the transport below wait here."""

    NOTHING: ClassVar[int] = 1
    """asyncio's TLS pauses a writer at the mark already, and with 0 would do so with nothing left to wait for."""

    async def _send(self, parts: Parts) -> None:
        self._transport.set_write_buffer_limits(high=self.NOTHING, low=0)
        self._since = self._loop.time()
        try:
            for part in parts:
                if self._transport.is_closing():
                    break
                self._transport.write(part)
            await self._request.writer.drain()
        finally:
            self._went_on()
            self._transport.set_write_buffer_limits()
        if self._transport.is_closing():  # which ends the waiting without a word
            raise ConnectionResetError("the client is gone")
        self._written += sum(map(len, parts))
        await asyncio.sleep(0)  # a client as fast as its export must not have the event loop for itself

    def _wake(self) -> None:
        pass  # the transport tells the waiting itself

    def _release(self) -> None:
        pass
