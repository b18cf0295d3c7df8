from jaxprop.version import __version__, versions


def test_versions():
    found = versions()
    assert {"python", "jax", "jaxlib", "numpy", "orbax-checkpoint"} <= set(found)
    assert found["jaxprop"] == __version__
