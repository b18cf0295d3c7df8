"""What a compiled train step takes of a device's memory, before it runs. Pure."""

from jaxprop.train.memory.predict import Buffer, Memory, predict

__all__ = ["Buffer", "Memory", "predict"]
