"""What runs on a workstation: model import, quantisation, accuracy, cost, search, tables."""
