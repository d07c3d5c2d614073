"""Downloading from a running service, as a library: no terminal, no command line, plain async functions.

    async with connect("http://node:8080") as node:
        report = await download(node, archive("container", ["web"]), "web.tar", jobs=4)

address    what names a service: http://, https://, unix:
request    what is asked of it: one archive, whichever service has it
node       a service: connections, answers and their bodies
answer     what an answer's headers say, checked              failure   refusals, and what of them may pass
download   into a file: resumed, verified                     transfer  one version of it, several ranges at once
part       the unfinished file, its lock and its journal      division  what is missing, divided among jobs
credentials  what is shown to it: a token, a certificate
stream     in order into anything that can be written to      verify    SHA-256 of what came, and what the service tells
patience   how long and how often it is tried again           watch     whoever looks on

A file appears only when it is complete. OSError is always the local file system's; whatever the service or the way to
it does wrong is a StreamerError.
"""
