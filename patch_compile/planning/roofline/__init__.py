"""Predicts microseconds of linears and whole models from bytes, products and instructions, without the card."""
