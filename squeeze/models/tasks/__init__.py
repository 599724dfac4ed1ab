"""What models do: one class per task, found by name in the registry."""
