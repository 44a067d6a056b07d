"""Damaged images: a clear error or a correct read, never a crash, a hang or much memory."""
