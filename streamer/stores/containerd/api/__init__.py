"""containerd's API, as much of it as is used here: `.proto` files written by hand, the rest made by `make stubs`."""
