"""Searches for Pareto-optimal run configurations under accuracy floors."""
