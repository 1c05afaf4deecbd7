"""Recipes. Import this before torch: OpenMP reads how it is to wait when torch is loaded.

A thread that waits for others spins, by default for milliseconds. On cores that other processes
want too, it spins away the time that the others need: two threads beside one busy process took more
than three times as long as alone. Threads that spin not at all (`OMP_WAIT_POLICY=passive`) are
fastest on shared cores, and took a third longer on idle ones. The count below lies between.
"""

import os

SPINS = "5000"

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = SPINS
