"""The PC's fixed devices: interrupt controllers, timers, clock, keyboard controller, power management."""
