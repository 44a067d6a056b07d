"""USB host controllers. May import what `devices` may."""
