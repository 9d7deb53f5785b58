"""From messages to a prompt, and from tokens back to meaning; no engine, no IO."""
