"""Neural network trained by the model."""

from scgpcl.module._module import SCGPCLModule

__all__ = ["SCGPCLModule"]
