"""Images whose objects are to be found, without labels: what is predicted must fit the image as it is on disk."""

from __future__ import annotations
