"""Images from Dockerfiles without RUN: the language, what each instruction does to a configuration, and the builder.

The grammar is the classic builder's (Docker 20.10 to 28 with `DOCKER_BUILDKIT=0`); what only BuildKit knows is refused
by name.

script      the text as logical lines           splitting   a line as words, flags, JSON
instruction the instructions, plain values      parsing     a line as an instruction
dockerfile  a whole file: stages                expansion   `$NAME` and `${NAME:-…}`
arguments   ARG and --build-arg                 runtime     an image's runtime configuration
changes     what instructions make of it
"""
