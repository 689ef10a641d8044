"""Label archives, manifests, conversion, health, the phantom."""
