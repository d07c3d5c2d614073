"""Trees and the differences between trees, read and written through directory descriptors only.

`walk` lists a tree, `content` reads a file of it; `compare` tells two trees apart, `overlay` reads an overlay's upper
directory as changes; `layers` looks things up in a stack of layer directories without a mount, `merge` walks one;
`apply` writes archive members onto a tree; `patterns` decides what belongs. No path string is ever resolved behind
the root's descriptor.
"""
