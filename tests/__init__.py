"""What must hold before torch is imported, here and in the processes that tests start."""

import os

from resnext.inference.processor import rule_out_amx

# Tiny networks run faster on one thread, and many times so where something else takes a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
rule_out_amx()  # where using it would kill the tests
