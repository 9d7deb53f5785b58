"""Shapes on the wire: parse and render, no decisions, no IO."""
