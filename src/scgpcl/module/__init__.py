"""The network that the model trains."""

from scgpcl.module._module import SCGPCLModule

__all__ = ["SCGPCLModule"]
