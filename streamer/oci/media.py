"""Media types of the OCI image-spec and of Docker's schema 2, and limits on documents that come from outside."""

from __future__ import annotations

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
TAR = "application/x-tar"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
"""What the media types of layers begin with, whatever their compression."""
NOT_DISTRIBUTABLE = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)
"""… of those that are fetched from elsewhere (`urls`), and that most layouts do not hold."""
ENCRYPTED = "+encrypted"
"""What those of ocicrypt end in."""

INDEXES = frozenset({INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({CONFIG, DOCKER_CONFIG})

MAX_MANIFEST = 4 << 20
MAX_CONFIG = 8 << 20
MAX_INDEX_DEPTH = 3
MAX_DESCRIPTORS = 10_000
MAX_IMAGES = 1_000
"""In one archive; an OCI layout counts an image once for each of its names."""
MAX_NAMES = 10_000
"""Names of the images of one docker-archive, all together."""
MAX_DOCUMENTS = 64 << 20
"""Bytes of all manifests and configurations of one archive."""

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
REFERENCE_TYPE = "vnd.docker.reference.type"
"""BuildKit's: on the descriptors of attestations, which lie beside images in an index."""
