"""The vocabulary of images as pure values: digests, references, configurations, manifests. No files, no I/O."""
