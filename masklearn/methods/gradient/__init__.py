"""Mask learning by gradient descent on mask logits, shared by `patch-joint`, `patch-tile` and `maskllm`."""
