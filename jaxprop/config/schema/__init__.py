"""The configuration's sections as frozen pydantic models, one file a section. Imports no jax."""
