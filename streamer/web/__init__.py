"""The HTTP face: the only package that knows aiohttp.

routes    the table of routes: path, handler, parameters, documentation; the router and `/openapi.json` both read it
respond   the only place that answers with an archive, whole or a part, and the only one that may break it off
outlet    how a body leaves, with an eye on clients that take nothing: through the transport, or direct (past it)
server    listening: addresses (and which are refused), sockets, tls, connection; limits on what one client may take
callers   who asks; permitted: the stores as a caller's scope shows them; origin: whom a service on loopback answers
observed  request IDs, the access log, spans
lengths   whether an archive is outlined first; conditional, ranges, digesting: what RFC 9110 and 9530 then allow
builds    images made for clients; copies, contexts: parts of that; workplace, slots: where, and how many at once
problems  errors to problem+json, and the one table of status codes
"""
