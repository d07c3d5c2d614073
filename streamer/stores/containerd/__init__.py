"""Images, layers and containers of a running containerd, asked over its socket: see `store`."""
