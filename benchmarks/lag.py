"""Lag in three parts, together or alone: `python -m benchmarks.lag [simulated] [live] [held]`."""

import sys

from benchmarks import lag_held, lag_live, lag_simulated

PARTS = {"simulated": lag_simulated.main, "live": lag_live.main, "held": lag_held.main}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
