"""The HTTP face: the only package that knows aiohttp.

routes    the table of routes: path, handler, parameters, documentation; the router and `/openapi.json` both read it
respond   the only place that answers with an archive, whole or a part, and the only one that may break it off
outlet    how a body leaves: past the transport, with an eye on clients that take nothing
lengths   whether an archive is outlined first; conditional, ranges, digesting: what RFC 9110 and 9530 then allow
problems  errors to problem+json, and the one table of status codes
"""
