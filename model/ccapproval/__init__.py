"""Trains, exports and measures the credit card approval model."""

__version__ = "0.1.0"
