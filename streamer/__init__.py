"""streamer: container file systems as archives, made while they are sent.

How a request becomes bytes (read along, top to bottom):

    cli, web          what is wanted: a command or a request, checked
      stores          what there is: layers, images, containers as plain records        (metadata only)
      export.plan_*   what will be sent: a frozen ExportPlan                            (errors have a status here)
    export.Exporter   `async with exporter.open(plan) as stream: async for chunk in stream`
      one thread      owned by the service, not by the request:
        drivers       a snapshot to mounts                                              (values)
        mounts        mounts to a leased directory descriptor                           (detached, invisible, read-only)
        changeset     walk | compare | an overlay's upper    -> nodes and changes
        export.pack   nodes and changes                      -> archive members
        tar           members                                -> chunks of 256 KiB to 1 MiB
        export        [compress] -> verify -> pipe
    web.respond       the only place that writes a body; cli.output the only one that writes a file where it is run
    sinks             into object storage or a file: parts and ranges, several at a time; visible only when complete
    jobs              the same as durable jobs: queued, resumed by the next process, ended once

And how an image comes into being without a container:

    context           what a builder is given: directories, archives, URLs, git repositories; files, and their hashes
    build             a Dockerfile without RUN, or one COPY: language -> stages -> steps; each is a layer, made of the
                      picked files while the embedded store takes it in, or found in its cache

Leaving the block ends the thread's work at its next chunk; its `with` blocks release leases and descriptors.
A failure crosses the pipe as an exception: no stream ends cleanly that is not whole.

Around it, in a service: `entrance` (who gets in: `access` has tokens and scopes, `web` TLS and limits), `systemd`, and
what is told of it: `log`, `metrics`, `tracing`, `lag`.

Imports go one way: cli, service -> web -> build -> jobs -> sinks, context -> export -> drivers, stores -> mounts,
changeset, tar -> oci, access, database, pace -> errors.
"""

__version__ = "0.1.0"
