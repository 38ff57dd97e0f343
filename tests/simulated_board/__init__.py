"""A simulated board: sysfs tree, power meter, marker line and times of a measured profile (docs/simulated_board.md)."""
