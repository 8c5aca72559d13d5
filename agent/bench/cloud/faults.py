"""A cloud that does not do what it should: what a vehicle's uplink must live with.

Both faults are of uploads only: questions, the page and a repository are answered as always.
"""

import dataclasses

from aiohttp import hdrs, web

from agent.bench.cloud.answers import Handler, refuse


@dataclasses.dataclass
class CloudFaults:
    """Switches; they may be changed while the cloud serves.

    Attributes:
        status: what every upload is answered in place of being taken; 0: it is taken.
        lost_ack: an upload is taken and made durable, and then the connection breaks before the
            sender can know.
        injured: how many uploads that concerned.
    """

    status: int = 0
    lost_ack: bool = False
    injured: int = 0

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """To be put inside of the one that words errors."""
        if request.method != hdrs.METH_PUT or not (self.status or self.lost_ack):
            return await handler(request)
        self.injured += 1
        if self.status:
            if self.status >= 400:
                text = "this bench was told to answer so"
                refuse(self.status, "bench", text, close=True)
            # The body is not read, so the connection cannot go on.
            response = web.Response(status=self.status)
            response.force_close()
            return response
        # What is refused is not taken, so that answer goes out.
        answer = await handler(request)
        if request.transport is not None:
            request.transport.abort()
        return answer
