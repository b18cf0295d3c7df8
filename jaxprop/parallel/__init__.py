"""Several devices: the mesh, and what goes where on it."""
