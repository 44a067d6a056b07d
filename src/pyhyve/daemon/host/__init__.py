"""The host as guests and clients see it: processors, memory, firmware tables. Reads /proc and /sys, knows no driver."""
