"""The model store: content-addressed blobs, manifests, names, formats and the sources models come from."""
