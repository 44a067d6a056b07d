"""The test driver: a host and domains that exist in memory only, for users' own tests."""
