"""Where images, layers and containers are found; each store is a package or module that implements `base.Store`."""
