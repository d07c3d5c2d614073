"""Build contexts: what a builder is sent, and what COPY and ADD take from it.

`plan` has what all kinds of contexts share: an `ExportPlan`, and the name of the Dockerfile in it. `ignore` reads
`.dockerignore`, `directory` streams a local directory, `incoming` an archive or a Dockerfile that comes in, `generate`
makes a context of texts. `tree` is a directory tree to take files from, with the hash of each, `image` one that is the
file system of an image, with the owners that are `recorded` of it; `pick` finds the sources of one instruction in it.
"""
