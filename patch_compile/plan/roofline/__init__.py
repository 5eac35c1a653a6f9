"""Microseconds of linears and whole models on cards that are not here, by bytes, products and instructions."""
