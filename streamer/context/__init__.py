"""Build contexts: what a builder is sent, and what COPY and ADD take from it.

`tree` is a directory tree to take files from, with the hash of each; `pick` finds the sources of one instruction in it.
"""
