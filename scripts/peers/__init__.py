"""The same training steps in jaxprop and in other libraries, one module a library; `scripts/peers.py` runs them."""
