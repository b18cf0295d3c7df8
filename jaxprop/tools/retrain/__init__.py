"""`jaxprop retrain`: a challenger is trained on old and new data, and takes the champion's place if it is better."""

from jaxprop.tools.retrain.retrain import Request, Retrained, retrain

__all__ = ["Request", "Retrained", "retrain"]
