"""Dialects to neutral words and back: one file a dialect, pure, no IO."""
