"""Types of weights: numbers of 16 bits, or integers of 8 or 4 bits with scales."""
