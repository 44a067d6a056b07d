"""What people type with."""
