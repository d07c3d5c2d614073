"""Docker's data-root, read without its daemon: images, containers and layers of the graph drivers overlay2 and vfs.

    image/DRIVER/repositories.json             names
    image/DRIVER/imagedb/content/sha256/ID     configurations of images
    image/DRIVER/layerdb/sha256/CHAIN/         diff, cache-id, parent, tar-split.json.gz: one directory for each layer
    image/DRIVER/layerdb/mounts/CONTAINER/     mount-id, init-id, parent
    containers/ID/config.v2.json               containers
    overlay2/ID/diff, overlay2/ID/lower        what layers and containers hold (vfs: vfs/dir/ID, whole trees)

All of it is written by renaming, except for the three files of `mounts`; nothing in it locks out other processes, nor
is anything locked here. dockerd renames a layer's directory in layerdb, and marks a container dead, before it deletes
the first of its files (moby: layer/filestore.go, daemon/delete.go). This is what the end checks rely on.
"""
