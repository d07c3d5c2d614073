"""The HTTP face: the only package that knows aiohttp.

routes    the table of routes: path, handler, parameters, documentation; the router and `/openapi.json` both read it
respond   the only place that writes a streamed body, and the only one that may break it off
problems  errors to problem+json, and the one table of status codes
"""
