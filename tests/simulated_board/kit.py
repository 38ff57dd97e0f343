"""What `planner prepare` does with Rockchip's toolkit, with the emulated library's own file format."""

from dataclasses import replace
from pathlib import Path

from piqi_runtime.bundle import add_files, load_bundle
from piqi_runtime.partition import Partition
from simulated_board.build import rknn_helpers

TARGET = "rk3399pro"


def prepared(partition: Partition, folder: Path) -> Partition:
    """The partition with the file that the board's NPU loads."""
    path = folder / f"{partition.first_layer}_{partition.last_layer}.rknn"
    if not path.exists():
        rknn_helpers.write_network(partition, path, TARGET)
    return replace(partition, vendor_files={TARGET: path})


def prepare(bundle: Path, folder: Path) -> int:
    """Adds the files of all partitions to a bundle or kit; how many these are."""
    loaded = load_bundle(bundle, kits=True)
    for first, last in loaded.ranges:
        file = f"vendor/{TARGET}/{first}_{last}.rknn"
        path = prepared(loaded.partition(first, last), folder).vendor_files[TARGET]
        add_files(loaded.root, {file: path}, vendor={(first, last): {TARGET: file}})
    return len(loaded.ranges)
