"""Learns masks by gradient descent on mask logits, for `patch-joint`, `patch-tile` and `maskllm`."""
