from .measures import layer_stepsizes

__all__ = ["layer_stepsizes"]
