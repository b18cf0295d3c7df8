"""Training on several devices: the mesh, shardings, and placement of arrays."""
