"""Partitions in the form that a vendor's NPU library loads, made and compared with the vendor's own toolkit."""
