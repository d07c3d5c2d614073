"""Images from Dockerfiles without RUN: the language, what each instruction does to a configuration, and the builder.

The grammar is the classic builder's (Docker 20.10 to 28 with `DOCKER_BUILDKIT=0`); what only BuildKit knows is refused
by name.

script      the text as logical lines           splitting   a line as words, flags, JSON
instruction the instructions, plain values      parsing     a line as an instruction
dockerfile  a whole file: stages                expansion   `$NAME` and `${NAME:-…}`
arguments   ARG and --build-arg                 runtime     an image's runtime configuration
changes     what instructions make of it        state       where a stage stands
order       what is wanted                      contexts    files to copy, and the Dockerfile
preparation bases and triggers, checked         builder     stages and steps, from the cache or made
steps, keys one step, and its key in the cache  building    all of it, one after the other
workshop    where steps become images           placing     COPY and ADD as the members of a layer
view        an image under a new layer          packed      archives that ADD unpacks
directories WORKDIR as a layer                  remote      what ADD fetches
owners      --chown                             progress    what is told of a build
copying     one COPY or ADD without a file
"""
