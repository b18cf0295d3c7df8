"""The configuration's sections as frozen pydantic models, one file for each section. Imports no jax."""
