"""`make bench`: every benchmark in turn; each prints a table with ratios from one run."""

from __future__ import annotations

import sys

from benchmarks import agents, conversion, reinforcement, textbook, training, trials


def main() -> int:
    """Run the benchmarks; returns an exit code."""
    conversion.main()
    training.main()
    trials.main()
    agents.main()
    reinforcement.main()
    textbook.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
