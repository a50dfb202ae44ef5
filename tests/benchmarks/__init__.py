"""Measurements that take long and prove nothing by passing: run by hand, never by pytest."""
