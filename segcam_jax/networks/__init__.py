"""What a name on a command line means: a network, a layer, a class, a region, an image."""
